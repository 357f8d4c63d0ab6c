"""Experiment tracking: how rounds are compared. The only importer of mlflow.

Tracking is a witness, never a judge: if the server is away, measurements wait in a buffer, a warning is logged, and the
work goes on. Models and datasets stay in the store; MLflow gets their URIs and digests (reference: house.md section 5).
No pickles, no model flavors: a registered version points at a safetensors folder.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from components.common.contracts import DatasetRef, ModelRef
from components.common.redact import redact
from components.common.storage import join_uri

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
URI_VARIABLE = "CAPFILT_TRACKING_URI"
RUN_VARIABLE = "CAPFILT_RUN_ID"
FLUSH_SECONDS = 5.0
MAX_BUFFERED = 100_000  # metrics kept while the server is away
_BATCH = 1000  # MLflow's limit of metrics per call
_PARAM_BATCH = 100  # MLflow's limit of params per call
_PARAM_LENGTH = 500
_TAG_LENGTH = 5000
_DIGEST_LENGTH = 32  # MLflow refuses digests above 36 characters
_NOTE = "mlflow.note.content"
_SHARED_VIEW = "mlflow.sharedViewState."  # what MLflow's own `Share` button writes
_VIEW = "rounds"
_TRAINING = "workflowType=machine_learning"  # else MLflow 3 opens its pages for agents' traces, which are empty here

T = TypeVar("T")


class RunsView(NamedTuple):
    """What MLflow's list of an experiment's runs shows when it is opened by `runs_page`."""

    filter: str
    """which runs, in MLflow's search syntax"""
    columns: Mapping[str, int]
    """``metrics.`name` ``, ``params.`name` `` or ``tags.`name` `` to its width in pixels, in order"""
    charts: str
    """which metrics have charts: a regular expression"""


class Tracker(Protocol):
    """One run of an experiment, as components see it."""

    run_id: str | None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add points to curves."""

    def known_point(self, name: str, step: int) -> float | None:
        """The newest value of a curve at a step, None if there is none: what is logged again can be left out."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings, nested ones flattened with dots, long values shortened."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def describe(self, text: str) -> None:
        """Say in markdown what this run is: MLflow shows it at the top of its page."""

    def describe_experiment(self, text: str, view: RunsView) -> None:
        """Say in markdown what the experiment is, and what its list of runs shows first."""

    def log_dataset(self, ref: DatasetRef, context: str) -> None:
        """Record a dataset version as an input of this run."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file."""

    def log_text(self, text: str, name: str) -> None:
        """Attach text as a file called `name`."""

    def log_figure_bytes(self, data: bytes, name: str) -> None:
        """Attach an image's bytes as a file called `name`."""

    def register_model(
        self,
        name: str,
        ref: ModelRef,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        *,
        about: str = "",
        note: str = "",
    ) -> ModelRef:
        """Register a model folder as a new version with alias `challenger`; the reference with its version.

        Args:
            about: what all models of this name are, in markdown.
            note: what this version is, in markdown.
        """

    def set_alias(self, name: str, version: int, alias: str) -> None:
        """Point an alias of a registered model at a version."""

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "Tracker":
        """A nested run; the same name gives the same run again, so a resumed stage goes on with its curves."""

    def beside(self, name: str, tags: Mapping[str, str]) -> "Tracker":
        """A run of its own in the same experiment; the same tags give the same run again."""

    def has_child(self, name: str) -> bool:
        """Whether a nested run of this name was ever started."""

    def end(self, status: Status = "FINISHED") -> None:
        """Send what is buffered and close the run."""

    def environment(self) -> dict[str, str]:
        """Variables with which a child process finds this run (`tracker_from_environment`)."""


