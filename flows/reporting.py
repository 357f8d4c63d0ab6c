"""What a bootstrap leaves for people: the table of rounds, the page, and where Prefect and MLflow show them."""

import base64
import json
import logging
import shutil
from collections.abc import Sequence

import yaml
from prefect.artifacts import create_markdown_artifact

from components.common.contracts import BootstrapResult, RawData, RoundResult
from components.common.storage import join_uri, open_store
from components.common.tracking import MlflowTracker, runs_page
from components.pages.report_data import ReportData
from flows.report_data import report_data
from flows.rounds import describe_bootstrap
from flows.stages import BootstrapContext
from flows.table import markdown_table, mlflow_words
from flows.witness import tell

logger = logging.getLogger(__name__)

IMAGES = 8


def conclude(
    context: BootstrapContext, raw: RawData, rounds: Sequence[RoundResult], champion: int, reasons: tuple[str, ...]
) -> BootstrapResult:
    """Write the report page, attach everything to MLflow and Prefect, and sum up."""
    _log_inputs(context, raw, rounds)
    report = _write_report(context, raw, rounds, champion, reasons)
    datasets = (raw.train, raw.val, raw.test, *dict.fromkeys(result.web for result in rounds))
    models = tuple(model for one in rounds for model in (one.base, one.captioner, one.filter))
    tracker = context.tracker
    result = BootstrapResult(
        name=context.config.name,
        rounds=tuple(rounds),
        champion=champion,
        reasons=reasons,
        datasets=datasets,
        models=models,
        stages=tuple(context.reports),
        report=report,
        mlflow_uri=tracker.uri if isinstance(tracker, MlflowTracker) else None,
        mlflow_run=tracker.run_id,
        mlflow_page=runs_page(tracker.experiment_id) if isinstance(tracker, MlflowTracker) else None,
    )
    tracker.log_tags({"bootstrap.champion": f"round-{champion}"})
    tracker.log_text(markdown_table(rounds), "rounds.md")
    describe_bootstrap(context, rounds, champion, reasons, report)
    _announce(result)
    return result


def _announce(result: BootstrapResult) -> None:
    """The outcome as a Prefect artifact; in words, for browsers open no path and no s3:// from Prefect's page."""
    key = "".join(letter if letter.isalnum() else "-" for letter in result.name.lower()).strip("-")
    champion = f"champion: round {result.champion}"
    lines = [f"{champion} ({'; '.join(result.reasons)})", markdown_table(result.rounds)]
    if result.report:
        lines.append(f"report page: `{result.report}`")
    if result.mlflow_uri:
        lines.append(f"MLflow: `{mlflow_words(result.mlflow_uri, result.mlflow_page or '')}`")
    text, about = "\n\n".join(lines), f"the rounds side by side; {champion}"
    tell("the table of rounds", lambda: create_markdown_artifact(text, key=f"{key}-rounds", description=about))


def _log_inputs(context: BootstrapContext, raw: RawData, rounds: Sequence[RoundResult]) -> None:
    """Dataset versions and the resolved config on the parent run."""
    tracker, config = context.tracker, context.config.model_dump(mode="json")
    # of the settings only those that are not the defaults: what tells one bootstrap from another, on one screen
    own = context.config.model_dump(mode="json", exclude_defaults=True, exclude={"tracking"})
    tracker.log_params({"seed": context.config.seed, "rounds": context.config.rounds, **own})
    for dataset, use in ((raw.train, "human-train"), (raw.val, "human-val"), (raw.test, "human-test")):
        tracker.log_dataset(dataset, use)
    for result in rounds:
        tracker.log_dataset(result.web, f"round-{result.round}-web")
    tracker.log_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "config.yaml")
    for dataset in {item.uri: item for item in (raw.train, raw.test, *(result.web for result in rounds))}.values():
        manifest = open_store(dataset.uri).read("manifest.json")
        tracker.log_text(manifest.decode(), f"manifests/{dataset.name}-{dataset.digest[:8]}.json")


def _write_report(
    context: BootstrapContext, raw: RawData, rounds: Sequence[RoundResult], champion: int, reasons: tuple[str, ...]
) -> str | None:
    from components.pages.report import write_report

    folder = context.scratch / "work" / f"report-{context.config.bootstrap_id[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    data = report_data(context, raw, rounds, champion, reasons, folder)
    write_report(data, path)
    _log_images(context, data)
    key = f"reports/{context.config.name}-{context.config.bootstrap_id[:8]}/report.html"
    context.store.upload(path, key)
    context.tracker.log_artifact(path)
    shutil.rmtree(folder, ignore_errors=True)
    return join_uri(context.store.uri, key)


def _log_images(context: BootstrapContext, data: ReportData) -> None:
    """Some of the page's example images, with their texts, as MLflow artifacts."""
    for one in data.capfilt:
        folder = f"samples/round-{one.made_by + 1}"
        for example in one.examples[:IMAGES]:
            content = base64.b64decode(example.image.partition("base64,")[2])
            context.tracker.log_figure_bytes(content, f"{folder}/{example.key}.jpg")
        texts = [example.model_dump(mode="json", exclude={"image"}) for example in one.examples]
        context.tracker.log_text(json.dumps(texts, ensure_ascii=False, indent=1), f"{folder}/texts.json")
