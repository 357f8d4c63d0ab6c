"""Pre-training: ITC + ITM + LM on the mixture of web and human pairs (paper section 3.2)."""

from collections.abc import Sequence
from pathlib import Path

from components.common.contracts import DatasetRef, ModelRef, TrainResult
from components.common.storage import Store
from components.common.tracking import UNTRACKED, Tracker
from components.model.config import BlipConfig
from components.training.config import TrainConfig
from components.training.group import OnLine
from components.training.launch import launch_training
from components.training.spec import DatasetUse, TrainSpec

REVISION = 1
"""Counts up when the same inputs would give another model."""


def run_pretraining(
    datasets: Sequence[tuple[DatasetRef, int]],
    model: BlipConfig,
    config: TrainConfig,
    *,
    tokenizer: str,
    store: Store,
    work_dir: Path,
    init: ModelRef | None = None,
    tracker: Tracker = UNTRACKED,
    label: str = "pretrain",
    on_line: OnLine | None = None,
) -> TrainResult:
    """Pre-train a base model and publish it.

    Args:
        datasets: the mixture; each dataset's pairs count `repeat` times per epoch.
        model: the network, if it starts from scratch.
        config: how it is trained.
        tokenizer: URI of the tokenizer's folder.
        store: where the model goes.
        work_dir: checkpoints and logs; a training that was stopped goes on from there.
        init: start from this base model instead, its momentum encoders and queue included.
        tracker: gets the curve.
        label: what progress is shown under.
        on_line: gets every line of the training's log.

    Raises:
        CapfiltError: why it ended, as the class it was.
    """
    spec = TrainSpec(
        objective="pretrain",
        revision=REVISION,
        label=label,
        config=config,
        datasets=tuple(DatasetUse(ref=ref, repeat=repeat) for ref, repeat in datasets),
        model=None if init else model,
        base=init,
        tokenizer=None if init else tokenizer,
        store=store.uri,
    )
    return launch_training(spec, work_dir=work_dir, tracker=tracker, on_line=on_line)