class NullTracker:
    """Tracks nothing."""

    run_id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Nothing."""

    def known_point(self, name: str, step: int) -> float | None:
        """None: nothing is known."""
        return None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nothing."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def describe(self, text: str) -> None:
        """Nothing."""

    def describe_experiment(self, text: str, view: RunsView) -> None:
        """Nothing."""

    def log_dataset(self, ref: DatasetRef, context: str) -> None:
        """Nothing."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Nothing."""

    def log_text(self, text: str, name: str) -> None:
        """Nothing."""

    def log_figure_bytes(self, data: bytes, name: str) -> None:
        """Nothing."""

    def register_model(
        self,
        name: str,
        ref: ModelRef,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        *,
        about: str = "",
        note: str = "",
    ) -> ModelRef:
        """The reference as it came."""
        return ref

    def set_alias(self, name: str, version: int, alias: str) -> None:
        """Nothing."""

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "Tracker":
        """Itself."""
        return self

    def beside(self, name: str, tags: Mapping[str, str]) -> "Tracker":
        """Itself."""
        return self

    def has_child(self, name: str) -> bool:
        """As if: there is nothing to make up for."""
        return True

    def end(self, status: Status = "FINISHED") -> None:
        """Nothing."""

    def environment(self) -> dict[str, str]:
        """Nothing to hand on."""
        return {}


