"""Experiment tracking: how rounds are compared. The only importer of mlflow.

Tracking is a witness, never a judge: if the server is away, what is to be said waits, a warning is logged, and the work
goes on; a server that hangs holds up no training, as all is said on a thread of its own. Models and datasets stay in
the store; MLflow gets their URIs and digests. No pickles, no model flavors: a registered version points at a
safetensors folder.
"""

import contextlib
import json
import logging
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import PreemptedError
from components.common.redact import redact
from components.common.seeding import digest_of
from components.common.sending import Sender, first_line
from components.common.storage import join_uri

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
URI_VARIABLE = "CAPFILT_TRACKING_URI"
RUN_VARIABLE = "CAPFILT_RUN_ID"
FLUSH_SECONDS = 5.0
FAREWELL_SECONDS = 20.0  # what a hung server is given at the end
OPEN_SECONDS = 180.0  # a new database file is made of some dozens of migrations
MAX_BUFFERED = 100_000  # metrics kept while the server is away
_BATCH = 1000  # MLflow's limit of metrics per call
_PARAM_BATCH = 100  # MLflow's limit of params per call
_NAME_LENGTH = 250  # of metrics, parameters and tags
_FILE_NAME_BYTES = 200
_PARAM_LENGTH = 500
_TAG_LENGTH = 5000
_DIGEST_LENGTH = 32  # MLflow refuses digests above 36 characters
_PARENT = "mlflow.parentRunId"
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


class Tracker:
    """One run of an experiment, as components see it. This one tracks nothing: what else there is builds on it."""

    uri: str | None = None
    run_id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add points to curves."""

    def known_point(self, name: str, step: int) -> float | None:
        """The newest value of a curve at a step, None if there is none: what is logged again can be left out."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings, nested ones flattened with dots, long values shortened; those already there stay."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def describe(self, text: str) -> None:
        """Say in markdown what this run is: MLflow shows it at the top of its page."""

    def describe_experiment(self, text: str, view: RunsView) -> None:
        """Say in markdown what the experiment is, and what its list of runs shows first."""

    def log_dataset(self, ref: DatasetRef, context: str) -> None:
        """Record a dataset version as an input of this run: its manifest's URI, digest, and counts."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file."""

    def log_text(self, text: str, name: str) -> None:
        """Attach text as a file called `name`."""

    def log_figure_bytes(self, data: bytes, name: str) -> None:
        """Attach an image's bytes as a file called `name` (folders with `/`)."""

    def register_model(
        self,
        name: str,
        ref: ModelRef,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        *,
        about: str = "",
        note: str = "",
        champion: str | None = None,
    ) -> None:
        """Register a model folder by its URI, once per digest, and point alias `challenger` at it.

        Args:
            about: what all models of this name are, in markdown.
            note: what this version is, in markdown.
            champion: why alias `champion` shall point at it too, kept as the version's tag; None: it shall not.
        """

    def find_champions(self, names: Sequence[str]) -> list[ModelRef] | None:
        """What alias `champion` of registered models points at, where it does; None: nobody can tell."""
        return []

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "Tracker":
        """A nested run; the same name gives the same run again, so a resumed stage goes on with its curves."""
        return self

    def beside(self, name: str, tags: Mapping[str, str]) -> "Tracker":
        """A run of its own in the same experiment; the same tags give the same run again."""
        return self

    def has_child(self, name: str) -> bool:
        """Whether a nested run of this name was ever started, or nobody can tell: then there is none to make up for."""
        return True

    def page(self, tab: str = "") -> str:
        """Path of this run's page on MLflow's server; empty without tracking. `tab`: `artifacts/FILE` …"""
        return ""

    def runs_page(self, *, charts: bool = False) -> str:
        """Path of the experiment's list of runs on MLflow's server; empty without tracking."""
        return ""

    def comparison_page(self, run_ids: Sequence[str]) -> str:
        """Path of the page on MLflow's server that shows runs side by side; empty without tracking."""
        return ""

    def end(self, status: Status = "FINISHED") -> None:
        """Close the run when all is sent; nobody waits for that."""

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """End as the work within ends: finished, failed, or killed where it was cancelled or interrupted."""
        try:
            yield
        except PreemptedError:
            self.end("KILLED")
            raise
        except Exception:
            self.end("FAILED")
            raise
        except BaseException:
            self.end("KILLED")
            raise
        self.end()

    def farewell(self, seconds: float = FAREWELL_SECONDS) -> None:
        """Wait until all is sent, and no longer than so many seconds for any one thing: for the end of a process."""

    def environment(self) -> dict[str, str]:
        """Variables with which a child process finds this run (`tracker_from_environment`)."""
        return {}


