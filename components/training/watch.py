"""What a training says about itself: curves, averages over windows of steps, and warnings that name the usual cause."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.common import distributed
from components.model.objectives import ITM_PRIOR_LOSS

logger = logging.getLogger(__name__)

_FEW_NEGATIVES = 0.5
_SMOOTHED_LINES = 5
_NAMED_KEYS = 8
_REMEDY = (
    "lower optim.lr, lengthen optim.warmup_steps or set optim.clip (e.g. 1.0), then start again: training goes on from "
    "the last checkpoint"
)

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

    def add(self, step: int, outputs: Sequence[Mapping[str, Tensor]], norm: Tensor, keys: Sequence[str]) -> None:
        """Take in one optimizer step: outputs of its micro-batches, the gradient's norm, the keys of its pairs."""
        for name in outputs[0]:
            mean = torch.stack([output[name].float() for output in outputs]).mean()
            self.parts.setdefault(f"train/{name}", []).append(mean)
        self.parts.setdefault("train/grad_norm", []).append(norm.float().to(self.device))
        self.keys.append((step, keys))
        self.samples += len(keys)
        self.steps += 1

    def flush(self) -> Metrics:
        """Averages over the window and over all processes; the window starts anew."""
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

    def diverged(self) -> str:
        """Why a step was not taken, with the pairs of the process whose loss it was. All processes call this."""
        told = [text for text in distributed.gather_objects(self._not_finite("train/loss")) if text is not None]
        if told:
            return f"the loss is {told[0]}; {_REMEDY}"
        return f"the gradient's norm is {self._not_finite('train/grad_norm')}, though the loss is finite; {_REMEDY}"

    def _not_finite(self, name: str) -> str | None:
        """The first value of the window that is not finite, with its step and pairs."""
        for value, (step, keys) in zip(torch.stack(self.parts[name]).tolist(), self.keys, strict=True):
            if not math.isfinite(value):
                more = f" and {len(keys) - _NAMED_KEYS} more" if len(keys) > _NAMED_KEYS else ""
                return f"{value} at step {step} (pairs {', '.join(keys[:_NAMED_KEYS])}{more})"
        return None


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
        patience: steps before anything is said of a loss that stays put, and that it must stay put.
    """

    def __init__(self, *, itc_classes: int, patience: int) -> None:
        self._rules = {
            "train/loss_itm": _Rule(ITM_PRIOR_LOSS, 0.004, patience),
            "train/itm_negatives": _Rule(0.0, _FEW_NEGATIVES, 0),
        }
        if itc_classes > 1:
            self._rules["train/loss_itc"] = _Rule(math.log(itc_classes), 0.01 * math.log(itc_classes), patience)
        self._since: dict[str, int] = {}
        self._said: set[str] = set()

    def __call__(self, step: int, metrics: Metrics) -> None:
        """Look at one line of the curve."""
        for name, rule in self._rules.items():
            value = metrics.get(name)
            if value is None or abs(value - rule.level) > rule.tolerance:
                self._since.pop(name, None)
                continue
            steps = step - self._since.setdefault(name, step)
            if min(step, steps) >= rule.patience and name not in self._said:
                self._said.add(name)
                logger.warning("step %d: %s", step, _MEANING[name].format(value=value, level=rule.level, steps=steps))


class _Rule(NamedTuple):
    """What a figure must not stay at, how near that is, and for how many steps."""

    level: float
    tolerance: float
    patience: int


_MEANING = {
    "train/itm_negatives": (
        "only {value:.0%} of the wrong pairs that matching (ITM) learns from could be drawn: a batch holds little but "
        "one image, so that accepting everything is learned. Raise batch_size, or look for the same image again and "
        "again in the data (`capfilt dataset show`)."
    ),
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
