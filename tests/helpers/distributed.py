"""Real process groups for tests: the toy training started by the product's own launcher."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.training.config import TrainConfig
from components.training.group import OnLine, run_group
from components.training.outcome import Outcome


def toy_config(**over: Any) -> TrainConfig:
    """A training of the toy in 12 steps, with a checkpoint every 4 and a line of curve every step."""
    base: dict[str, Any] = {
        "steps": 12,
        "batch_size": 4,
        "optim": {"lr": 0.01, "warmup_steps": 3, "clip": 1.0},
        "checkpoint": {"every_steps": 4, "keep": 2},
        "log_every": 1,
        "launch": {"processes": 1, "threads": 1},
    }
    return TrainConfig.model_validate(base | over)


def run_toy(
    config: TrainConfig, work_dir: Path, extra: Sequence[str] = (), *, on_line: OnLine | None = None
) -> Outcome:
    """Run the toy training in its own process group."""
    arguments = ["--config", config.model_dump_json(), "--work-dir", str(work_dir), *extra]
    return run_group("tests.helpers.toy_training", arguments, config.launch, work_dir=work_dir, on_line=on_line)


def curve(work_dir: Path) -> list[dict[str, float]]:
    """The lines of a training's curve."""
    return [json.loads(line) for line in (work_dir / "history.jsonl").read_text().splitlines()]