class MlflowTracker:
    """One MLflow run. `owner` says whether this process decides how the run ends."""

    def __init__(self, client: Any, uri: str, experiment_id: str, run_id: str, *, owner: bool = True) -> None:
        self.run_id: str | None = run_id
        self.uri = uri
        self.experiment_id = experiment_id
        self._client, self._run, self._owner = client, run_id, owner
        self._buffer: list[Any] = []
        self._last_flush = time.monotonic()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add points to curves; they are sent in batches every few seconds."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._buffer.extend(Metric(name, float(value), now, step) for name, value in metrics.items())
        del self._buffer[:-MAX_BUFFERED]
        if time.monotonic() - self._last_flush >= FLUSH_SECONDS:
            self.flush()

    def known_point(self, name: str, step: int) -> float | None:
        """The newest value of a curve at a step, None if there is none or nobody can tell."""
        self.flush()
        history = _attempt(f"read {name}", lambda: self._client.get_metric_history(self._run, name)) or []
        values = [(point.timestamp, float(point.value)) for point in history if point.step == step]
        return max(values)[1] if values else None

    def flush(self) -> None:
        """Send buffered metrics; what cannot be sent stays for the next time."""
        self._last_flush = time.monotonic()
        while self._buffer:
            batch = self._buffer[:_BATCH]
            sent = _attempt("send metrics", partial(self._send, batch))
            if not sent:
                return
            del self._buffer[: len(batch)]

    def _send(self, batch: list[Any]) -> bool:
        self._client.log_batch(self._run, metrics=batch)
        return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; those already there stay (MLflow's params are immutable)."""
        from mlflow.entities import Param

        def send() -> None:
            known = self._client.get_run(self._run).data.params
            fresh = [Param(key, value) for key, value in flatten(params).items() if key not in known]
            for start in range(0, len(fresh), _PARAM_BATCH):
                self._client.log_batch(self._run, params=fresh[start : start + _PARAM_BATCH])

        _attempt("send parameters", send)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        rows = [RunTag(key, redact(str(value))[:_TAG_LENGTH]) for key, value in tags.items()]
        _attempt("send tags", lambda: self._client.log_batch(self._run, tags=rows))

    def describe(self, text: str) -> None:
        """Say in markdown what this run is: MLflow shows it at the top of its page."""
        self.log_tags({_NOTE: text})

    def describe_experiment(self, text: str, view: RunsView) -> None:
        """Say in markdown what the experiment is, and what its list of runs shows first."""
        state = {
            "searchFilter": view.filter,
            "orderByKey": "attributes.start_time",
            "orderByAsc": True,
            "selectedColumns": list(view.columns),
            "columnOrder": list(view.columns),
            "columnWidths": dict(view.columns),
            "chartsSearchFilter": view.charts,
        }
        for key, value in ((_NOTE, text), (_SHARED_VIEW + _VIEW, json.dumps(state))):
            _attempt(
                "describe the experiment",
                partial(self._client.set_experiment_tag, self.experiment_id, key, value),
            )

    def log_dataset(self, ref: DatasetRef, context: str) -> None:
        """Record a dataset version as an input: its manifest's URI, digest, and counts."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=ref.name,
            digest=ref.digest[:_DIGEST_LENGTH],
            source_type="s3" if ref.uri.startswith("s3://") else "local",
            source=json.dumps({"uri": join_uri(ref.uri, "manifest.json")}),
            profile=json.dumps({"images": ref.images, "pairs": ref.pairs}),
        )
        labels = [InputTag("mlflow.data.context", context), InputTag("digest", ref.digest)]
        _attempt("record a dataset", lambda: self._client.log_inputs(self._run, [DatasetInput(dataset, labels)]))
        self.log_tags({f"dataset.{context}.{ref.name}": ref.digest})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file."""
        _attempt(f"attach {path.name}", lambda: self._client.log_artifact(self._run, str(path), folder or None))

    def log_text(self, text: str, name: str) -> None:
        """Attach text as a file called `name`."""
        self.log_figure_bytes(redact(text).encode(), name)

    def log_figure_bytes(self, data: bytes, name: str) -> None:
        """Attach bytes as a file called `name` (folders with `/`)."""
        folder, _, file_name = name.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="capfilt-") as scratch:
            path = Path(scratch) / file_name
            path.write_bytes(data)
            self.log_artifact(path, folder)

    def register_model(
        self,
        name: str,
        ref: ModelRef,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        *,
        about: str = "",
        note: str = "",
    ) -> ModelRef:
        """Register a model folder by its URI, once per digest, and point alias `challenger` at it."""
        version = _attempt(
            f"register {name}", lambda: self._version_of(name, ref, metrics, tags, about=about, note=note)
        )
        if version is None:
            return ref
        self.set_alias(name, version, "challenger")
        return ref.model_copy(update={"registered_version": version})

    def _version_of(
        self,
        name: str,
        ref: ModelRef,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        *,
        about: str,
        note: str,
    ) -> int:
        self._ensure_registered(name, about)
        for known in self._client.search_model_versions(f"name='{name}'"):
            if known.tags.get("digest") == ref.digest:
                return int(known.version)
        labels = {**tags, "digest": ref.digest, "uri": ref.uri, "role": ref.role}
        logged = self._client.create_logged_model(
            self.experiment_id, name=name, source_run_id=self._run, tags=labels, model_type=ref.role
        )
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            self._client.log_metric(self._run, key, float(value), now, model_id=logged.model_id)
        self._client.finalize_logged_model(logged.model_id, "READY")
        create = partial(
            self._client.create_model_version,
            name,
            run_id=self._run,
            tags=labels,
            model_id=logged.model_id,
            description=note,
        )
        try:
            version = create(source=ref.uri)
        except Exception as error:  # noqa: BLE001 - a remote server takes no source that is a path of this machine
            logger.debug("registering %s by its folder was refused (%s); by the logged model instead", name, error)
            version = create(source=logged.model_uri)
        return int(version.version)

    def _ensure_registered(self, name: str, about: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name, description=about)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def set_alias(self, name: str, version: int, alias: str) -> None:
        """Point an alias at a version."""
        _attempt(f"set {name}@{alias}", lambda: self._client.set_registered_model_alias(name, alias, str(version)))

    def has_child(self, name: str) -> bool:
        """Whether a nested run of this name was ever started (or nobody can tell)."""
        known = _attempt(f"look for {name}", lambda: (_find(self._client, self.experiment_id, self._child_of(name)),))
        return known is None or known[0] is not None

    def _child_of(self, name: str) -> dict[str, str]:
        return {"mlflow.parentRunId": self._run, "mlflow.runName": name}

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> Tracker:
        """The nested run of this name: the one there is, or a new one."""
        return self._other(name, self._child_of(name), {"mlflow.parentRunId": self._run, **(tags or {})})

    def beside(self, name: str, tags: Mapping[str, str]) -> Tracker:
        """The run with these tags in the same experiment: the one there is, or a new one."""
        return self._other(name, tags, tags)

    def _other(self, name: str, search: Mapping[str, str], labels: Mapping[str, str]) -> Tracker:
        run = _attempt(f"start {name}", lambda: _find_or_create(self._client, self.experiment_id, name, search, labels))
        return NullTracker() if run is None else MlflowTracker(self._client, self.uri, self.experiment_id, run)

    def end(self, status: Status = "FINISHED") -> None:
        """Send what is buffered; the owner closes the run."""
        self.flush()
        if self._owner:
            _attempt("close the run", lambda: self._client.set_terminated(self._run, status))

    def environment(self) -> dict[str, str]:
        """What a child process needs to log into this run."""
        return {URI_VARIABLE: self.uri, RUN_VARIABLE: self._run}


