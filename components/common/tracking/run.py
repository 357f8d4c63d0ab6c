"""One run of MLflow, told of on a thread of its own."""

import json
import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from components.common.contracts import DatasetRef, ModelRef
from components.common.redact import redact
from components.common.storage import join_uri
from components.common.tracking import registry
from components.common.tracking.apart import tell_apart, varied
from components.common.tracking.base import FAREWELL_SECONDS, RunsView, Score, Settings, Status, Tracker
from components.common.tracking.line import Line, attempt, is_away
from components.common.tracking.names import (
    DIGEST_LENGTH,
    INPUT_TAG_LENGTH,
    METRIC_BATCH,
    NAME_LENGTH,
    NOTE,
    TAG_LENGTH,
    flatten,
    public_uri,
    short,
    short_file_name,
)
from components.common.tracking.pages import comparison_page, run_page, runs_page, view_tags
from components.common.tracking.scores import log_scores
from components.common.tracking.search import PARENT, find_or_create_run, find_run, open_children

logger = logging.getLogger(__name__)
URI_VARIABLE = "CAPFILT_TRACKING_URI"
RUN_VARIABLE = "CAPFILT_RUN_ID"
FLUSH_SECONDS = 5.0
MAX_BUFFERED = 100_000  # metrics kept while the server is away
_PARAM_BATCH = 100  # MLflow's limit of params per call


