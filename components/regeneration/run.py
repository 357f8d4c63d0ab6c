"""CapFilt from web shards to a sealed dataset."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from components.common.contracts import CapfiltResult, DatasetRef, ModelRef
from components.common.errors import ConfigError, DataError
from components.common.locations import is_below
from components.common.progress import Progress
from components.common.scratch import ScratchFolder
from components.common.storage import Store, sha256_hex
from components.common.tracking import UNTRACKED, Tracker
from components.data.candidates import read_candidates
from components.data.commits import READERS, contested, recall
from components.data.config import MAX_PIXELS, MIN_SIDE
from components.data.health import Health
from components.data.manifest import (
    check_plan,
    dataset_store,
    find_dataset,
    load_manifest,
    plan_dataset,
    seal_dataset,
)
from components.data.records import Provenance, ShardEntry, ShardRecord
from components.data.shardtable import ShardTable
from components.regeneration.band import check_tolerance
from components.regeneration.config import OUTPUT_VERSION, CapfiltConfig
from components.regeneration.engines import run_engine
from components.regeneration.extend import Base, adopt, check_extends, open_base, unchanged
from components.regeneration.finding import settled_bands
from components.regeneration.guard import check_collapse
from components.regeneration.lineup import settled_models
from components.regeneration.local import Done
from components.regeneration.plan import Plan, web_input
from components.regeneration.precision import settled_alone, settled_in_store
from components.regeneration.reading import ShardSource
from components.regeneration.repeats import tell_repeats
from components.regeneration.retry import retry_shards, what_again
from components.regeneration.shard import Finished, stats_of
from components.regeneration.stats import ShardStats, Totals, run_metrics
from components.regeneration.worker import Assignment, answers_of

logger = logging.getLogger(__name__)

_POINTS = 500  # of the curves that are shown, at least; as many as shards where there are fewer

REVISION = (
    OUTPUT_VERSION + 1
)  # 1 more: keys that an earlier shard has; it is in the plan's fingerprint where it matters
"""Part of the stage's cache key: raised when the same input would give another output."""