def open_tracker(
    uri: str | None,
    experiment: str,
    run_name: str,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    resume: Mapping[str, str] | None = None,
) -> Tracker:
    """Open a run of an experiment.

    Args:
        uri: MLflow tracking URI; None for no tracking. For `sqlite:///DIR/mlflow.db` artifacts go to `DIR/mlartifacts`.
        experiment: its name; created if missing.
        run_name: shown in MLflow's list of runs.
        run_id: continue this run.
        tags: set on the run.
        resume: tags that identify a run to continue if there is one.

    Returns:
        the tracker; a NullTracker with a warning if the server is out of reach.
    """
    if uri is None:
        return NullTracker()

    def start() -> Tracker:
        client = _client(uri)
        experiment_id = _experiment(client, uri, experiment)
        labels = {**(tags or {}), **(resume or {})}
        run = run_id or _find_or_create(client, experiment_id, run_name, resume or {}, labels)
        return MlflowTracker(client, uri, experiment_id, run)

    return _attempt(f"open {uri}", start) or NullTracker()


def tracker_from_environment() -> Tracker:
    """The run named by `Tracker.environment()`, in a child process that does not own it."""
    uri, run_id = os.environ.get(URI_VARIABLE), os.environ.get(RUN_VARIABLE)
    if not uri or not run_id:
        return NullTracker()

    def attach() -> Tracker:
        client = _client(uri)
        experiment_id = client.get_run(run_id).info.experiment_id
        return MlflowTracker(client, uri, experiment_id, run_id, owner=False)

    return _attempt(f"open {uri}", attach) or NullTracker()


def runs_page(experiment_id: str, *, charts: bool = False) -> str:
    """Path of the list of an experiment's runs on MLflow's server, in the view of `describe_experiment`."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?{_TRAINING}&viewStateShareKey={_VIEW}{mode}"


def run_page(experiment_id: str, run_id: str, tab: str = "") -> str:
    """Path of a run's page on MLflow's server; `tab`: `model-metrics`, `artifacts/FILE` …"""
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab and '/' + tab}?{_TRAINING}"


def comparison_page(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Path of the page on MLflow's server that shows runs side by side: parameters, metrics, what differs."""
    runs, experiments = quote(json.dumps(list(run_ids))), quote(json.dumps([experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&{_TRAINING}"


def find_runs_page(uri: str, experiment: str) -> str:
    """`runs_page` of the experiment of this name; empty if there is none yet, or the server is out of reach."""
    known = _attempt(f"look for {experiment}", lambda: _client(uri).get_experiment_by_name(experiment))
    if known is None:
        return ""
    page = runs_page(known.experiment_id)
    described = _SHARED_VIEW + _VIEW in known.tags
    return page if described else page.partition("&")[0]


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b.c` → short text; None is left out."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value is not None:
            text = redact(str(value))
            flat[f"{prefix}{key}"] = text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"
    return flat


def _client(uri: str) -> Any:
    """An MLflow client that asks nobody, says little, and gives up soon where a server is away."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for name in ("mlflow.store.db.utils", "alembic"):  # a line per migration of a new sqlite file
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment(client: Any, uri: str, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is not None:
        if known.lifecycle_stage == "deleted":
            client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)
    location = None
    if uri.startswith("sqlite:///"):  # MLflow would take the working directory
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").absolute().as_uri()  # escapes %
    return str(client.create_experiment(name, artifact_location=location))


def _find_or_create(
    client: Any, experiment_id: str, name: str, search: Mapping[str, str], labels: Mapping[str, str]
) -> str:
    if search and (known := _find(client, experiment_id, search)) is not None:
        client.update_run(known, status="RUNNING")
        return known
    return str(client.create_run(experiment_id, run_name=name, tags=dict(labels)).info.run_id)


def _find(client: Any, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    """The newest run with these tags."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"])
    return str(runs[0].info.run_id) if runs else None


def _attempt(what: str, action: Callable[[], T]) -> T | None:
    """Do it; if MLflow or its server fails, warn and go on: tracking must never end the work it watches."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - every failure of tracking is survivable
        logger.warning("MLflow: could not %s: %s", what, str(error).splitlines()[0] if str(error) else repr(error))
        return None
