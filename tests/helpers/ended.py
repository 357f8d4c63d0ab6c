"""Made-up ends of bootstraps, for tests of what is shown of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from components.common.contracts import (
    BootstrapResult,
    Calibration,
    DatasetRef,
    Drift,
    ModelRef,
    PurityPoint,
    RawData,
    RoundResult,
    StageReport,
)

DATASET = DatasetRef(name="web", uri="/store/datasets/web/1", digest="d" * 64, images=1, pairs=1)
POINT = PurityPoint(threshold=0.5, purity=0.8, yield_share=0.9)


def round_result(number: int, metrics: Mapping[str, float], **more: object) -> RoundResult:
    """A round with these figures."""
    base, captioner, filter = (
        ModelRef(role=role, uri=f"/store/models/{number}/{role}", digest=f"{role}-{number}")
        for role in ("base", "captioner", "filter")
    )
    calibration = Calibration(
        filter=filter.digest, human="h", chosen=POINT, target=None, reached=True, curve=(POINT,), images=9, positives=9,
        negatives=9, bad_share=0.5,
    )  # fmt: skip
    parts = {
        "round": number, "web": DATASET, "base": base, "captioner": captioner, "filter": filter,
        "metrics": dict(metrics), "calibration": calibration,
    }  # fmt: skip
    return RoundResult.model_validate(parts | more)


def bootstrap_result(rounds: Sequence[RoundResult], store: str = "/store", **more: object) -> BootstrapResult:
    """A bootstrap with these rounds."""
    parts = {
        "name": "sample",
        "bootstrap": "ab" * 32,
        "store": store,
        "finished": datetime(2026, 3, 7, 14, 5, tzinfo=timezone.utc),
        "raw": RawData(train=DATASET, val=DATASET, test=DATASET, web=DATASET),
        "config": {"name": "sample", "seed": 3},
        "rounds": tuple(rounds),
        "champion": len(rounds) - 1,
        "promoted": True,
        "reasons": ("mean gain +24.8%",),
        "datasets": (DATASET,),
        "models": (),
        "stages": (StageReport(stage="round-0/pretrain", seconds=2.5, cached=False),),
        "report": f"{store}/reports/sample-abababab/report.html",
    }
    return BootstrapResult.model_validate(parts | more)


DRIFT = Drift(worse=True, text="at threshold 0.5 its purity fell")
