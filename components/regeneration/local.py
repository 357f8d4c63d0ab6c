"""Shards through the models on this machine: reading and decoding ahead, writing behind, one thread calculating."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from components.common.storage import Store
from components.data.records import Counts
from components.regeneration.models import CapfiltModels, Scored
from components.regeneration.reading import Item, Loaded, OpenShard, ShardSource, stream
from components.regeneration.shard import Finished, JudgedSample, ShardWork, finish_shard, judge

_WRITES_PENDING = 2


class Done(NamedTuple):
    """Samples that were worked on, and how many of their texts were kept."""

    images: int
    texts: int
    kept: int

    @classmethod
    def of(cls, counts: Counts) -> "Done":
        """The same of a shard."""
        return cls(counts.samples, counts.kept_pairs + counts.dropped_pairs, counts.kept_pairs)


OnImages = Callable[[Done], None]


def process_shards(
    sources: Sequence[ShardSource],
    models: CapfiltModels,
    store: Store,
    work_dir: Path,
    *,
    plan: str,
    on_images: OnImages | None = None,
) -> Generator[Finished, None, None]:
    """Work on shards in order; each is committed before it is yielded.

    Batches never cross a shard's border and hold its good samples in order, so a shard's result does not depend on
    which other shards are worked on, nor by whom.

    Args:
        sources: the input shards.
        models: captioner and filter.
        store: rooted at the output dataset.
        work_dir: local folder for temporary files.
        plan: fingerprint of the plan that the shards are part of.
        on_images: called with what was done, batch by batch.
    """
    config = models.config
    ahead = 2 * config.batch_size + config.read_threads
    items = stream(sources, models.read_options, work_dir, threads=config.read_threads, ahead=ahead)
    writes: deque[Future[Finished]] = deque()
    with ThreadPoolExecutor(1, "write") as writer:
        try:
            for work in _worked(items, models, on_images):
                writes.append(writer.submit(finish_shard, work, store, work_dir, config, plan, scores=models.scores))
                while len(writes) > _WRITES_PENDING or (writes and writes[0].done()):
                    yield writes.popleft().result()
            while writes:
                yield writes.popleft().result()
        finally:
            items.close()
            for write in writes:
                write.cancel()


def _worked(items: Iterator[Item], models: CapfiltModels, on_images: OnImages | None) -> Iterator[ShardWork]:
    """Whole shards, every sample judged."""
    shard: OpenShard | None = None
    work: ShardWork | None = None
    batch: list[Loaded] = []
    for item in items:
        if work is None or item.shard is not shard:
            shard, work = item.shard, ShardWork(item.shard)
        if item.loaded is not None:
            batch.append(item.loaded)
            if sum(not one.reason for one in batch) < models.config.batch_size:
                continue
        judged = _judged(batch, models)
        work.judged += judged
        if on_images is not None and batch:
            texts = sum(len(one.decisions) for one in judged)
            on_images(Done(len(batch), texts, sum(len(one.kept) for one in judged)))
        batch = []
        if item.loaded is None:
            yield work
            work = None


def _judged(batch: Sequence[Loaded], models: CapfiltModels) -> list[JudgedSample]:
    """Outcomes of a run of samples, failed ones in their places."""
    good = [one for one in batch if not one.reason]
    scored = iter(models.process(good) if good else [])
    return [JudgedSample(one) if one.reason else _decided(one, next(scored), models) for one in batch]


def _decided(loaded: Loaded, scored: Scored, models: CapfiltModels) -> JudgedSample:
    """A sample with its decisions and vector, and without its pixels: a shard's would fill the memory."""
    bare = replace(loaded, squares=())
    return replace(judge(bare, scored.texts, models.config, models.stream), vector=scored.vector)