UNTRACKED = Tracker()
"""For callers that name none."""


class MlflowTracker(Tracker):
    """One MLflow run. `owner` says whether this process decides how the run ends.

    All is said on the sender's thread. Where MLflow is away when the run is asked for, `find` is called again before
    the first thing is said of it.
    """

    def __init__(
        self,
        line: "_Line",
        experiment_id: str,
        find: Callable[[], str],
        *,
        run_id: str | None = None,
        owner: bool = True,
    ) -> None:
        self.run_id, self.uri, self.experiment_id = run_id, public_uri(line.uri), experiment_id
        self._line, self._client, self._sender = line, line.client, line.sender
        self._find, self._owner = find, owner
        self._points: deque[tuple[str, float, int, int]] = deque(maxlen=MAX_BUFFERED)
        self._awaited = False

    def _run(self) -> str:
        """The run's id; on the sender's thread only."""
        if self.run_id is None:
            self.run_id = self._find()
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add points to curves; they are sent in batches every few seconds."""
        now = int(time.time() * 1000)
        self._points.extend((_short(name), float(value), now, step) for name, value in metrics.items())
        if not self._awaited:
            self._awaited = True
            self._sender.tell("send metrics", self._send_points, after=FLUSH_SECONDS)

    def _send_points(self) -> None:
        """Send what has come together; what nobody answers to stays for the next time."""
        from mlflow.entities import Metric

        self._awaited = False
        while batch := [self._points.popleft() for _ in range(min(_BATCH, len(self._points)))]:
            try:
                self._client.log_batch(self._run(), metrics=[Metric(*point) for point in batch])
            except Exception as error:
                if is_away(error):
                    self._points.extendleft(reversed(batch))
                raise

    def known_point(self, name: str, step: int) -> float | None:
        self._sender.hurry()
        read = partial(self._read_curve, name)
        values = [(time, value) for time, at, value in self._sender.ask(f"read {name}", read) or [] if at == step]
        return max(values)[1] if values else None

    def _read_curve(self, name: str) -> list[tuple[int, int, float]]:
        history = self._client.get_metric_history(self._run(), _short(name))
        return [(point.timestamp, point.step, float(point.value)) for point in history]

    def log_params(self, params: Mapping[str, Any]) -> None:
        def send() -> None:
            from mlflow.entities import Param

            known = self._client.get_run(self._run()).data.params
            fresh = [Param(key, value) for key, value in flatten(params).items() if key not in known]
            for start in range(0, len(fresh), _PARAM_BATCH):
                self._client.log_batch(self._run(), params=fresh[start : start + _PARAM_BATCH])

        self._sender.tell("send parameters", send)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        def send() -> None:
            from mlflow.entities import RunTag

            rows = [RunTag(_short(key), redact(str(value))[:_TAG_LENGTH]) for key, value in tags.items()]
            self._client.log_batch(self._run(), tags=rows)

        self._sender.tell("send tags", send)

    def describe(self, text: str) -> None:
        self.log_tags({_NOTE: text})

    def describe_experiment(self, text: str, view: RunsView) -> None:
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
            set_tag = partial(self._client.set_experiment_tag, self.experiment_id, key, value)
            self._sender.tell("describe the experiment", set_tag)

    def log_dataset(self, ref: DatasetRef, context: str) -> None:
        def send() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=ref.name,
                digest=ref.digest[:_DIGEST_LENGTH],
                source_type="s3" if ref.uri.startswith("s3://") else "local",
                source=json.dumps({"uri": join_uri(ref.uri, "manifest.json")}),
                profile=json.dumps({"images": ref.images, "pairs": ref.pairs}),
            )
            labels = [InputTag("mlflow.data.context", context), InputTag("digest", ref.digest)]
            self._client.log_inputs(self._run(), [DatasetInput(dataset, labels)])

        self._sender.tell("record a dataset", send)
        self.log_tags({f"dataset.{context}.{ref.name}": ref.digest})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        data = _attempt(f"attach {path.name}", path.read_bytes)  # the file may be gone when its turn comes
        if data is not None:
            self.log_figure_bytes(data, f"{folder}/{path.name}" if folder else path.name)

    def log_text(self, text: str, name: str) -> None:
        self.log_figure_bytes(redact(text).encode(), name)

    def log_figure_bytes(self, data: bytes, name: str) -> None:
        folder, _, file_name = name.rpartition("/")

        def send() -> None:
            with tempfile.TemporaryDirectory(prefix="capfilt-") as scratch:
                path = Path(scratch) / _short_file_name(file_name)
                path.write_bytes(data)
                self._client.log_artifact(self._run(), str(path), folder or None)

        self._sender.tell(f"attach {file_name[:_NAME_LENGTH]}", send)

    def register_model(
        self,
        name: str,
        ref: ModelRef,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        *,
        about: str = "",
        note: str = "",
        champion: str | None = None,
    ) -> None:
        def send() -> None:
            version = str(self._version_of(name, ref, metrics, tags, about=about, note=note))
            self._client.set_registered_model_alias(name, "challenger", version)
            if champion is not None:
                self._client.set_model_version_tag(name, version, "champion.reason", champion[:_TAG_LENGTH])
                self._client.set_registered_model_alias(name, "champion", version)

        self._sender.tell(f"register {name}", send)

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
            self.experiment_id, name=name, source_run_id=self._run(), tags=labels, model_type=ref.role
        )
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            self._client.log_metric(self._run(), _short(key), float(value), now, model_id=logged.model_id)
        self._client.finalize_logged_model(logged.model_id, "READY")
        create = partial(
            self._client.create_model_version,
            name,
            run_id=self._run(),
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

    def find_champions(self, names: Sequence[str]) -> list[ModelRef] | None:
        def find() -> list[ModelRef]:
            return [ref for name in names if (ref := _aliased(self._client, name, "champion")) is not None]

        return self._sender.ask("look for the champion", find)

    def has_child(self, name: str) -> bool:
        def find() -> tuple[str | None]:
            return (_find(self._client, self.experiment_id, self._child_of(name)),)

        known = self._sender.ask(f"look for {name}", find)
        return known is None or known[0] is not None

    def _child_of(self, name: str) -> dict[str, str]:
        return {_PARENT: self._run(), "mlflow.runName": name}

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> Tracker:
        def find() -> str:
            labels = {_PARENT: self._run(), **(tags or {})}
            return _find_or_create(self._client, self.experiment_id, name, self._child_of(name), labels)

        return self._other(name, find)

    def beside(self, name: str, tags: Mapping[str, str]) -> Tracker:
        return self._other(name, lambda: _find_or_create(self._client, self.experiment_id, name, tags, tags))

    def _other(self, name: str, find: Callable[[], str]) -> Tracker:
        other = MlflowTracker(self._line, self.experiment_id, find)
        if self._sender.ask(f"start {name}", other._run) is None:
            self._sender.tell(f"start {name}", other._run)
        return other

    def page(self, tab: str = "") -> str:
        return run_page(self.experiment_id, self.run_id, tab) if self.run_id else ""

    def runs_page(self, *, charts: bool = False) -> str:
        return runs_page(self.experiment_id, charts=charts)

    def comparison_page(self, run_ids: Sequence[str]) -> str:
        return comparison_page(self.experiment_id, run_ids)

    def end(self, status: Status = "FINISHED") -> None:
        """Close the run, if this process owns it, when all is sent; of runs within it none stays open."""
        if self._owner:
            self._sender.hurry()
            self._sender.tell("send metrics", self._send_points)
            self._sender.tell("close the run", partial(self._close, status))

    def _close(self, status: Status) -> None:
        for run in _open_children(self._client, self.experiment_id, self._run()):
            self._client.set_terminated(run, status)
        self._client.set_terminated(self._run(), status)

    def farewell(self, seconds: float = FAREWELL_SECONDS) -> None:
        if left := self._sender.drain(seconds):
            logger.warning(
                "MLflow at %s did not answer within %.0f s: %d things were not sent, and runs may stay open there; "
                "run the same command again and they are made up for",
                self.uri,
                seconds,
                left,
            )

    def environment(self) -> dict[str, str]:
        return {URI_VARIABLE: self._line.uri, RUN_VARIABLE: self.run_id} if self.run_id else {}


class _Line(NamedTuple):
    """The way to one MLflow."""

    uri: str
    client: Any
    sender: Sender


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
        the tracker; one that tracks nothing, with a warning, if the server is out of reach.
    """
    if uri is None:
        return UNTRACKED

    sender = Sender("MLflow", is_away)

    def start() -> Tracker:
        client = _client(uri)
        experiment_id = _experiment(client, uri, experiment)
        labels = {**(tags or {}), **(resume or {})}
        run = run_id or _find_or_create(client, experiment_id, run_name, resume or {}, labels)
        return MlflowTracker(_Line(uri, client, sender), experiment_id, lambda: run, run_id=run)

    return sender.ask(f"open {public_uri(uri)}", start, OPEN_SECONDS) or UNTRACKED


