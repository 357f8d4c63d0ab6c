"""A worker: holds the models and takes shards, in a process of its own, on this machine or in a Ray cluster."""

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.common.redact import redact_output
from components.common.scratch import ScratchFolder
from components.common.storage import Store, open_store
from components.data.manifest import plan_dataset
from components.inference.families import is_endpoint
from components.model.checkpoints.weights import fetch_model
from components.regeneration.local import process_shards
from components.regeneration.models import CapfiltModels, load_models
from components.regeneration.plan import Plan
from components.regeneration.reading import ShardSource
from components.regeneration.shard import Finished

SHARDS_AT_ONCE = 2
"""Shards a worker has begun: while one is being written, the models work on the other."""


def answers_of(dataset: str) -> str:
    """Where the answers of a captioner's server are kept, by the root of the dataset they are for."""
    return f"{dataset}.answers"


@dataclass(frozen=True)
class Assignment:
    """What a worker needs to know: the plan, where the output goes, and where it may put files of its own."""

    plan: Plan
    store_uri: str
    work_dir: Path | None
    threads: int

    def models(self, slot: int, folder: Path) -> CapfiltModels:
        """Fetch and load the models for the GPU of this slot, or the CPU; then write down the plan."""
        if self.threads:
            torch.set_num_threads(self.threads)
        plan = self.plan
        served = is_endpoint(plan.captioner.uri)
        captioner = plan.captioner.uri if served else fetch_model(plan.captioner.uri, folder / "models")
        filter = fetch_model(plan.filter.uri, folder / "models")
        answers = open_store(plan.answers or answers_of(self.store_uri)) if served else None
        scorers = [(name, one.uri, fetch_model(one.uri, folder / "models")) for name, one in plan.scorers]
        models = load_models(
            captioner,
            filter,
            plan.config,
            plan.stream,
            slot,
            filter_name=plan.filter.uri,
            scorers=scorers,
            answers=answers,
        )
        # Only now: a start that fails for its models or settings must not keep the place from the right ones.
        plan_dataset(open_store(self.store_uri), plan.as_json())
        return models


class ShardWorker:
    """Loads the models once, then works on shard after shard; several threads may call `work`."""

    def __init__(self, assignment: Assignment, slot: int = 0) -> None:
        redact_output()
        self._folder = ScratchFolder("worker", assignment.work_dir)
        self._path = self._folder.path
        self._store: Store = open_store(assignment.store_uri)
        self._plan = assignment.plan.fingerprint
        self._models = assignment.models(slot, assignment.work_dir or self._path)

    def work(self, source: ShardSource) -> Finished:
        """Make one shard and commit it."""
        work = process_shards([source], self._models, self._store, self._path, plan=self._plan)
        with contextlib.closing(work) as finished:
            return next(finished)

    def close(self) -> None:
        """Delete its folder, models that were fetched among it."""
        self._folder.close()

    def process(self) -> int:
        """The number of the worker's process, for whoever wants to watch it."""
        return os.getpid()


_worker: dict[str, Any] = {}


def start_in_pool(assignment: Assignment, slots: Any) -> None:
    """Initialiser of a pool's process: load the models; end when the parent does."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    _worker["shards"] = ShardWorker(assignment, slots.get())


def work_in_pool(source: ShardSource) -> Finished:
    """Make one shard in a pool's process."""
    worker: ShardWorker = _worker["shards"]
    return worker.work(source)


def _end_with_parent(parent: int) -> None:
    """A parent killed outright cannot end its workers; they notice and go, their half-made shards count for nothing."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
