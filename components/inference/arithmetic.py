"""Where and how precisely the models calculate."""

import contextlib
from types import TracebackType
from typing import TypeVar

import torch
from torch import nn

from components.common.precision import AnyPrecision, Precision
from components.inference.probe import fast_precision

_NARROW: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
M = TypeVar("M", bound=nn.Module)


def pick_device(slot: int = 0) -> torch.device:
    """The GPU of a worker, the workers going round; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", slot % torch.cuda.device_count())


class Arithmetic:
    """Device and precision, and the context in which a model is called: no gradients, autocast where it is asked for.

    Not re-entrant across threads: one thread calls the models.

    Args:
        device: where the models are.
        precision: of what they calculate. fp16 is for GPUs before Ampere, which have no bf16.
        fp32_weights: with bf16, keep the weights in fp32, and with them norms and sums: twice the memory, and what
            training sees. With fp16 they always are: sums of a deep network leave its range.
    """

    def __init__(self, device: torch.device, precision: AnyPrecision, *, fp32_weights: bool = False) -> None:
        self.device = device
        self._fp32_weights = fp32_weights
        self.precision: Precision = fast_precision() if precision == "auto" else precision
        self._stack: contextlib.ExitStack | None = None

    @property
    def weights(self) -> torch.dtype:
        """What weights are kept in."""
        narrow = self.precision == "bf16" and not self._fp32_weights
        return _NARROW[self.precision] if narrow else torch.float32

    def place(self, model: M) -> M:
        """Put a model on the device, for inference."""
        return self.at_rest(model.to(dtype=self.weights))

    def at_rest(self, model: M) -> M:
        """Put a model on the device, for inference, its numbers as they are."""
        return model.to(device=self.device).eval().requires_grad_(False)

    def __enter__(self) -> "Arithmetic":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(torch.inference_mode())
        if self.precision in _NARROW:
            self._stack.enter_context(torch.autocast(self.device.type, dtype=_NARROW[self.precision]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            self._stack.close()
            self._stack = None
