"""Collects what the report page shows from a finished bootstrap's contracts."""

import json
import logging
from pathlib import Path
from typing import Any

from components.common.contracts import BootstrapResult, RoundResult
from components.common.errors import CapfiltError
from components.common.storage import open_store, split_uri
from components.pages.gallery import describe_capfilt
from components.pages.report_data import CapfiltReport, ReportData, RoundReport

logger = logging.getLogger(__name__)

EXAMPLES = 24
Curve = tuple[tuple[float, float], ...]


def report_data(result: BootstrapResult, cache_dir: Path) -> ReportData:
    """Everything the page shows; `cache_dir` takes shards that have to be fetched for their images."""
    facts = {"store": result.store, "bootstrap": result.bootstrap, "test split": result.raw.test.digest}
    if result.mlflow_run:
        facts["MLflow run"] = result.mlflow_run
    return ReportData(
        name=result.name,
        rounds=tuple(_round(result, one) for one in result.rounds),
        capfilt=tuple(_capfilt(result, one, cache_dir) for one in result.rounds if one.round > 0),
        stages=result.stages,
        champion=result.champion,
        promoted=_was_promoted(result),
        reasons=result.reasons,
        config=result.config,
        facts=facts,
        finished=result.finished,
    )


def _was_promoted(result: BootstrapResult) -> bool | None:
    """Whether a new model took the champion's place; None: there was only one, and nothing against it."""
    if result.champion is None or not result.promoted:
        return False
    return result.champion > 0 if len(result.rounds) > 1 else None


def _round(result: BootstrapResult, one: RoundResult) -> RoundReport:
    curves: dict[str, Curve] = {}
    for role, uri in one.histories.items():
        curves |= {f"{role}/{name}": points for name, points in read_history(uri).items()}
    return RoundReport(
        round=one.round,
        metrics={name: value for name, value in one.metrics.items() if name.startswith(("eval/", "base/"))},
        uncertainty=one.uncertainty,
        curves=curves,
        datasets=(one.web, result.raw.train),
        models=one.models,
        calibration=one.calibration,
        drift=one.drift.text if one.drift else "",
        drift_worse=bool(one.drift and one.drift.worse),
    )


def _capfilt(result: BootstrapResult, one: RoundResult, cache_dir: Path) -> CapfiltReport:
    return describe_capfilt(
        one.web,
        result.raw.web,
        made_by=one.round - 1,
        metrics={name: value for name, value in one.metrics.items() if name.startswith(("capfilt/", "truth/"))},
        truth_uri=result.raw.truth_uri,
        examples=EXAMPLES,
        seed=int(result.config.get("seed", 0)),
        cache_dir=cache_dir,
    )


def read_history(uri: str) -> dict[str, Curve]:
    """A training's curves by name, from its JSON lines; none if the file is gone."""
    folder, name = split_uri(uri)
    try:
        lines = open_store(folder).read(name).decode().splitlines()
    except CapfiltError as error:
        logger.warning("no curve: %s", error)
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        row: dict[str, Any] = json.loads(line)
        step = float(row.pop("step"))
        for key, value in row.items():
            curves.setdefault(key.removeprefix("train/"), []).append((step, float(value)))
    return {key: tuple(points) for key, points in curves.items()}
