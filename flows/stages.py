"""The context a bootstrap works on, and how one stage runs there: found done, or worked, recorded last.

A stage's truth is its record in the store, `stages/<kind>/<digest>.json`: the digest covers the component's REVISION,
the config it depends on and the digests of its inputs; the record is written after the outputs. So a finished stage is
found in a new process, on another machine, and with Prefect's database lost. Prefect shows it; it does not decide it.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel, ValidationError

from components.common import screen
from components.common.contracts import Contract, DatasetRef, EvalReport, ModelRef, StageReport
from components.common.errors import StorageError
from components.common.locations import absolute_values, relative_values
from components.common.lock import Lock, exclusive
from components.common.metrics import compared
from components.common.progress import clock
from components.common.redact import install_redaction
from components.common.seeding import canonical_json, digest_of
from components.common.storage import Store, join_uri, open_store, split_uri
from components.common.surroundings import surroundings
from components.common.tracking import Tracker, open_tracker
from components.config import BootstrapConfig, Training
from components.evaluation.config import EvaluationConfig
from components.training.config import TrainConfig
from flows.course import Course, told
from flows.layout import LOCK_KEY, parent_run, scratch_folder, settings
from flows.witness import work_calmly

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Contract)
RETRY_SECONDS: list[float] = [5, 30]
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, ValidationError)


@dataclass(frozen=True)
class StageContext:
    """What one running stage gets: its MLflow run, a folder that survives a crash, and a place for its model.

    `confirm` raises if the bootstrap's lock was lost: for before anything is committed that others will trust.
    """

    tracker: Tracker
    work_dir: Path
    model_store: Store
    confirm: Callable[[], None]


@dataclass(frozen=True)
class Stage(Generic[R]):
    """One stage: what its result depends on, and the work.

    Args:
        name: shown everywhere, e.g. `round-1/pretrain`.
        kind: groups records: `pretrain`, `capfilt` …
        revision: the component's REVISION; a new one makes old results stale.
        depends: configs, digests: everything the result is a function of, as JSON or pydantic models; of a model what
            `identity.deciding` says of it.
        result: the contract it returns.
        work: does it.
    """

    name: str
    kind: str
    revision: int
    depends: Mapping[str, Any]
    result: type[R]
    work: Callable[[StageContext], R]

    @property
    def digest(self) -> str:
        """What this result is filed under."""
        return digest_of({"kind": self.kind, "revision": self.revision, "depends": dict(self.depends)})

    @property
    def plain_depends(self) -> dict[str, Any]:
        """What it depends on, as its record has it."""
        depends: dict[str, Any] = json.loads(canonical_json(dict(self.depends)))
        return depends

    @property
    def round(self) -> int | None:
        """The round it is part of; None: of none."""
        number = self.name.partition("/")[0].removeprefix("round-")
        return int(number) if number.isdigit() else None

    @property
    def labels(self) -> dict[str, str]:
        """Tags of its MLflow run."""
        labels = {"stage": self.kind, "stage.digest": self.digest}
        return labels if self.round is None else labels | {"round": str(self.round)}


@dataclass
class BootstrapContext:
    """The store and the MLflow run of one bootstrap, and the reports of its stages so far."""

    config: BootstrapConfig
    store: Store
    tracker: Tracker
    scratch: Path
    course: Course = field(default_factory=Course)
    lock: Lock | None = None

    @property
    def reports(self) -> list[StageReport]:
        """Of its stages so far."""
        return self.course.reports

    def training(self, role: Training) -> TrainConfig:
        """The settings of a training, in the arithmetic of this store."""
        from components.inference.settling import settled  # torch comes with it

        return settled(self.config.training(role), self.store, "training")

    def evaluation(self) -> EvaluationConfig:
        """How models are measured, in the arithmetic of this store."""
        from components.inference.settling import settled

        return settled(self.config.evaluation, self.store, "evaluation")

    def run(self, stage: Stage[R]) -> R:
        """The stage's result: from its record if it is finished, else by working, as a Prefect task on this thread.

        The task is called directly, never submitted: a cancellation reaches only the main thread, and whoever waits
        for a training there can end it (docs/facts.md 15).
        """
        results: list[R] = []

        def body() -> State[Any] | None:
            found = self._find(stage)
            if found is not None:
                result, seconds = found
            else:
                start = time.monotonic()
                with self.course.working(stage.name):
                    result = self._work(stage)
                seconds = time.monotonic() - start
            results.append(result)
            self._report(stage, result, seconds, cached=found is not None)
            return None if found is None else Completed(name="Cached", message="found in the store")

        as_task = task(
            name=stage.kind,
            task_run_name=stage.name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=len(RETRY_SECONDS),
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=_can_heal,
        )
        work_calmly(as_task, body)
        return results[-1]

    def earlier(self, stage: Stage[R], but: str) -> R | None:
        """The newest result of a stage that depended on the same but for one thing, e.g. `web`; None if none did."""
        found: list[tuple[float, R]] = []
        for info in self.store.list(f"stages/{stage.kind}/"):
            try:
                record = json.loads(self.store.read(info.key))
                if _same_but(but, stage, record):
                    found.append((float(record["finished"]), self._result(stage, record)))
            except _UNREADABLE as error:
                logger.debug("%s: %s is not gone on from: %s", stage.name, info.key, error)
        whole = [one for one in found if all(_is_there(uri) for uri in _outputs(one[1]))]
        return max(whole, key=lambda one: one[0])[1] if whole else None

    def _result(self, stage: Stage[R], record: Mapping[str, Any]) -> R:
        return stage.result.model_validate(absolute_values(self.store.uri, record["result"]))

    def _find(self, stage: Stage[R]) -> tuple[R, float] | None:
        """The recorded result and the seconds it took, if the stage is finished and its outputs are still there."""
        key = _record_key(stage)
        if not self.store.exists(key):
            return None
        try:
            record = json.loads(self.store.read(key))
            result, seconds = self._result(stage, record), float(record["seconds"])
        except _UNREADABLE:
            logger.warning("%s: its record %s cannot be read; it is done again", stage.name, key)
            return None
        missing = [uri for uri in _outputs(result) if not _is_there(uri)]
        if missing:
            logger.warning("%s was done, but %s is gone; it is done again", stage.name, missing[0])
            return None
        return result, seconds

    def _work(self, stage: Stage[R]) -> R:
        logger.info("%s …", stage.name)
        start = time.monotonic()
        folder = self.scratch / "work" / f"{stage.kind}-{stage.digest[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        child = self.tracker.child(stage.name, stage.labels)
        with child.closing():
            models = self.store.child("models", stage.kind, stage.digest[:16])
            result = stage.work(StageContext(child, folder, models, self._confirm))
        self._record(stage, result, time.monotonic() - start)
        shutil.rmtree(folder, ignore_errors=True)
        return result

    def _confirm(self) -> None:
        """Make sure of the store's lock."""
        if self.lock is not None:
            self.lock.check()

    def _record(self, stage: Stage[R], result: R, seconds: float) -> None:
        self._confirm()
        record = {
            "stage": stage.name,
            "kind": stage.kind,
            "revision": stage.revision,
            "depends": stage.plain_depends,
            "result": relative_values(self.store.uri, result.model_dump(mode="json")),
            "seconds": round(seconds, 3),
            "finished": time.time(),
            "made": surroundings(),
        }
        self.store.write(_record_key(stage), json.dumps(record, indent=1).encode())

    def _report(self, stage: Stage[R], result: R, seconds: float, *, cached: bool) -> None:
        metrics = dict(getattr(result, "metrics", {}))
        if cached and not self.tracker.has_child(stage.name):  # done on another machine, or MLflow's database was lost
            child = self.tracker.child(stage.name, {**stage.labels, "cached": "true"})
            child.log_metrics(metrics)
            child.end()
        if stage.round is not None:
            self._draw_curves(stage.round, compared(metrics))
        self.reports.append(StageReport(stage=stage.name, seconds=seconds, cached=cached, metrics=metrics))
        logger.info("%s: %s", stage.name, "found done" if cached else f"done in {clock(seconds)}")
        screen.line(stage.name, "found done" if cached else clock(seconds))

    def _draw_curves(self, number: int, metrics: Mapping[str, float]) -> None:
        """Put a stage's figures on the bootstrap's run, the round as step, so that MLflow draws the rounds' curve.

        A bootstrap that is run again finds its stages done and its run there: known points are not repeated.
        """
        probe = next(iter(metrics), None)
        if probe is not None and self.tracker.known_point(probe, number) != metrics[probe]:
            self.tracker.log_metrics(metrics, step=number)


