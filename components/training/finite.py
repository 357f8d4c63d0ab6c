"""Steps of a loss or gradient that is not finite are not taken, in any process, and no GPU is waited for to see to it.

Whether a step's numbers are finite is itself a number on the device. The optimizer reads it there and leaves weights
and moments as they are; the host reads it when it has arrived: on a CPU at once, on a GPU one step later.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from components.common import distributed


class Veto:
    """What the optimizer is told of each step, and what the loop may ask afterwards."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._norms: list[Tensor] = []
        self._before: tuple[Tensor, torch.cuda.Event] | None = None

    def on(self, losses: Sequence[Tensor]) -> Tensor:
        """1.0 on the device if a loss of this step is not finite in any process, else 0.0. All processes call this."""
        self._before, self._norms = self._arriving(), []
        vetoed = (~torch.stack([loss.detach().float() for loss in losses]).isfinite()).any().float()
        self._last = distributed.highest_of_processes(vetoed)
        return self._last

    def on_norm(self, norm: Tensor) -> None:
        """The same for (a part of) the step's gradient, by its norm, which is equal in all processes.

        Below zero is what DeepSpeed gives for a norm that is not finite.
        """
        if self._last is not None:
            bad = (~norm.detach().isfinite() | (norm.detach() < 0)).reshape(()).to(self._last.device)
            self._norms.append(bad)
            self._last.copy_(torch.maximum(self._last, bad.float()))

    def honest(self, norm: Tensor) -> Tensor:
        """A gradient's norm, not a number where a part of it was none: DeepSpeed would add -1 to the others' norms."""
        if not self._norms:
            return norm
        return norm.masked_fill(torch.stack(self._norms).any().to(norm.device), torch.nan)

    def was_used(self, *, now: bool) -> bool:
        """Whether a step was not taken: the last one, or on a GPU the one before unless `now`, which waits."""
        if self._last is None:
            return False
        if now or not self._last.is_cuda:
            return bool(self._last)
        if self._before is None:
            return False
        number, arrived = self._before
        arrived.synchronize()  # behind it lie the last step's forward and backward pass: nothing is left to wait for
        return bool(number)

    def _arriving(self) -> tuple[Tensor, torch.cuda.Event] | None:
        """The last step's number on its way to the host."""
        if self._last is None or not self._last.is_cuda:
            return None
        number = torch.empty_like(self._last, device="cpu", pin_memory=True).copy_(self._last, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return number, arrived
