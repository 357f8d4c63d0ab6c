"""From a spec to a trained model: checks, the process group, and the curve on its way to tracker and progress bar."""

import logging
from pathlib import Path
from typing import Any

from components.common.contracts import TrainResult
from components.common.progress import Progress
from components.common.storage import open_store
from components.common.tracking import UNTRACKED, Tracker
from components.inference.settling import settled
from components.training.engine import check_compiler
from components.training.gathering import gathered
from components.training.group import SPEC_FILE, OnLine, run_group
from components.training.nodes import placement
from components.training.spec import TrainSpec

logger = logging.getLogger(__name__)


def launch_training(
    spec: TrainSpec, *, work_dir: Path, tracker: Tracker = UNTRACKED, on_line: OnLine | None = None
) -> TrainResult:
    """Train in a process group of its own; started again in the same folder, a training goes on where it stopped.

    Args:
        spec: what is trained.
        work_dir: checkpoints, log and exported model; kept until the caller removes it.
        tracker: gets the curve.
        on_line: gets every line of the group's output; by default they go to this module's log.

    Raises:
        CapfiltError: the error that ended the training, as the class it was (DivergedError, PreemptedError, …).
    """
    spec = _settled(spec)
    check_compiler(spec.config)
    work_dir.mkdir(parents=True, exist_ok=True)
    path = work_dir / SPEC_FILE
    path.write_text(spec.model_dump_json(indent=1))
    watcher = _Watcher(spec.label, tracker)
    try:
        with gathered(spec, placement(spec.config.launch)) as membership:
            outcome = run_group(
                "components.training",
                ["--spec", str(path.resolve())],
                spec.config.launch,
                work_dir=work_dir,
                on_line=on_line or _to_log,
                on_point=watcher.point,
                membership=membership,
            )
    finally:
        watcher.close()
    return TrainResult.model_validate(outcome.result)


def _settled(spec: TrainSpec) -> TrainSpec:
    """The training in the arithmetic of its store: every process, and every later start, must have the same."""
    if spec.config.precision != "auto":
        return spec
    config = settled(spec.config, open_store(spec.store), "training")
    return spec.model_copy(update={"config": config})


def _to_log(line: str) -> None:
    """A line of the training's own log at the level it starts with, anything else (a library's print) as it is."""
    level, _, rest = line.partition(" ")
    if level in ("INFO", "WARNING", "ERROR"):
        logger.log(getattr(logging, level), "%s", rest)
    else:
        logger.info("%s", line)


class _Watcher:
    """Takes points of the curve to the tracker and into a progress bar that counts pairs."""

    def __init__(self, label: str, tracker: Tracker) -> None:
        self._label, self._tracker = label, tracker
        self._progress: Progress | None = None

    def point(self, point: dict[str, Any]) -> None:
        """One line of the curve: step, total steps, pairs per step, metrics."""
        step, total, batch, metrics = point["step"], point["total"], point["batch"], point["metrics"]
        if self._progress is None:
            self._progress = Progress(total * batch, "pairs", self._label, done=step * batch)
        losses = {name.removeprefix("train/"): value for name, value in metrics.items() if "/loss" in name}
        self._progress.update(step * batch, step=f"{step}/{total}", **losses)
        self._tracker.log_metrics(metrics, step)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.close()