def tracker_from_environment() -> Tracker:
    """The run named by `Tracker.environment()`, in a child process that does not own it."""
    uri, run_id = os.environ.get(URI_VARIABLE), os.environ.get(RUN_VARIABLE)
    if not uri or not run_id:
        return UNTRACKED

    sender = Sender("MLflow", is_away)

    def attach() -> Tracker:
        client = _client(uri)
        experiment_id = client.get_run(run_id).info.experiment_id
        return MlflowTracker(_Line(uri, client, sender), experiment_id, lambda: run_id, run_id=run_id, owner=False)

    return sender.ask(f"open {public_uri(uri)}", attach, OPEN_SECONDS) or UNTRACKED


def public_uri(uri: str) -> str:
    """A tracking URI without the login in it, for eyes and logs."""
    scheme, separator, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path}"


def why_unusable(uri: str) -> str | None:
    """Why MLflow cannot work with a tracking URI, in its own words; None if it can.

    A database file that is not there yet will be made when work starts, and is not made here.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None
    try:
        _client(uri).search_experiments(max_results=1)
    except Exception as error:  # noqa: BLE001 - whatever the backend raises: no driver, an old schema, no login …
        return first_line(error).replace(uri, public_uri(uri))
    return None


def is_away(error: BaseException | None) -> bool:
    """Whether an error says that MLflow does not answer, rather than that it refuses."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    code = getattr(error, "error_code", "")
    words = ("failed with exception", "failed with timeout exception", "too many 5", "failed with error code 5")
    return code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED") or any(word in str(error) for word in words)


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
            flat[_short(f"{prefix}{key}")] = text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"
    return flat


