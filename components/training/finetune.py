"""Finetuning of captioner (LM), filter (ITC + ITM) and VQA, separately, from the same base model (paper 3.3, 5.3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.common.contracts import DatasetRef, ModelRef, TrainResult
from components.common.storage import Store
from components.common.tracking import UNTRACKED, Tracker
from components.training.config import TrainConfig
from components.training.group import OnLine
from components.training.launch import launch_training
from components.training.spec import DatasetUse, TrainSpec

REVISION = 1
"""Counts up when the same inputs would give another model."""


def run_finetuning(
    role: Literal["captioner", "filter", "vqa"],
    base: ModelRef,
    datasets: Sequence[tuple[DatasetRef, int]],
    config: TrainConfig,
    *,
    store: Store,
    work_dir: Path,
    tracker: Tracker = UNTRACKED,
    label: str | None = None,
    on_line: OnLine | None = None,
) -> TrainResult:
    """Finetune a captioner or a filter on human captions, or a VQA model on questions, and publish it.

    Args:
        role: which of them.
        base: the pre-trained model that all start from; any BLIP folder will do.
        datasets: human pairs, or questions (`components.data.vqa`), with how often each dataset counts per epoch.
        config: how it is trained.
        store: where the model goes.
        work_dir: checkpoints and logs; a training that was stopped goes on from there.
        tracker: gets the curve.
        label: what progress is shown under; the role by default.
        on_line: gets every line of the training's log.

    Raises:
        CapfiltError: why it ended, as the class it was.
    """
    spec = TrainSpec(
        objective=role,
        revision=REVISION,
        label=label or role,
        config=config,
        datasets=tuple(DatasetUse(ref=ref, repeat=repeat) for ref, repeat in datasets),
        base=base,
        store=store.uri,
    )
    return launch_training(spec, work_dir=work_dir, tracker=tracker, on_line=on_line)
