"""Bootstraps that MLflow is told of through the project's own code, without the hours in which they would be made."""

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from components.common.contracts import (
    BootstrapResult,
    Calibration,
    Comparison,
    DatasetRef,
    Interval,
    ModelRef,
    ModelRole,
    PurityPoint,
    RawData,
    RoundResult,
    Uncertainty,
)
from components.common.seeding import digest_of
from components.common.storage import open_store
from components.common.tracking import open_tracker
from components.config import BootstrapConfig, load_config
from components.data.manifest import Manifest
from components.data.records import Counts, Parent
from components.data.shardtable import TableRecord
from components.pages.views import pages
from flows.layout import parent_run, scratch_folder, settings
from flows.reporting import track
from flows.stages import BootstrapContext

RECALL, CIDER = "eval/retrieval/mean_recall", "eval/caption/cider"


def tell_of(store: Path, figures: Sequence[tuple[float, float]], overrides: Sequence[str] = ()) -> BootstrapResult:
    """Tell MLflow's file in a store of a bootstrap of the sample with settings of its own.

    Args:
        figures: retrieval recall and CIDEr of each round; the best recall wins.
    """
    plain = ["encoders.vision=null", "pretrain.optim.freeze=[]", "capfilt.calibrated=null", "capfilt.threshold=0.5"]
    config = load_config(None, [f"store={store}", *plain, *overrides])
    place, scratch = open_store(config.store), scratch_folder(config)
    run = parent_run(config)
    tracker = open_tracker(config.tracking_uri(scratch), **run)
    tracker.tell_apart(run["run_name"], settings(config))
    context = BootstrapContext(config, place, tracker, scratch)
    result = _result(config, Path(place.uri), figures).model_copy(
        update={
            "mlflow_uri": tracker.uri,
            "mlflow_run": tracker.run_id,
            "mlflow_page": tracker.runs_page(),
            "mlflow_views": pages(tracker),
        }
    )
    with tracker.closing():
        track(context, result)
    tracker.farewell(600)
    return result


def _result(config: BootstrapConfig, store: Path, figures: Sequence[tuple[float, float]]) -> BootstrapResult:
    raw = RawData(
        **{name: _dataset(store, f"human-{name}", 24) for name in ("train", "val", "test")},
        web=_dataset(store, "web", 40),
    )
    rounds: list[RoundResult] = []
    for number, (recall, cider) in enumerate(figures):
        web = raw.web if number == 0 else _dataset(store, f"web-capfilt-{number}", 30 + number, config.bootstrap_id)
        rounds.append(_round(config, store, raw, web, rounds, recall, cider))
    best = max(rounds, key=lambda one: one.metrics[RECALL])
    return BootstrapResult(
        name=config.name,
        bootstrap=config.bootstrap_id,
        store=str(store),
        finished=datetime.now(timezone.utc),
        raw=raw,
        config=config.model_dump(mode="json"),
        rounds=tuple(rounds),
        champion=best.round,
        promoted=True,
        reasons=(f"retrieval recall {best.metrics[RECALL]:.3f} is the best",),
        datasets=(),
        models=(),
        stages=(),
        report=None,
    )


def _round(
    config: BootstrapConfig,
    store: Path,
    raw: RawData,
    web: DatasetRef,
    before: Sequence[RoundResult],
    recall: float,
    cider: float,
) -> RoundResult:
    number = len(before)
    values = {RECALL: recall, CIDER: cider}
    changes = {name: _change(name, before[0].metrics[name], value) for name, value in values.items()} if before else {}
    spans = {name: _around(value) for name, value in values.items()}
    made = {"capfilt/noise_ratio_web": 0.4, "capfilt/kept_pairs": float(web.pairs), "truth/pairs_true": 0.9}
    point = PurityPoint(threshold=0.5, purity=0.9, yield_share=0.8)
    filter = _model(config, store, "filter", number)
    calibration = Calibration(
        filter=filter.digest, human=raw.val.digest, chosen=point, target=None, reached=True, curve=(point,),
        images=8, positives=8, negatives=8, bad_share=0.5,
    )  # fmt: skip
    figures = {"base/mean_recall": recall - 0.1, "pretrain/loss": 3.0, **calibration.metrics}
    return RoundResult(
        round=number,
        web=web,
        base=_model(config, store, "base", number),
        captioner=_model(config, store, "captioner", number),
        filter=filter,
        metrics={**values, **figures, **(made if number else {})},
        uncertainty=Uncertainty(level=0.95, values=spans, changes=changes),
        calibration=calibration,
    )


def _around(value: float) -> Interval:
    return Interval(low=value - 0.02, high=value + 0.02)


def _change(name: str, before: float, after: float) -> Comparison:
    verdict = "clear" if abs(after - before) > 0.02 else "within noise"
    moved = after - before
    return Comparison(
        metric=name, before=before, after=after, difference=moved, interval=_around(moved), verdict=verdict
    )


def _model(config: BootstrapConfig, store: Path, role: ModelRole, number: int) -> ModelRef:
    digest = digest_of([config.bootstrap_id, role, number])
    folder = store / "models" / role / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    return ModelRef(role=role, uri=str(folder), digest=digest)


def _dataset(store: Path, name: str, images: int, made_by: str = "") -> DatasetRef:
    """A manifest without shards: all that is told of a dataset."""
    digest = digest_of([name, images, made_by])
    root = store / "datasets" / name / digest[:16]
    root.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        name=name,
        kind="capfilt" if made_by else "web",
        fingerprint=digest,
        config={},
        parents=(Parent(role="web", digest="ab" * 32),) if made_by else (),
        table=TableRecord(uri="shards.parquet", bytes=0, sha256="", rows=0),
        totals=Counts(samples=images + 5, kept=images, dropped=5, kept_pairs=images, dropped_pairs=7),
        digest=digest,
    )
    (root / "manifest.json").write_bytes(manifest.to_bytes(str(root)))
    return DatasetRef(name=name, uri=str(root), digest=digest, images=images, pairs=images)