@contextlib.contextmanager
def open_bootstrap(config: BootstrapConfig, run_name: str = "bootstrap") -> Iterator[BootstrapContext]:
    """Prove the store, take its lock, open the MLflow run, and close them in every case.

    Raises:
        StorageError: the store refuses us; nothing was started.
        BusyError: another bootstrap works on this store.
    """
    install_redaction()
    store = open_store(config.store)
    store.check()
    scratch = scratch_folder(config)
    with exclusive(store, LOCK_KEY, f"{run_name} {config.name!r}") as lock:
        run = parent_run(config)
        tracker = open_tracker(config.tracking_uri(scratch), **run)
        tracker.tell_apart(run["run_name"], settings(config))
        course = Course(name=config.name, rounds=config.rounds)
        context = BootstrapContext(config, store, tracker, scratch, course, lock)
        try:
            with told(course, lock, store, bootstrap=config.bootstrap_id, scratch=scratch), tracker.closing():
                yield context
        finally:
            tracker.farewell()


def _can_heal(task: Any, run: Any, state: State[Any]) -> bool:
    """Retry only what another try can heal."""
    try:
        state.result()
    except StorageError as error:
        return error.retryable
    except BaseException:  # noqa: BLE001 - whatever it is, it is not a storage error that heals
        return False
    return False


def _same_but(name: str, stage: Stage[Any], record: Mapping[str, Any]) -> bool:
    """Whether a record is of another stage that differs in this one thing."""
    now, then = stage.plain_depends, record["depends"]
    return bool(record["revision"] == stage.revision and now != then and now == {**then, name: now[name]})


def _record_key(stage: Stage[Any]) -> str:
    return f"stages/{stage.kind}/{stage.digest}.json"


def _outputs(result: BaseModel) -> Iterator[str]:
    """URIs of the objects that show a result's outputs to be whole: what was written last."""
    if isinstance(result, DatasetRef):
        yield join_uri(result.uri, "manifest.json")
    elif isinstance(result, ModelRef):
        yield join_uri(result.uri, "model.json")
    elif isinstance(result, EvalReport):
        yield from filter(None, [result.uri])
    else:
        for name in type(result).model_fields:
            value = getattr(result, name)
            if isinstance(value, BaseModel):
                yield from _outputs(value)
            elif name.endswith("_uri") and isinstance(value, str):
                yield value


def _is_there(uri: str) -> bool:
    folder, name = split_uri(uri)
    return open_store(folder).exists(name)
