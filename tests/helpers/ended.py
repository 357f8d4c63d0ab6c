"""Made-up ends of bootstraps, for tests of what is shown of them."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from components.common.contracts import (
    BootstrapResult,
    Calibration,
    Comparison,
    DatasetRef,
    Drift,
    Interval,
    ModelRef,
    PurityPoint,
    RawData,
    RoundResult,
    StageReport,
    Uncertainty,
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
        "reasons": ("better beyond noise: CIDEr",),
        "datasets": (DATASET,),
        "models": (),
        "stages": (StageReport(stage="round-0/pretrain", seconds=2.5, cached=False),),
        "report": f"{store}/reports/sample-abababab/report.html",
    }
    return BootstrapResult.model_validate(parts | more)


def uncertain(values: Mapping[str, float], changes: Mapping[str, tuple[float, float]]) -> Uncertainty:
    """Figures within 0.01, and changes by so much, give or take so much."""
    compared = {
        name: Comparison(
            metric=name, before=values[name] - moved, after=values[name], difference=moved,
            interval=Interval(low=moved - half, high=moved + half),
            verdict="clear" if abs(moved) > half else "within noise",
        )
        for name, (moved, half) in changes.items()
    }  # fmt: skip
    near = {name: Interval(low=value - 0.01, high=value + 0.01) for name, value in values.items()}
    return Uncertainty(level=0.95, values=near, changes=compared)


IMAGES = 60


def evaluation_details(path: Path, found: int, cider: float = 1.0) -> str:
    """An evaluation's details: of 60 images the first so many have their texts found; CIDEr is as given on average.

    Returns:
        where they lie.
    """
    images = [
        {
            "key": f"{number:03d}",
            "caption": "a red disc",
            "references": ["a disc"],
            "cider": cider + 0.02 * (number % 5 - 2),
            "text_rank": 0.0 if number < found else 50.0,
            "image_ranks": [0.0 if number < found else None],
        }
        for number in range(IMAGES)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images}))
    return str(path)


def answers_details(path: Path, right: int) -> str:
    """Details of answers: of 60 images the first so many have theirs right.

    Returns:
        where they lie.
    """
    rows = [
        {"key": f"{number:03d}", "question": "red?", "kind": "yes/no", "answers": ["yes"] * 10}
        | {"answer": "yes" if number < right else "no"}
        for number in range(IMAGES)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"questions": rows}))
    return str(path)


DRIFT = Drift(worse=True, text="at threshold 0.5 its purity fell")