def _client(uri: str) -> Any:
    """An MLflow client that asks nobody, says little, and gives up soon where a server is away."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # With a server it prints two lines on stdout for each run that ends: into our one JSON document, login and all.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
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


def _aliased(client: Any, name: str, alias: str) -> ModelRef | None:
    """The model that an alias points at; None if there is no such model or alias, or it was registered by others."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    tags = version.tags
    if not {"digest", "uri", "role"} <= tags.keys():
        return None
    return ModelRef(role=tags["role"], uri=tags["uri"], digest=tags["digest"], registered_version=int(version.version))


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


def _open_children(client: Any, experiment_id: str, run: str) -> list[str]:
    """Runs within a run that nobody has closed: their process was killed, or MLflow did not answer when they ended."""
    query = f"tags.`{_PARENT}` = '{run}' and attributes.status = 'RUNNING'"
    return [str(child.info.run_id) for child in client.search_runs([experiment_id], query)]


def _short(name: str, most: int = _NAME_LENGTH) -> str:
    """A name that MLflow takes: other letters are replaced, and what is cut off is told apart by a digest."""
    allowed = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)
    return allowed if len(allowed) <= most else f"{allowed[: most - 17]}-{digest_of(name)[:16]}"


def _short_file_name(name: str) -> str:
    """A file's name that a file system takes, with its extension."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
    if len(name.encode()) <= _FILE_NAME_BYTES:
        return name
    return f"{stem.encode()[: _FILE_NAME_BYTES // 2].decode(errors='ignore')}-{digest_of(name)[:16]}{suffix[:16]}"


def _attempt(what: str, action: Callable[[], T]) -> T | None:
    """Do it; if MLflow or its server fails, warn and go on: tracking must never end the work it watches."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - every failure of tracking is survivable
        logger.warning("MLflow: could not %s: %s", what, first_line(error))
        return None
