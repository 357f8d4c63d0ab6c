"""CapFilt from web shards to a sealed dataset."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from components.common.contracts import CapfiltResult, DatasetRef, ModelRef
from components.common.errors import ConfigError
from components.common.progress import Progress
from components.common.scratch import ScratchFolder
from components.common.storage import Store
from components.common.tracking import Tracker
from components.data.candidates import stored_candidates
from components.data.decoding import MAX_PIXELS, MIN_SIDE
from components.data.health import Health
from components.data.manifest import (
    Counts,
    ShardRecord,
    dataset_store,
    is_planned,
    plan_dataset,
    read_commit,
    seal_dataset,
)
from components.inference.arithmetic import Precision
from components.regeneration.config import OUTPUT_VERSION, CapfiltConfig
from components.regeneration.engines import engine_precision, run_engine
from components.regeneration.guard import check_collapse
from components.regeneration.plan import Plan, web_input
from components.regeneration.reading import ShardSource
from components.regeneration.shard import Finished
from components.regeneration.stats import ShardStats, merge_shards, run_metrics, shard_stats

logger = logging.getLogger(__name__)

REVISION = OUTPUT_VERSION + 1  # 1: keys that an earlier shard has; it is in the plan's fingerprint where it matters
"""Part of the stage's cache key: raised when the same input would give another output."""


def run_capfilt(
    web: DatasetRef | str,
    captioner: ModelRef,
    filter: ModelRef,  # noqa: A002 - the role's name
    config: CapfiltConfig,
    *,
    store: Store,
    name: str,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    work_dir: Path | None = None,
    out: Store | None = None,
) -> CapfiltResult:
    """Caption every web image, filter web and synthetic texts, and seal what is left as a new dataset.

    Shards that an earlier run committed are not touched again, so an interrupted run is simply run again.

    Args:
        web: a sealed web dataset, or the URI of a folder or prefix with WebDataset tars.
        captioner: model folder for captions.
        filter: model folder for matching.
        config: settings.
        store: root under which the dataset gets its place, `datasets/<name>/<fingerprint>`.
        name: name of the new dataset.
        tracker: where the curves go.
        progress: counts samples; without one a fresh one is shown.
        work_dir: local folder for models and temporary files; by default one that is deleted afterwards.
        out: exact root of the dataset, instead of its place under `store`.

    Raises:
        ConfigError: `out` holds a dataset of another plan, the message says what differs; or the config has a target
            precision and no threshold for it yet.
        DataError: no shards, or a shard changed since the plan was made.
        GateError: captions have collapsed.
        StorageError: a store refuses; what was committed stays.
    """
    if config.target_precision is not None:
        raise ConfigError("a threshold has yet to be chosen for target_precision: see calibration.settle")
    plan = Plan(web_input(web, config.limit), captioner, filter, config)

    def place(plan: Plan) -> Store:
        return out or dataset_store(store, name, plan.fingerprint)

    if config.precision == "auto":
        plan = _at_a_precision(plan, place)
        logger.info("%s: arithmetic in %s", name, plan.config.precision)
    target = place(plan)
    plan_dataset(target, plan.as_json())
    run = Run(name, plan, target, tracker)
    todo = run.recall()
    with _folder(work_dir) as folder, _shown(progress, name, plan.web.samples, run.recalled) as run.progress:
        if todo:
            run_engine(plan, todo, target, folder, on_images=run.count_images, on_shard=run.finished)
    return run.seal()


def _at_a_precision(plan: Plan, place: Callable[[Plan], Store]) -> Plan:
    """A plan for `auto`: at the precision it was begun at, perhaps elsewhere, or at the one that is fast here."""
    choices: dict[Precision, Plan] = {precision: plan.at(precision) for precision in get_args(Precision)}
    begun = (one for one in choices.values() if is_planned(place(one), one.as_json()))
    return next(begun, None) or choices[engine_precision(plan.config)]


