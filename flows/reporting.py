"""What a bootstrap leaves for people: the page, its result in the store, and what Prefect and MLflow show of it."""

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

import yaml
from prefect.artifacts import create_markdown_artifact

from components.common.contracts import BootstrapResult, Promotion, RawData, RoundResult
from components.common.storage import join_uri, open_store
from components.common.tracking import Tracker
from components.data.manifest import MANIFEST_KEY, Manifest
from components.data.pictures import small_jpeg
from components.pages.report_data import ReportData
from components.pages.results import report_key, store_result, write_page
from components.pages.rounds import Manifests, dataset_facts, describe_bootstrap, log_certainty, publish_rounds
from components.pages.table import markdown_table, mlflow_words
from components.pages.verdict import spoken_of, word
from components.pages.views import pages
from flows.layout import settings
from flows.stages import BootstrapContext
from flows.witness import tell

IMAGES, SIDE = 8, 224


def conclude(
    context: BootstrapContext, raw: RawData, rounds: Sequence[RoundResult], promotion: Promotion
) -> BootstrapResult:
    """Sum up, write the report page, keep the result, and attach everything to MLflow and Prefect."""
    result = _sum_up(context, raw, rounds, promotion)
    _write_report(context, result)
    store_result(context.store, result, former=context.config.former_bootstrap_id)
    track(context, result)
    _announce(result)
    return result


def _sum_up(
    context: BootstrapContext, raw: RawData, rounds: Sequence[RoundResult], promotion: Promotion
) -> BootstrapResult:
    tracker = context.tracker
    result = BootstrapResult(
        name=context.config.name,
        bootstrap=context.config.bootstrap_id,
        store=context.store.uri,
        finished=datetime.now(timezone.utc),
        raw=raw,
        config=context.config.model_dump(mode="json"),
        rounds=tuple(rounds),
        **promotion.model_dump(),
        datasets=(raw.train, raw.val, raw.test, *dict.fromkeys(one.web for one in rounds)),
        models=tuple(model for one in rounds for model in one.models),
        stages=tuple(context.reports),
        report=None,
        mlflow_uri=tracker.uri,
        mlflow_run=tracker.run_id,
        mlflow_page=tracker.runs_page("rounds") or None,
        mlflow_views=pages(tracker),
    )
    return result.model_copy(update={"report": join_uri(context.store.uri, report_key(result))})


def _write_report(context: BootstrapContext, result: BootstrapResult) -> None:
    """The page in the store and in MLflow, there with some of its images."""
    folder = context.scratch / "work" / f"report-{result.bootstrap[:16]}"
    path = folder / "report.html"
    data = write_page(result, path)
    context.store.upload(path, report_key(result))
    context.tracker.log_artifact(path)
    _log_images(context.tracker, data)
    shutil.rmtree(folder, ignore_errors=True)


def _log_images(tracker: Tracker, data: ReportData) -> None:
    """Some of the page's example images, with their texts, as MLflow artifacts."""
    for number, one in enumerate(data.capfilt, start=1):
        folder = f"samples/round-{number}"
        for example in one.examples[:IMAGES]:
            content = base64.b64decode(example.image.partition("base64,")[2])
            tracker.log_figure_bytes(small_jpeg(content, SIDE), f"{folder}/{example.key}.jpg")  # MLflow shows no WebP
        texts = [example.model_dump(mode="json", exclude={"image"}) for example in one.examples]
        tracker.log_text(json.dumps(texts, ensure_ascii=False, indent=1), f"{folder}/texts.json")


def track(context: BootstrapContext, result: BootstrapResult) -> None:
    """A run per round with its models, and on the bootstrap's own what went in and what came out."""
    tracker, files = context.tracker, _manifest_files(result)
    manifests = {uri: Manifest.read(json.loads(data), uri) for uri, data in files.items()}
    known = settings(context.config)
    shown = list(dict.fromkeys(["seed", *tracker.varied_settings(known)]))  # what tells bootstraps apart
    told = {name: value for name, value in known.deciding.items() if name in {*shown, *known.always}}
    _log_config(context)
    _log_datasets(tracker, result, files, manifests)
    runs = publish_rounds(tracker, result, manifests, told)
    for one in result.rounds:
        log_certainty(tracker, one, one.round)
    tracker.log_tags(
        {
            "bootstrap.champion": "none" if result.champion is None else f"round-{result.champion}",
            "bootstrap.promoted": "yes" if result.promoted else "no",
            "bootstrap.verdict": word(spoken_of(result.rounds, result.champion)) or "–",
            "bootstrap.reasons": "; ".join(result.reasons),
        }
    )
    tracker.log_text(markdown_table(result.rounds), "rounds.md")
    describe_bootstrap(tracker, result, runs, shown)


def _log_config(context: BootstrapContext) -> None:
    """The resolved config; what is not the default is among the parameters since the bootstrap was started."""
    text = yaml.safe_dump(context.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    context.tracker.log_text(text, "config.yaml")


def _manifest_files(result: BootstrapResult) -> dict[str, bytes]:
    """Manifests of all its datasets, by the datasets' URIs."""
    datasets = (result.raw.train, result.raw.val, result.raw.test, *(one.web for one in result.rounds))
    places = dict.fromkeys(dataset.uri for dataset in datasets)
    return {uri: open_store(uri).read(MANIFEST_KEY) for uri in places}


def _log_datasets(tracker: Tracker, result: BootstrapResult, files: Mapping[str, bytes], manifests: Manifests) -> None:
    """Dataset versions as inputs, and their manifests."""
    raw, webs = result.raw, [one.web for one in result.rounds]
    uses = [(raw.train, "human-train"), (raw.val, "human-val"), (raw.test, "human-test")]
    for dataset, use in (*uses, *((one.web, f"round-{one.round}-web") for one in result.rounds)):
        tracker.log_dataset(dataset, use, dataset_facts(result, dataset, manifests))
    for dataset in {item.uri: item for item in (raw.train, raw.test, *webs)}.values():
        tracker.log_text(files[dataset.uri].decode(), f"manifests/{dataset.name}-{dataset.digest[:8]}.json")


def _announce(result: BootstrapResult) -> None:
    """The outcome as a Prefect artifact; in words, for browsers open no path and no s3:// from Prefect's page."""
    key = "".join(letter if letter.isalnum() else "-" for letter in result.name.lower()).strip("-")
    lines = [f"{result.outcome} ({'; '.join(result.reasons)})", markdown_table(result.rounds)]
    if result.report:
        lines.append(f"report page: `{result.report}`")
    if result.mlflow_uri:
        lines.append(f"MLflow: `{mlflow_words(result.mlflow_uri, result.mlflow_page or '')}`")
    text, about = "\n\n".join(lines), f"the rounds side by side; {result.outcome}"
    tell("the table of rounds", lambda: create_markdown_artifact(text, key=f"{key}-rounds", description=about))
