"""Collects what the report page shows from a finished bootstrap's contracts."""

import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.contracts import BootstrapResult, DatasetRef, RoundResult
from components.common.errors import CapfiltError, DataError
from components.common.storage import open_store, split_uri
from components.data.manifest import load_manifest
from components.pages.captions import caption_rounds
from components.pages.gallery import side_of
from components.pages.passing import describe_capfilt
from components.pages.report_data import CapfiltReport, OtherBootstrap, ReportData, RoundReport
from components.pages.settings import differing
from components.pages.verdict import gained, spoken_of, word

logger = logging.getLogger(__name__)

EXAMPLES = 24
Curve = tuple[tuple[float, float], ...]


def report_data(
    result: BootstrapResult, cache_dir: Path, *, others: Sequence[BootstrapResult] = (), images: int = EXAMPLES
) -> ReportData:
    """Everything the page of a bootstrap shows.

    Args:
        result: the bootstrap.
        cache_dir: takes shards that have to be fetched for their images.
        others: further bootstraps of its store.
        images: web images to show.
    """
    facts = {"store": result.store, "bootstrap": result.bootstrap, "test split": result.raw.test.digest}
    if result.mlflow_run:
        facts["MLflow run"] = result.mlflow_run
    return ReportData(
        name=result.name,
        rounds=tuple(_round(result, one) for one in result.rounds),
        capfilt=_passes(result, images, cache_dir),
        captions=caption_rounds(result, cache_dir, seed=_seed(result), side=side_of(images)),
        others=tuple(_other(one, result) for one in sorted(others, key=lambda one: one.finished, reverse=True)),
        human_pairs=result.raw.train.pairs * int(result.config.get("data", {}).get("human_repeat", 1)),
        links=_links(result),
        commands=_commands(result),
        stages=result.stages,
        champion=result.champion,
        promoted=_was_promoted(result),
        reasons=result.reasons,
        config=result.config,
        facts=facts,
        finished=result.finished,
    )


def dataset_data(
    dataset: DatasetRef,
    cache_dir: Path,
    *,
    metrics: dict[str, float] | None = None,
    truth_uri: str | None = None,
    images: int = EXAMPLES,
) -> ReportData:
    """Everything the page of a dataset made by CapFilt alone shows: what was kept, scores, texts, images.

    Args:
        dataset: what CapFilt wrote.
        cache_dir: takes shards that have to be fetched for their images.
        metrics: `capfilt/…` as the run reported them.
        truth_uri: truth table, where there is one.
        images: web images to show.

    Raises:
        DataError: the dataset is no whole one, or was not made by CapFilt.
    """
    manifest = load_manifest(dataset.uri)
    if manifest.kind not in ("capfilt", "recut"):
        raise DataError(
            f"{dataset.uri} is a dataset of kind {manifest.kind!r}, and nothing was kept or dropped there: the page is "
            "of datasets that `capfilt regenerate` or `capfilt dataset recut` made; look at others with "
            "`capfilt browse`"
        )
    one = describe_capfilt(
        dataset, made_by=None, metrics=metrics, truth_uri=truth_uri, examples=images, cache_dir=cache_dir
    )
    parents = {parent.role: f"{parent.digest[:16]} {parent.uri}".strip() for parent in manifest.parents}
    return ReportData(
        name=dataset.name,
        capfilt=(one,),
        commands=(
            ("Look at every text, try other thresholds, mark what is right", f"capfilt browse {_typed(dataset.uri)}"),
            (
                "Cut it again at another threshold, without a model",
                f"capfilt dataset recut {_typed(dataset.uri)} --threshold 0.7 --out OUT",
            ),
        ),
        config=manifest.config,
        facts={"dataset": dataset.uri, "version": dataset.digest, "made from": manifest.origin, **parents},
    )


def _typed(uri: str) -> str:
    return shlex.quote(uri)


def _seed(result: BootstrapResult) -> int:
    return int(result.config.get("seed", 0))


def _other(one: BootstrapResult, here: BootstrapResult) -> OtherBootstrap:
    told = spoken_of(one.rounds, one.champion)
    return OtherBootstrap(
        label=one.label,
        finished=one.finished,
        rounds=len(one.rounds),
        champion=one.champion,
        metrics={name: value for name, value in told.metrics.items() if name.startswith("eval/")},
        word=word(told) or "",
        differs=differing(one.config, here.config),
    )


def _links(result: BootstrapResult) -> dict[str, str]:
    """Pages on servers that have an address of their own."""
    uri = result.mlflow_uri or ""
    return {"MLflow": f"{uri.rstrip('/')}/{result.mlflow_page or ''}"} if uri.startswith("http") else {}


def _commands(result: BootstrapResult) -> tuple[tuple[str, str], ...]:
    """What to type next, the first first: what follows from the outcome, then where to look."""
    tracking = result.config.get("tracking", {})
    elsewhere = {f"tracking.{name}": value for name in ("uri", "experiment") if (value := tracking.get(name))}
    settings = {"store": result.store, "name": result.name} | elsewhere
    ui = " ".join(f"--set {_typed(f'{name}={value}')}" for name, value in settings.items()) if elsewhere else ""
    return (
        _next(result),
        ("Look at every text of the last round's data", f"capfilt browse {_typed(result.rounds[-1].web.uri)}"),
        (
            "See rounds, trainings and models in MLflow, stages in Prefect",
            f"capfilt ui {ui or _typed(result.store)}",
        ),
    )


def _next(result: BootstrapResult) -> tuple[str, str]:
    best = next((one for one in result.rounds if one.round == result.champion), None)
    if best is not None and gained(best):
        models = f"--captioner {_typed(best.captioner.uri)} --filter {_typed(best.filter.uri)}"
        return "Rewrite and clean your own shards with the winner", f"capfilt regenerate --web WEB {models} --out OUT"
    if len(result.rounds) == 1:
        return "Add a round, and see whether the loop helps", "capfilt run CONFIG --set rounds=1"
    return "See whether another seed says the same", f"capfilt run CONFIG --set seed={_seed(result) + 1}"


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


def _passes(result: BootstrapResult, images: int, cache_dir: Path) -> tuple[CapfiltReport, ...]:
    """All passes, with the same images in each: those that the last one's outcomes choose."""
    pinned = None
    found: list[CapfiltReport] = []
    for one in reversed(result.rounds[1:]):
        report = describe_capfilt(
            one.web,
            result.raw.web,
            made_by=one.round - 1,
            metrics={name: value for name, value in one.metrics.items() if name.startswith(("capfilt/", "truth/"))},
            truth_uri=result.raw.truth_uri,
            examples=images,
            pinned=pinned,
            seed=_seed(result),
            cache_dir=cache_dir,
        )
        pinned = report.examples if pinned is None else pinned
        found.append(report)
    return tuple(reversed(found))


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