class Run:
    """What is known of a run so far: finished shards, figures, and where to show them."""

    def __init__(self, name: str, plan: Plan, store: Store, tracker: Tracker | None) -> None:
        self.name, self.plan, self.store, self.tracker = name, plan, store, tracker
        self.progress: Progress | None = None
        self.recalled = 0
        self._images = 0
        self._started = time.monotonic()
        self._health = Health(plan.web.uri)
        self._records: dict[str, ShardRecord] = {}
        self._stats: dict[str, ShardStats] = {}

    def recall(self) -> list[ShardSource]:
        """Take over what earlier runs committed; the shards that are left."""
        todo, config = [], self.plan.config
        for shard in self.plan.web.shards:
            record = read_commit(self.store, shard.name)
            if record is None:
                todo.append(shard)
            else:
                rows = stored_candidates(self.store.uri, record.parquet).rows()
                self._remember(Finished(record, shard_stats(rows, config.threshold, by_coin=config.coin is not None)))
                self.recalled += record.counts.samples
        if self._records:
            logger.info(
                "%s: %d of %d shards were done before", self.name, len(self._records), len(self.plan.web.shards)
            )
        return todo

    def count_images(self, images: int) -> None:
        """Samples done since the last call."""
        self._images += images
        if self.progress is not None:
            self.progress.advance(images, shards=f"{len(self._records)}/{len(self.plan.web.shards)}")

    def finished(self, shard: Finished) -> None:
        """A shard was committed.

        Raises:
            GateError: the captions of all shards so far have collapsed.
        """
        self._remember(shard)
        stats = self._totals()
        check_collapse(stats.captions, self.plan.config.guard, f"dataset {self.name}")
        if self.tracker is not None:
            self.tracker.log_metrics(self._metrics(stats), step=self._counts().samples)

    def seal(self) -> CapfiltResult:
        """Write the manifest: the dataset exists from now on.

        Raises:
            DataError: most of the input cannot be used, as the import would say.
        """
        records = [self._records[shard.name] for shard in self.plan.web.shards]
        self._health.refuse(meant=_asked_for(self.plan.config))
        ref = seal_dataset(
            self.store,
            name=self.name,
            kind="capfilt",
            config=self.plan.config.effective(),
            fingerprint=self.plan.fingerprint,
            records=records,
            parents=self.plan.parents,
            origin=self.plan.web.uri,
        )
        metrics, counts = self._metrics(self._totals()), self._counts()
        if counts.kept_pairs == 0:
            logger.warning(
                "%s: not one of %d texts was kept, so there is nothing to train on: the filter accepts nothing at a "
                "threshold of %g. Look at its purity and yield on human captions; finetune it longer, or lower the "
                "threshold (`capfilt dataset recut` does without a model)",
                self.name,
                counts.dropped_pairs,
                self.plan.config.threshold,
            )
        if self.tracker is not None:
            self.tracker.log_metrics(metrics, step=counts.samples)
        return CapfiltResult(dataset=ref, metrics=metrics)

    def _remember(self, shard: Finished) -> None:
        self._health.look(shard.record)
        self._records[shard.record.name] = shard.record
        self._stats[shard.record.name] = shard.stats

    def _totals(self) -> ShardStats:
        return merge_shards(list(self._stats.values()))

    def _counts(self) -> Counts:
        return Counts.total(record.counts for record in self._records.values())

    def _metrics(self, stats: ShardStats) -> dict[str, float]:
        return run_metrics(stats, self._counts(), time.monotonic() - self._started, self._images)


def _asked_for(config: CapfiltConfig) -> set[str]:
    """Failures that are the settings' wish, not the input's fault."""
    smaller = {"too_many_pixels"} if config.max_pixels < MAX_PIXELS else set()
    return smaller | ({"too_small"} if config.min_side > MIN_SIDE else set())


@contextlib.contextmanager
def _shown(progress: Progress | None, name: str, total: int | None, done: int) -> Iterator[Progress]:
    """The caller's progress, or one of our own."""
    if progress is None:
        with Progress(total, "images", name, done=done) as own:
            yield own
    else:
        progress.update(progress.done + done)
        yield progress


@contextlib.contextmanager
def _folder(work_dir: Path | None) -> Iterator[Path]:
    """A folder of this run alone, gone afterwards; fetched models are kept in `work_dir` if one is given."""
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with ScratchFolder("run", work_dir) as folder:
        yield folder
