"""The training loop on one screen. It knows no tracker, no store and no model: hooks, a feed and an objective do."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from components.common import distributed
from components.common.errors import DivergedError, PreemptedError
from components.training.checkpoint import Checkpoints
from components.training.config import TrainConfig
from components.training.engine import Engine
from components.training.schedule import learning_rate
from components.training.stopping import StopSignal
from components.training.watch import Hook, Window

if TYPE_CHECKING:
    from components.model.learning import Objective

logger = logging.getLogger(__name__)


class Feed(Protocol):
    """Where batches come from."""

    waited: float

    def next(self) -> tuple[Any, Sequence[str]]:
        """The next micro-batch on the device, and the keys of its pairs."""

    def state(self) -> dict[str, Any]:
        """Where the next batch starts, in plain values, equal in all processes."""


@dataclass(frozen=True)
class Schedule:
    """How long a training is and how its learning rate runs."""

    total_steps: int
    steps_per_epoch: float
    config: TrainConfig

    @classmethod
    def of(cls, config: TrainConfig, *, pairs_per_epoch: int, global_batch: int) -> "Schedule":
        """The schedule of a config on a data mixture; `global_batch` counts all processes and micro-batches."""
        per_epoch = pairs_per_epoch / global_batch
        steps = config.steps or math.ceil((config.epochs or 0) * per_epoch)
        return cls(total_steps=max(1, steps), steps_per_epoch=per_epoch, config=config)

    def lr(self, step: int) -> float:
        """Learning rate of a step."""
        total, per_epoch = self.total_steps, self.steps_per_epoch
        return learning_rate(self.config.optim, step, total_steps=total, steps_per_epoch=per_epoch)

    def is_due(self, step: int, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens after `step` steps."""
        return every > 0 and (step % every == 0 or step == self.total_steps)


@dataclass(frozen=True)
class Training:
    """Everything one training is made of; `note` is kept in its checkpoints."""

    engine: Engine
    objective: "Objective"
    feed: Feed
    schedule: Schedule
    checkpoints: Checkpoints
    hooks: Sequence[Hook] = ()
    note: Mapping[str, Any] = field(default_factory=dict)


def train(training: Training, stop: StopSignal, start: int = 0) -> None:
    """Train from step `start` to the end of the schedule.

    Raises:
        DivergedError: a loss was not finite, or the gradient; the weights were left as they were before that step.
        PreemptedError: stopped by a signal, with a checkpoint saved.
    """
    engine, schedule, window = training.engine, training.schedule, Window(training.engine.device)
    for step in range(start, schedule.total_steps):
        outputs, keys = [], list[str]()
        for _ in range(engine.accumulation):
            batch, names = training.feed.next()
            outputs.append(engine.forward_backward(batch))
            keys += names
        lr = schedule.lr(step)
        window.add(step + 1, outputs, engine.update(lr), keys)
        stopping = distributed.any_process(stop.requested)
        saving = stopping or schedule.is_due(step + 1, schedule.config.checkpoint.every_steps)
        telling = saving or schedule.is_due(step + 1, schedule.config.log_every)
        if engine.refused(now=telling):
            raise DivergedError(window.diverged())
        training.objective.after_step()
        if telling:
            window.waited = training.feed.waited
            training.feed.waited = 0.0
            metrics = window.flush() | {"train/lr": lr, "train/epoch": (step + 1) / schedule.steps_per_epoch}
            for hook in training.hooks:
                hook(step + 1, metrics)
        if saving:
            stop.acknowledge()
            if stopping:
                logger.info("stopping: saving a checkpoint after step %d", step + 1)
            loss = metrics["train/loss"]
            state = {**training.note, "step": step + 1, "feed": training.feed.state(), "loss": loss}
            training.checkpoints.save(engine, training.objective, state)
        if stopping:
            done = f"stopped by a signal after step {step + 1} of {schedule.total_steps}"
            raise PreemptedError(f"{done}; state is saved, and the same command goes on from there")