class MlflowTracker(Tracker):
    """One MLflow run. `owner` says whether this process decides how the run ends.

    All is said on the sender's thread. Where MLflow is away when the run is asked for, `find` is called again before
    the first thing is said of it.
    """

    def __init__(
        self,
        line: "Line",
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
        self._points.extend((short(name), float(value), now, step) for name, value in metrics.items())
        if not self._awaited:
            self._awaited = True
            self._sender.tell("send metrics", self._send_points, after=FLUSH_SECONDS)

    def _send_points(self) -> None:
        """Send what has come together; what nobody answers to stays for the next time."""
        from mlflow.entities import Metric

        self._awaited = False
        while batch := [self._points.popleft() for _ in range(min(METRIC_BATCH, len(self._points)))]:
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
        history = self._client.get_metric_history(self._run(), short(name))
        return [(point.timestamp, point.step, float(point.value)) for point in history]

    def log_scores(self, scores: Mapping[str, Score]) -> None:
        def send() -> None:
            log_scores(self._client, self.experiment_id, self._run(), scores)

        self._sender.tell("send figures", send)

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._sender.tell("send parameters", partial(self._send_params, flatten(params)))

    def _send_params(self, params: Mapping[str, str]) -> None:
        """Those that are not known yet; on the sender's thread only."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run()).data.params
        fresh = [Param(key, value) for key, value in params.items() if key not in known]
        for start in range(0, len(fresh), _PARAM_BATCH):
            self._client.log_batch(self._run(), params=fresh[start : start + _PARAM_BATCH])

    def tell_apart(self, label: str, settings: Settings) -> None:
        def send() -> None:
            self._send_params(tell_apart(self._client, self.experiment_id, self._run(), label, settings))

        self._sender.tell("send settings", send)

    def varied_settings(self, settings: Settings) -> list[str]:
        find = partial(varied, self._client, self.experiment_id, settings)
        return self._sender.ask("look for what differs", find) or []

    def known_tag(self, name: str) -> str:
        def find() -> str:
            return str(self._client.get_run(self._run()).data.tags.get(name, ""))

        return self._sender.ask(f"read {name}", find) or ""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        def send() -> None:
            from mlflow.entities import RunTag

            rows = [RunTag(short(key), redact(str(value))[:TAG_LENGTH]) for key, value in tags.items()]
            self._client.log_batch(self._run(), tags=rows)

        self._sender.tell("send tags", send)

    def describe(self, text: str) -> None:
        self.log_tags({NOTE: text})

    def describe_experiment(self, text: str, views: Sequence[RunsView]) -> None:
        for key, value in {NOTE: text, **view_tags(views, int(time.time() * 1000))}.items():
            set_tag = partial(self._client.set_experiment_tag, self.experiment_id, key, value)
            self._sender.tell("describe the experiment", set_tag)

    def log_dataset(self, ref: DatasetRef, context: str, facts: Mapping[str, str] | None = None) -> None:
        def send() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=ref.name,
                digest=ref.digest[:DIGEST_LENGTH],
                source_type="s3" if ref.uri.startswith("s3://") else "local",
                source=json.dumps({"uri": join_uri(ref.uri, "manifest.json")}),
                profile=json.dumps({"images": ref.images, "pairs": ref.pairs}),
            )
            told = {"mlflow.data.context": context, "digest": ref.digest, **(facts or {})}
            labels = [InputTag(key, redact(value)[:INPUT_TAG_LENGTH]) for key, value in told.items()]
            self._client.log_inputs(self._run(), [DatasetInput(dataset, labels)])

        self._sender.tell("record a dataset", send)
        self.log_tags({f"dataset.{context}.{ref.name}": ref.digest})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        data = attempt(f"attach {path.name}", path.read_bytes)  # the file may be gone when its turn comes
        if data is not None:
            self.log_figure_bytes(data, f"{folder}/{path.name}" if folder else path.name)

    def log_text(self, text: str, name: str) -> None:
        self.log_figure_bytes(redact(text).encode(), name)

    def log_figure_bytes(self, data: bytes, name: str) -> None:
        folder, _, file_name = name.rpartition("/")

        def send() -> None:
            with tempfile.TemporaryDirectory(prefix="capfilt-") as scratch:
                path = Path(scratch) / short_file_name(file_name)
                path.write_bytes(data)
                self._client.log_artifact(self._run(), str(path), folder or None)

        self._sender.tell(f"attach {file_name[:NAME_LENGTH]}", send)

    def register_model(
        self,
        name: str,
        ref: ModelRef,
        tags: Mapping[str, str],
        *,
        about: str = "",
        card: str = "",
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        model = registry.Entry(name, ref, tags, about=redact(about), card=redact(card), aliases=aliases or {})

        def send() -> None:
            registry.register(self._client, self.experiment_id, self._run(), model)

        self._sender.tell(f"register {name}", send)

    def find_champions(self, names: Sequence[str]) -> list[ModelRef] | None:
        def find() -> list[ModelRef]:
            return [ref for name in names if (ref := registry.aliased(self._client, name, "champion")) is not None]

        return self._sender.ask("look for the champion", find)

    def has_child(self, name: str) -> bool:
        def find() -> tuple[str | None]:
            return (find_run(self._client, self.experiment_id, self._child_of(name)),)

        known = self._sender.ask(f"look for {name}", find)
        return known is None or known[0] is not None

    def _child_of(self, name: str) -> dict[str, str]:
        return {PARENT: self._run(), "mlflow.runName": name}

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> Tracker:
        def find() -> str:
            labels = {PARENT: self._run(), **(tags or {})}
            return find_or_create_run(self._client, self.experiment_id, name, self._child_of(name), labels)

        return self._other(name, find)

    def beside(self, name: str, tags: Mapping[str, str]) -> Tracker:
        return self._other(name, lambda: find_or_create_run(self._client, self.experiment_id, name, tags, tags))

    def _other(self, name: str, find: Callable[[], str]) -> Tracker:
        other = MlflowTracker(self._line, self.experiment_id, find)
        if self._sender.ask(f"start {name}", other._run) is None:
            self._sender.tell(f"start {name}", other._run)
        return other

    def page(self, tab: str = "") -> str:
        return run_page(self.experiment_id, self.run_id, tab) if self.run_id else ""

    def runs_page(self, view: str = "rounds", *, charts: bool = False) -> str:
        return runs_page(self.experiment_id, view, charts=charts)

    def comparison_page(self, run_ids: Sequence[str]) -> str:
        return comparison_page(self.experiment_id, run_ids)

    def end(self, status: Status = "FINISHED") -> None:
        """Close the run, if this process owns it, when all is sent; of runs within it none stays open."""
        if self._owner:
            self._sender.hurry()
            self._sender.tell("send metrics", self._send_points)
            self._sender.tell("close the run", partial(self._close, status))

    def _close(self, status: Status) -> None:
        for run in open_children(self._client, self.experiment_id, self._run()):
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