def run_capfilt(
    web: DatasetRef | str,
    captioner: ModelRef,
    filter: ModelRef,  # noqa: A002 - the role's name
    config: CapfiltConfig,
    *,
    store: Store,
    name: str,
    tracker: Tracker = UNTRACKED,
    progress: Progress | None = None,
    work_dir: Path | None = None,
    out: Store | None = None,
    extend: str | None = None,
    retry: str | None = None,
    scorers: Mapping[str, ModelRef] | None = None,
    answers: str = "",
    confirm: Callable[[], None] = lambda: None,
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
        extend: a version that CapFilt made of earlier web data with the same models and settings: its shards are
            taken over where they are the same, and the new version names it as a parent.
        retry: outcomes (`errors`, or several: `errors,cut`) of captions in that version which are asked for again;
            everything else in its shards is taken over too.
        scorers: further scorers by the names of their scores, each a column of the candidate tables.
        answers: where the answers of a captioner's server are kept; empty: beside the dataset.
        confirm: called after every shard and before the manifest; raises where the work is no longer ours.

    Raises:
        ConfigError: `out` holds a dataset of another plan, the message says what differs, or lies inside the web data;
            or the config has a target precision and no threshold for it yet, or a score and no weights; or there is
            nothing to retry.
        DataError: no shards, or a shard changed since the plan was made.
        GateError: captions have collapsed.
        StorageError: a store refuses; what was committed stays.
    """
    if config.needs_calibration:
        raise ConfigError("a threshold or weights have yet to be chosen on human captions: see calibration.settle")
    base = None if extend is None else open_base(extend)
    if base is not None:
        config = base.settled(config)
    again = {} if retry is None else what_again(base, retry)
    config, more = settled_models(captioner, filter, scorers or {}, config)
    kept = answers or ("" if out is None else answers_of(out.uri))
    plan = Plan(web_input(web, config.limit), captioner, filter, config, answers=kept, **more, **again)
    plan = replace(plan, config=settled_in_store(config, store)) if out is None else settled_alone(plan, out)
    if plan.config.needs_band:
        plan = _with_bands(plan, store if out is None else out, work_dir, name)
    logger.info("%s: arithmetic in %s", name, plan.config.precision)
    target = out if out is not None else dataset_store(store, name, plan.fingerprint)
    _refuse_inside(plan.web.uri, target.uri)
    check_plan(target, plan.as_json())
    if base is not None:
        check_extends(base, plan)
    target.check()
    run = Run(name, plan, target, tracker, base, confirm)
    todo = run.recall()
    if base is not None:
        todo = run.adopt(base, todo)
    with _folder(work_dir) as folder, _shown(progress, name, plan.web.samples, run.recalled) as run.progress:
        if base is not None and plan.retry:
            todo = run.retry(base, todo, folder)
        if todo:
            run_engine(plan, todo, target, folder, on_images=run.count_images, on_shard=run.finished)
    return run.seal()


def _with_bands(plan: Plan, place: Store, work_dir: Path | None, name: str) -> Plan:
    """The plan with its cascade's bands, which cost a pass over a sample where they were not found before."""
    with _folder(work_dir) as folder:
        return replace(plan, config=settled_bands(plan, place, folder, name))


def _refuse_inside(web: str, out: str) -> None:
    """What is written must not lie among what is read: the next start would take it for input."""
    if is_below(web, out):
        raise ConfigError(f"the new dataset ({out}) would lie inside the web data ({web}): write it beside that")


class Run:
    """What is known of a run so far: finished shards, figures, and where to show them."""

    def __init__(
        self, name: str, plan: Plan, store: Store, tracker: Tracker, base: Base | None, confirm: Callable[[], None]
    ) -> None:
        self.name, self.plan, self.store, self.tracker = name, plan, store, tracker
        self._parents = plan.parents if base is None else (*plan.parents, base.parent)
        self._confirm = confirm
        self.progress: Progress | None = None
        self.recalled = 0
        self._fingerprint = plan.fingerprint
        self._images = self._texts = self._kept = 0
        self._started = time.monotonic()
        self._health = Health(plan.web.uri)
        self._entries: dict[str, ShardEntry] = {}
        self._totals = Totals()

    def recall(self) -> list[ShardSource]:
        """Take over what earlier runs committed; the shards that are left."""
        self._entries, self._totals, self._health = {}, Totals(), Health(self.plan.web.uri)
        names = [shard.name for shard in self.plan.web.shards]
        found = recall(self.store, plan=self._fingerprint, names=names, sealed=self._sealed())
        with ThreadPoolExecutor(READERS, "recall") as pool:
            for record, stats in pool.map(self._recalled, found.values()):
                if stats is not None:
                    self._remember(Finished(record, stats))
        self.recalled = self._totals.counts.samples
        if self._entries:
            logger.info("%s: %d of %d shards were done before", self.name, len(self._entries), len(names))
        return [shard for shard in self.plan.web.shards if shard.name not in self._entries]

    def adopt(self, base: Base, todo: list[ShardSource]) -> list[ShardSource]:
        """Take over shards of the version that is extended; the shards that are left."""
        plan_dataset(self.store, self.plan.as_json())
        for record in adopt(base, self.plan, todo, self.store):
            _, stats = self._recalled(record)
            if stats is None:
                raise DataError(f"{base.store.uri}: a table of shard {record.name} was changed; verify that version")
            self._remember(Finished(record, stats))
        left = [shard for shard in todo if shard.name not in self._entries]
        logger.info("%s: %d shards taken over from %s", self.name, len(todo) - len(left), base.store.uri)
        self.recalled = self._totals.counts.samples
        return left

    def retry(self, base: Base, todo: list[ShardSource], folder: Path) -> list[ShardSource]:
        """Ask again for captions of shards that are otherwise taken over; the shards that are left."""
        same = unchanged(base, todo)
        if same:
            models = Assignment(self.plan, self.store.uri, folder, self.plan.config.threads).models(0, folder)
            for shard in retry_shards(base, self.plan, same, models, self.store, folder):
                self.count_images(Done.of(shard.record.counts))
                self.finished(shard)
        return [shard for shard in todo if shard.name not in self._entries]

    def _sealed(self) -> dict[str, str]:
        """What the manifest of this plan names, if it was written."""
        if find_dataset(self.store) is None:
            return {}
        manifest = load_manifest(self.store.uri)
        return manifest.shards.commits() if manifest.fingerprint == self._fingerprint else {}

    def _recalled(self, record: ShardRecord) -> tuple[ShardRecord, ShardStats | None]:
        """The figures of a committed shard; None if its table is not what was committed."""
        where = f"{self.store.uri}/{record.parquet.uri}"
        table = self.store.read(record.parquet.uri)
        if sha256_hex(table) != record.parquet.sha256:
            logger.warning("%s has other bytes than were committed; the shard is made again", where)
            return record, None
        return record, stats_of(read_candidates(table, name=where), self.plan.config)

    def count_images(self, done: Done) -> None:
        """What was done since the last call; the share of texts that are kept is shown as it stands."""
        self._images += done.images
        self._texts += done.texts
        self._kept += done.kept
        if self.progress is not None:
            kept = f"{self._kept / self._texts:.0%} of texts" if self._texts else "no text yet"
            shards = f"{len(self._entries)}/{len(self.plan.web.shards)}"
            self.progress.advance(done.images, kept=kept, shards=shards)

    def finished(self, shard: Finished) -> None:
        """A shard was committed.

        Raises:
            GateError: the captions of all shards so far have collapsed.
            LockLostError: `confirm` says that others work here now.
        """
        self._confirm()
        self._remember(shard)
        stats = self._totals.stats
        check_collapse(stats.captions, self.plan.config.guard, f"dataset {self.name}")
        if stats.cascade is not None:
            check_tolerance(stats.cascade, self.plan.config, f"dataset {self.name}")
        every = max(1, len(self.plan.web.shards) // _POINTS)
        if len(self._entries) % every == 0:
            self.tracker.log_metrics(self._metrics(), step=self._totals.counts.samples)

    def seal(self) -> CapfiltResult:
        """Write the manifest: the dataset exists from now on.

        Raises:
            DataError: most of the input cannot be used, as the import would say.
        """
        if contested(self.store, {name: entry.commit_digest for name, entry in self._entries.items()}):
            self.recall()  # another run finished a shard too: which counts is decided by what lies there
        self._health.refuse(meant=_asked_for(self.plan.config))
        web, entries = self.plan.web, [self._entries[shard.name] for shard in self.plan.web.shards]
        tell_repeats(self.name, self.store.uri, web.shards, entries)
        self._confirm()
        plan_dataset(self.store, self.plan.as_json())
        settings = self.plan.config.effective()
        made = Provenance(self.name, "capfilt", settings, self._fingerprint, self._parents, web.uri)
        ref = seal_dataset(self.store, made, entries)
        if load_manifest(self.store.uri).shards.digest != self._digest():
            self.recall()  # another run sealed its own
        metrics, counts = self._metrics(), self._totals.counts
        if counts.kept_pairs == 0:
            logger.warning(
                "%s: not one of %d texts was kept, so there is nothing to train on: the filter accepts nothing at %s. "
                "Look at its purity and yield on human captions; finetune it longer, or lower the "
                "threshold (`capfilt dataset recut` does without a model)",
                self.name,
                counts.dropped_pairs,
                self.plan.config.keep or self.plan.config.weigh or f"a threshold of {self.plan.config.threshold:g}",
            )
        self.tracker.log_metrics(metrics, step=counts.samples)
        return CapfiltResult(dataset=ref, metrics=metrics)

    def _digest(self) -> str:
        return ShardTable.of(self._entries[shard.name] for shard in self.plan.web.shards).digest

    def _remember(self, shard: Finished) -> None:
        self._health.look(shard.record)
        self._entries[shard.record.name] = shard.record.entry()
        self._totals.add(shard.stats, shard.record.counts)

    def _metrics(self) -> dict[str, float]:
        return run_metrics(self._totals.stats, self._totals.counts, time.monotonic() - self._started, self._images)


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
