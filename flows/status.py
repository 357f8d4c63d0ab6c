"""How a store stands, for whoever asks: what its run says, whether that run is alive, and what ended here."""

import time
from datetime import datetime
from typing import Literal

from pydantic import Field

from components.common.contracts import BootstrapResult, Contract
from components.common.diskspace import free_space
from components.common.errors import StorageError
from components.common.lock import STALE_SECONDS, Ticket, who_holds
from components.common.storage import Store, join_uri, open_store
from components.data.commits import load_json
from components.data.manifest import MANIFEST_KEY, PLAN_KEY, load_manifest
from components.pages.results import find_result
from flows.course import Note, read_note
from flows.layout import LOCK_KEY

Standing = Literal["running", "crashed", "failed", "interrupted", "ended", "busy", "idle", "making", "sealed"]
"""`busy`: another command holds the store; `making`, `sealed`: it is no store but a single dataset."""


class Making(Contract):
    """A dataset that stands alone, as `capfilt regenerate` makes it."""

    shards_done: int
    shards: int = Field(description="0: its plan does not say")
    last_shard: float | None = Field(description="when the last one was committed, seconds since 1970")
    images: int | None = Field(description="with a kept caption; null before it is sealed")
    pairs: int | None


class Ended(Contract):
    """The bootstrap that ended last in a store."""

    name: str
    bootstrap: str
    finished: datetime
    outcome: str
    report: str | None


class Status(Contract):
    """How a store stands. Times are seconds since 1970."""

    store: str
    standing: Standing
    note: Note | None = Field(description="what the last run said of itself; null: none has kept a note here")
    heartbeat: float | None = Field(description="when the run that is alive last showed it")
    holder: str | None = Field(description="who works here: purpose, process and host")
    stale_seconds: float = Field(default=STALE_SECONDS, description="silence after which a run elsewhere is gone")
    stages_recorded: int = Field(description="finished stages that the store keeps, of all its bootstraps")
    ended: Ended | None
    dataset: Making | None = None
    free_bytes: int | None = Field(description="on the store's disk; null on S3, which has no limit of its own")
    asked: float


def status_of(uri: str) -> Status:
    """Look at a store; nothing is changed in it.

    Raises:
        StorageError: there is nothing there, or it cannot be read.
    """
    store = open_store(uri)
    root = store.local_path("")
    if root is not None and not root.is_dir():
        raise StorageError(f"{store.uri}: there is no such folder; give a run's store, as `store` in its config has it")
    ticket, note = who_holds(store, LOCK_KEY), read_note(store)
    recorded = sum(1 for one in store.list("stages/") if one.key.endswith(".json"))
    ended, dataset = _ended(store), _dataset(store)
    if not (ticket or note or recorded or ended or dataset):
        raise StorageError(f"{store.uri}: no bootstrap has worked here; give the store of a run, or a dataset's root")
    return Status(
        store=store.uri,
        standing=_standing(ticket, note, ended, dataset),
        note=note,
        heartbeat=None if ticket is None else ticket.modified,
        holder=None if ticket is None else _named(ticket),
        stages_recorded=recorded,
        ended=ended,
        dataset=dataset,
        free_bytes=None if root is None else free_space(root)[1],
        asked=time.time(),
    )


def _standing(ticket: Ticket | None, note: Note | None, ended: Ended | None, dataset: Making | None) -> Standing:
    """What note and lock say together: the note of a run that was killed goes on saying that it runs."""
    if ticket is not None:
        return "running" if note is not None and note.token == ticket.token else "busy"
    if note is not None:
        return "crashed" if note.state == "running" else note.state
    if dataset is not None:
        return "making" if dataset.images is None else "sealed"
    return "idle" if ended is None else "ended"


def _named(ticket: Ticket) -> str:
    purpose, host = ticket.named()
    return f"{purpose} (process {ticket.content.get('pid', '?')} on {host})"


def _ended(store: Store) -> Ended | None:
    try:
        result: BootstrapResult = find_result(store)
    except StorageError:
        if any(store.list("results/")):
            raise
        return None
    names = ("name", "bootstrap", "finished", "outcome", "report")
    return Ended(**{name: getattr(result, name) for name in names})


def _dataset(store: Store) -> Making | None:
    if not store.exists(PLAN_KEY):
        return None
    planned = load_json(store.read(PLAN_KEY), join_uri(store.uri, PLAN_KEY)).get("shards", [])
    commits = {one.key.rpartition("-")[0]: one.modified for one in store.list("commits/")}
    totals = load_manifest(store.uri).totals if store.exists(MANIFEST_KEY) else None
    return Making(
        shards_done=len(commits),
        shards=len(planned),
        last_shard=max(commits.values(), default=None),
        images=None if totals is None else totals.kept,
        pairs=None if totals is None else totals.kept_pairs,
    )
