"""A toy objective, a toy feed, and a training of both that the launcher can start: the loop without the model."""

import argparse
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.common import distributed
from components.common.seeding import key_seed, seed_everything
from components.training.checkpoint import Checkpoints
from components.training.config import TrainConfig
from components.training.engine import Engine, end_process_group, start_process_group
from components.training.loop import Schedule, Training, train
from components.training.outcome import write_failure, write_outcome
from components.training.processes import leave_mark
from components.training.stopping import StopSignal, leave_with_parents
from components.training.watch import History, Metrics

PAIRS = 96
WIDTH = 8


class ToyObjective(nn.Module):
    """A small net with dropout, and a teacher and a ring of features outside the engine's reach."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, WIDTH))
        self.temperature = nn.Parameter(torch.ones(1))
        self.average = [p.detach().clone() for p in self.parameters()]
        self.queue = torch.zeros(7, WIDTH)
        self.pointer = 0
        self._features: list[Tensor] = []

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        out = self.body(batch) / self.temperature
        self._features.append(distributed.all_gather(out))
        teacher = torch.nn.functional.linear(batch, self.average[1]).mean()
        loss = (out - batch.roll(1, 1)).pow(2).mean() + 0.1 * (out @ self.queue.T).pow(2).mean() + 0.1 * teacher.pow(2)
        return {"loss": loss, "loss_toy": loss.detach()}

    @torch.no_grad()
    def after_step(self) -> None:
        for average, parameter in zip(self.average, self.parameters(), strict=True):
            average.lerp_(parameter, 0.1)
        for row in torch.cat(self._features).mean(0, keepdim=True):
            self.queue[self.pointer] = row
            self.pointer = (self.pointer + 1) % len(self.queue)
        self._features = []

    def teacher_state(self) -> dict[str, Tensor]:
        state = {f"average.{i}": value for i, value in enumerate(self.average)}
        return state | {"queue": self.queue, "pointer": torch.tensor(self.pointer)}

    def load_teacher_state(self, state: dict[str, Tensor]) -> None:
        for i, value in enumerate(self.average):
            value.copy_(state[f"average.{i}"])
        self.queue.copy_(state["queue"])
        self.pointer = int(state["pointer"])


class ToyFeed:
    """An endless, seeded stream; the cursor is global, so any number of processes goes on where others stopped."""

    def __init__(self, batch_size: int, consumed: int = 0, poison: int | None = None) -> None:
        self.batch_size, self.consumed, self.poison = batch_size, consumed, poison
        self.waited = 0.0

    def next(self) -> tuple[Tensor, list[str]]:
        start = self.consumed + distributed.rank() * self.batch_size
        rows, keys = [], []
        for index in range(start, start + self.batch_size):
            rng = np.random.default_rng(key_seed("toy", index // PAIRS, index % PAIRS))
            row = rng.standard_normal(WIDTH)
            rows.append(row * (np.nan if index == self.poison else 1.0))
            keys.append(f"pair-{index}")
        self.consumed += self.batch_size * distributed.world_size()
        return torch.tensor(np.stack(rows), dtype=torch.float32), keys

    def state(self) -> dict[str, int]:
        return {"consumed": self.consumed}


def make_slow(engine: Engine, seconds: float) -> None:
    """Let checkpoints take as long as a slow disk would need."""
    save = engine.save

    def slow(*arguments: Any) -> None:
        time.sleep(seconds)
        save(*arguments)

    engine.save = slow  # type: ignore[method-assign]


def run(config: TrainConfig, options: argparse.Namespace, stop: StopSignal) -> None:
    """Train the toy; `kill_at` ends this process by SIGKILL after that step's line is written."""
    work_dir: Path = options.work_dir
    torch.set_num_threads(1)
    start_process_group(config)
    seed_everything(config.seed)
    objective = ToyObjective(0.0 if options.no_dropout else 0.1)
    seed_everything(key_seed(config.seed, distributed.rank()) % 2**31)
    world = distributed.world_size()
    accumulation = config.accumulation
    checkpoints = Checkpoints(work_dir / "checkpoints", keep=config.checkpoint.keep)
    engine = Engine(objective, config, accumulation=accumulation)
    feed, start = ToyFeed(config.batch_size, poison=options.poison), 0
    newest = checkpoints.newest()
    if newest is not None:
        checkpoints.restore(newest, engine, objective)
        start, feed.consumed = newest.state["step"], newest.state["feed"]["consumed"]
    schedule = Schedule.of(config, pairs_per_epoch=PAIRS, global_batch=config.batch_size * accumulation * world)
    history = History(work_dir / "history.jsonl")

    def log(step: int, metrics: Metrics) -> None:
        if distributed.is_main():
            history.append(step, {name: metrics[name] for name in ("train/loss", "train/grad_norm", "train/lr")})
            with contextlib.suppress(BrokenPipeError):
                print(f"step {step}", flush=True)
        if step == options.kill_at and options.kill_rank in (None, distributed.rank()):
            os.kill(os.getpid(), 9)
        time.sleep(options.step_seconds)

    if distributed.is_main():
        history.cut_after(start)
    if options.save_seconds:
        make_slow(engine, options.save_seconds)
    training = Training(engine, objective, feed, schedule, checkpoints, hooks=(log,))
    train(training, stop.install(), start)
    distributed.barrier()
    if distributed.is_main():
        weights = {name: value.double().sum().item() for name, value in engine.state_dict().items()}
        write_outcome(work_dir, {"weights": weights, "queue": objective.queue.double().sum().item(), "start": start})
    engine.close()
    end_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--kill-rank", type=int, help="this process alone")
    parser.add_argument("--poison", type=int)
    parser.add_argument("--no-dropout", action="store_true")
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--save-seconds", type=float, default=0.0)
    options = parser.parse_args()
    stop = StopSignal()
    leave_with_parents(stop)
    leave_mark(options.work_dir)
    try:
        config = TrainConfig.model_validate(json.loads(options.config))
        run(config, options, stop)
    except Exception as error:
        write_failure(options.work_dir, error)
        raise


if __name__ == "__main__":
    main()
