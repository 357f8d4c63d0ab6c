"""Collects what the report page shows from a finished bootstrap's contracts."""

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from components.common.contracts import RawData, RoundResult
from components.common.errors import CapfiltError
from components.common.storage import open_store, split_uri
from components.pages.gallery import describe_capfilt
from components.pages.report_data import CapfiltReport, ReportData, RoundReport
from components.regeneration.drift import find_drift
from flows.stages import BootstrapContext

logger = logging.getLogger(__name__)

EXAMPLES = 24
Curve = tuple[tuple[float, float], ...]


def report_data(
    context: BootstrapContext,
    raw: RawData,
    rounds: Sequence[RoundResult],
    champion: int,
    reasons: tuple[str, ...],
    cache_dir: Path,
) -> ReportData:
    """Everything the page shows; `cache_dir` takes shards that have to be fetched for their images."""
    facts = {"store": context.store.uri, "bootstrap": context.config.bootstrap_id, "test split": raw.test.digest}
    if context.tracker.run_id:
        facts["MLflow run"] = context.tracker.run_id
    return ReportData(
        name=context.config.name,
        rounds=tuple(_round(context, raw, one) for one in rounds),
        capfilt=tuple(_capfilt(context, raw, one, cache_dir) for one in rounds if one.round > 0),
        stages=tuple(context.reports),
        promoted=champion > 0 if len(rounds) > 1 else None,
        reasons=reasons,
        config=context.config.model_dump(mode="json"),
        facts=facts,
        finished=datetime.now(timezone.utc),
    )


def _round(context: BootstrapContext, raw: RawData, one: RoundResult) -> RoundReport:
    curves: dict[str, Curve] = {}
    for role, uri in context.histories[one.round].items():
        curves |= {f"{role}/{name}": points for name, points in read_history(uri).items()}
    calibration, before = context.calibrations[one.round], context.calibrations.get(one.round - 1)
    drift = find_drift(before, calibration, context.config.capfilt.calibration.drift)
    return RoundReport(
        round=one.round,
        metrics={name: value for name, value in one.metrics.items() if name.startswith("eval/")},
        curves=curves,
        datasets=(one.web, raw.train),
        models=(one.base, one.captioner, one.filter),
        calibration=calibration,
        drift=drift.text if drift else "",
        drift_worse=bool(drift and drift.worse),
    )


def _capfilt(context: BootstrapContext, raw: RawData, one: RoundResult, cache_dir: Path) -> CapfiltReport:
    return describe_capfilt(
        one.web,
        raw.web,
        made_by=one.round - 1,
        metrics={name: value for name, value in one.metrics.items() if name.startswith(("capfilt/", "truth/"))},
        truth_uri=raw.truth_uri,
        examples=EXAMPLES,
        seed=context.config.seed,
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
