"""What a training says about itself: curves, averages over windows of steps, and warnings that name the usual cause."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from components.common import distributed
from components.common.errors import DivergedError
from components.model.objectives import ITM_PRIOR_LOSS

logger = logging.getLogger(__name__)

_SMOOTHED_LINES = 5
_NAMED_KEYS = 8

Metrics = dict[str, float]
Hook = Callable[[int, Metrics], None]


@dataclass
class Window:
    """Losses of the steps since the last line of the curve, left on the device until somebody looks."""

    device: torch.device
    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    keys: list[tuple[int, Sequence[str]]] = field(default_factory=list)
    samples: int = 0
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    waits_for_device: bool = False

    def __post_init__(self) -> None:
        self.waits_for_device = self.device.type != "cpu"

    def add(self, step: int, outputs: Sequence[Mapping[str, Tensor]], norm: Tensor, keys: Sequence[str]) -> None:
        """Take in one optimizer step: outputs of its micro-batches, and the keys of its pairs.

        Raises:
            DivergedError: on CPU at once; on a GPU at the next `flush`, for looking means waiting for the device.
        """
        for name in outputs[0]:
            mean = torch.stack([output[name].float() for output in outputs]).mean()
            self.parts.setdefault(f"train/{name}", []).append(mean)
        self.parts.setdefault("train/grad_norm", []).append(norm.float().to(self.device))
        self.keys.append((step, keys))
        self.samples += len(keys)
        self.steps += 1
        if not self.waits_for_device and not math.isfinite(float(self.parts["train/loss"][-1])):
            self._check(self.parts["train/loss"])

    def flush(self) -> Metrics:
        """Averages over the window and over all processes; the window starts anew.

        Raises:
            DivergedError: a loss of this process was not finite.
        """
        self._check(self.parts["train/loss"])
        names = sorted(self.parts)
        table = torch.stack([torch.stack(self.parts[name]).mean() for name in names])
        means = distributed.mean_over_processes(table).tolist()
        elapsed = max(time.monotonic() - self.started, 1e-9)
        metrics = dict(zip(names, means, strict=True))
        metrics["train/samples_per_second"] = self.samples * distributed.world_size() / elapsed
        metrics["train/data_wait_share"] = min(1.0, self.waited / elapsed)
        metrics["train/seconds_per_step"] = elapsed / max(1, self.steps)
        self.parts, self.keys, self.samples, self.waited, self.steps = {}, [], 0, 0.0, 0
        self.started = time.monotonic()
        return metrics

    def _check(self, losses: Sequence[Tensor]) -> None:
        values = torch.stack(list(losses)).tolist()
        for value, (step, keys) in zip(values, self.keys, strict=True):
            if not math.isfinite(value):
                named = ", ".join(keys[:_NAMED_KEYS]) + (
                    f" and {len(keys) - _NAMED_KEYS} more" if len(keys) > 8 else ""
                )
                raise DivergedError(
                    f"the loss is {value} at step {step} (pairs {named}); lower optim.lr, lengthen "
                    "optim.warmup_steps or set optim.clip (e.g. 1.0), then start again: training goes on from the "
                    "last checkpoint"
                )


class History:
    """The training curve as JSON lines, cut back to the checkpoint on resume so that no step is told twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut_after(self, step: int) -> None:
        """Forget lines of steps after `step`, and a half-written last line."""
        kept = [line for line in self.lines() if line["step"] <= step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(self.path)

    def append(self, step: int, metrics: Metrics) -> None:
        """Add one line and flush it to disk."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[Metrics]:
        """All whole lines."""
        lines: list[Metrics] = []
        if self.path.is_file():
            for text in self.path.read_text().splitlines():
                try:
                    lines.append(json.loads(text))
                except ValueError:
                    break  # the line that a crash cut off; what follows it cannot be trusted
        return lines

    def smoothed(self) -> Metrics:
        """Means of the last lines, without the step: a training's closing figures."""
        last = self.lines()[-_SMOOTHED_LINES:]
        names = {name for line in last for name in line if name != "step"}
        found = {name: [line[name] for line in last if name in line] for name in sorted(names)}
        return {name: sum(values) / len(values) for name, values in found.items()}


class Alarms:
    """Warns, once each, about curves that look like learning and are none.

    Args:
        itc_classes: columns of the contrastive softmax, batch + queue; 0 where there is no ITC.
        patience: steps before anything is said, and steps that a curve must stay put.
    """

    def __init__(self, *, itc_classes: int, patience: int) -> None:
        self._levels = {"train/loss_itm": (ITM_PRIOR_LOSS, 0.004)}
        if itc_classes > 1:
            self._levels["train/loss_itc"] = (math.log(itc_classes), 0.01 * math.log(itc_classes))
        self._patience = patience
        self._since: dict[str, int] = {}
        self._said: list[str] = []

    def __call__(self, step: int, metrics: Metrics) -> None:
        """Look at one line of the curve."""
        for name, (level, tolerance) in self._levels.items():
            value = metrics.get(name)
            if value is None or abs(value - level) > tolerance:
                self._since.pop(name, None)
                continue
            since = self._since.setdefault(name, step)
            if step >= self._patience and step - since >= self._patience and name not in self._said:
                self._said.append(name)
                logger.warning("step %d: %s", step, _MEANING[name].format(value=value, level=level, steps=step - since))


_MEANING = {
    "train/loss_itm": (
        "ITM loss is stuck at {value:.4f}, the score of answering the prior (1 match in 3) whatever the pair, for "
        "{steps} steps. Usually the batch is too small for hard negatives, the learning rate too high for the text "
        "encoder, or texts and images are shuffled against one another; try a larger batch_size or a lower optim.lr."
    ),
    "train/loss_itc": (
        "ITC loss is stuck at {value:.3f}, the score of guessing among batch + queue ({level:.3f}), for {steps} steps. "
        "Usually the learning rate is off, the warm-up too short, or captions do not belong to their images; look "
        "at a few pairs of the dataset (`capfilt dataset show`) and try another optim.lr."
    ),
}
