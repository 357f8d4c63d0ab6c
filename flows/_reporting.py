"""What a bootstrap leaves for people: the table of rounds, the page, and where Prefect and MLflow show them."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import yaml
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from components.common.contracts import BootstrapResult, ModelRef, RawData, RoundResult
from components.common.storage import join_uri
from components.common.tracking import MlflowTracker
from flows._stage import Bench

logger = logging.getLogger(__name__)

# name, what it means in a word or two, whether more is better (None: neither)
SHOWN: tuple[tuple[str, str, bool | None], ...] = (
    ("eval/retrieval/mean_recall", "retrieval, mean recall", True),
    ("eval/retrieval/text_recall_at_1", "image → text, recall at 1", True),
    ("eval/retrieval/image_recall_at_1", "text → image, recall at 1", True),
    ("eval/caption/cider", "captions, CIDEr", True),
    ("eval/caption/bleu_4", "captions, BLEU-4", True),
    ("capfilt/noise_ratio_web", "web texts found noisy", None),
    ("capfilt/noise_ratio_synthetic", "synthetic texts found noisy", None),
    ("capfilt/kept_pairs", "pairs kept by CapFilt", None),
    ("truth/web_true_before", "web texts true, before", None),
    ("truth/pairs_true", "kept texts true", True),
    ("truth/filter_precision", "filter precision on web texts", True),
    ("truth/filter_recall", "filter recall on web texts", True),
    ("truth/synthetic_true_before", "synthetic texts true, unfiltered", True),
    ("truth/synthetic_true", "synthetic texts true, filtered", True),
)


def conclude(
    bench: Bench, raw: RawData, rounds: Sequence[RoundResult], champion: int, reasons: tuple[str, ...]
) -> BootstrapResult:
    """Write the report page, attach everything to MLflow and Prefect, and sum up."""
    _log_inputs(bench, raw, rounds)
    report = _write_report(bench, raw, rounds, champion, reasons)
    datasets = (raw.train, raw.val, raw.test, *dict.fromkeys(result.web for result in rounds))
    models = tuple(model for result in rounds for model in _models(result))
    tracker = bench.tracker
    result = BootstrapResult(
        name=bench.config.name,
        rounds=tuple(rounds),
        champion=champion,
        reasons=reasons,
        datasets=datasets,
        models=models,
        stages=tuple(bench.reports),
        report=report,
        mlflow_uri=tracker.uri if isinstance(tracker, MlflowTracker) else None,
        mlflow_run=tracker.run_id,
    )
    tracker.log_tags({"bootstrap.champion": f"round-{champion}"})
    tracker.log_text(markdown_table(rounds), "rounds.md")
    key = "".join(letter if letter.isalnum() else "-" for letter in bench.config.name.lower()).strip("-")
    create_markdown_artifact(markdown_table(rounds), key=f"{key}-rounds", description="the rounds side by side")
    if report is not None:
        create_link_artifact(report, key=f"{key}-report", link_text="report page")
    return result


def _models(result: RoundResult) -> tuple[ModelRef, ...]:
    return (result.base, result.captioner, result.filter)


def _log_inputs(bench: Bench, raw: RawData, rounds: Sequence[RoundResult]) -> None:
    """Dataset versions and the resolved config on the parent run."""
    tracker, config = bench.tracker, bench.config.model_dump(mode="json")
    tracker.log_params({name: value for name, value in config.items() if name != "tracking"})
    for dataset, context in ((raw.train, "human-train"), (raw.val, "human-val"), (raw.test, "human-test")):
        tracker.log_dataset(dataset, context)
    for result in rounds:
        tracker.log_dataset(result.web, f"round-{result.round}-web")
    tracker.log_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "config.yaml")
    for dataset in {item.uri: item for item in (raw.train, raw.test, *(result.web for result in rounds))}.values():
        manifest = bench_read(dataset.uri, "manifest.json")
        tracker.log_text(manifest.decode(), f"manifests/{dataset.name}-{dataset.digest[:8]}.json")


def bench_read(folder: str, name: str) -> bytes:
    """An object's bytes by folder and name."""
    from components.common.storage import open_store

    return open_store(folder).read(name)


def _write_report(
    bench: Bench, raw: RawData, rounds: Sequence[RoundResult], champion: int, reasons: tuple[str, ...]
) -> str | None:
    from components.evaluation.report import write_report

    path = bench.scratch / "work" / f"report-{bench.config.bootstrap_id[:16]}" / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    raise NotImplementedError


def markdown_table(rounds: Sequence[RoundResult]) -> str:
    """The rounds side by side, for Prefect's and MLflow's pages."""
    head = "| | " + " | ".join(f"round {result.round}" for result in rounds) + " |"
    rule = "|---|" + "---:|" * len(rounds)
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in table_rows(rounds))])


def table_rows(rounds: Sequence[RoundResult]) -> list[list[str]]:
    """Label, then a value per round with its change against the round before."""
    rows = []
    for name, label, _ in SHOWN:
        values = [result.metrics.get(name) for result in rounds]
        if any(value is not None for value in values):
            rows.append([label, *(_cell(values, index) for index in range(len(values)))])
    return rows


def _cell(values: Sequence[float | None], index: int) -> str:
    value = values[index]
    if value is None:
        return "–"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.4f}"
    before = values[index - 1] if index else None
    if before is None:
        return text
    change = value - before
    return f"{text} ({change:+,.0f})" if value >= 100 else f"{text} ({change:+.4f})"
