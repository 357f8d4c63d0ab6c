"""The training loader: batches of (image, caption) pairs, for ever, exactly resumable.

Shapes: B pairs per batch, S side of a square in pixels.

The order is `epochs.EpochPlan`'s; this module reads, decodes and augments it in threads, a few batches ahead. Random
views hang on (seed, epoch, dataset, key, caption) alone. The state is a cursor into the one global sequence of pairs.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from components.common.contracts import Contract, DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.seeding import key_seed
from components.data.augmentation import TrainAugmentation
from components.data.config import LoaderConfig
from components.data.decoding import BadImage, Pixels, decode_image, resize_square
from components.data.epochs import EpochPlan
from components.data.fetch import ShardCache
from components.data.manifest import BadSample, ShardEntry
from components.data.views import (
    EvalImage,
    ImagePlace,
    ShardView,
    checked_manifest,
    iterate_images,
    load_eval_set,
    slots_of,
)
from components.model.tokenizer import pre_caption

__all__ = ["EvalImage", "LoaderConfig", "LoaderState", "PairBatch", "PairLoader", "iterate_images", "load_eval_set"]

logger = logging.getLogger(__name__)

ReadText = Callable[[ShardView, int], str]
"""What is handed out of a shard's pair of this number."""

_CHUNK = 32  # pairs per task: few enough to share a batch among threads, enough to hide the cost of a task
_LISTED = 1000
_GOLDEN = (5**0.5 - 1) / 2
_MOST_BAD = 1000  # pairs looked at for one that can take the place of a whole batch that cannot be used


class LoaderState(Contract):
    """Where the next batch begins, the same in all processes."""

    epoch: int = Field(default=0, ge=0, description="epochs finished")
    consumed: int = Field(default=0, ge=0, description="pairs of this epoch used by all processes together")


@dataclass(frozen=True)
class PairBatch:
    """One micro-batch.

    Attributes:
        images: uint8 `[B, S, S, 3]`.
        texts: cleaned captions, or what `read` made of the pairs.
        image_ids: int64 `[B]`.
        keys: `dataset/key` of every pair.
    """

    images: Pixels
    texts: list[str]
    image_ids: NDArray[np.int64]
    keys: list[str]


@dataclass(frozen=True)
class _Instance:
    """A shard's turn in an epoch: a dataset that counts three times has three instances of each shard."""

    dataset: str
    root: str
    entry: ShardEntry
    turn: int


@dataclass(frozen=True)
class _Row:
    """Where one row of a batch comes from."""

    epoch: int
    instance: _Instance
    view: "Future[ShardView]"
    pair: int
    """Its number among the shard's, or of its slot where pairs have weights."""


class PairLoader:
    """Batches of one process's share of a mixture of datasets.

    Args:
        datasets: what to read, and how often each of its pairs counts per epoch.
        config: batch, decoding and augmentation settings; the image size is set.
        seed: of order and augmentation.
        rank: this process's number.
        world: number of processes.
        state: where to go on; the beginning by default. May come from a run with another `world` or batch size.
        read: what a pair's text is made of; the cleaned caption by default.

    Attributes:
        pairs_per_epoch: pairs of one epoch, all processes together; of a dataset with weights, what they weigh.
        wait_seconds: time that the consumer waited for batches, so far.
        bad_count: images that could not be decoded and were replaced, so far; the first of them are in `bad`.
    """

    def __init__(
        self,
        datasets: Sequence[tuple[DatasetRef, int]],
        config: LoaderConfig,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        state: LoaderState | None = None,
        read: ReadText | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is not in 0 … {world - 1}")
        if config.image_size is None:
            raise ConfigError("the loader is told the image size: set image_size to the model's")
        self.config, self.seed, self.rank, self.world = config, seed, rank, world
        self.size = config.image_size
        self._instances = list(_instances(datasets))
        self._sizes = [slots_of(instance.entry) for instance in self._instances]
        self.pairs_per_epoch = sum(self._sizes)
        if self.pairs_per_epoch == 0:
            names = ", ".join(ref.name for ref, _ in datasets) or "no datasets"
            raise DataError(f"nothing to train on: {names} hold no kept captions")
        self.wait_seconds = 0.0
        self.bad_count = 0
        self.bad: list[BadSample] = []
        self._state = self._ahead = _normal(state or LoaderState(), self.pairs_per_epoch)
        self._plans: dict[int, EpochPlan] = {}
        self._views = _Views(config)
        self._make = _RowMaker(config, self.size, seed, read)
        threads = config.loader_threads or torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="capfilt-loader")
        self._pending: deque[_Pending] = deque()

    def __enter__(self) -> "PairLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and forget what was made ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._views.close()

    def state(self) -> LoaderState:
        """The cursor behind the last batch that was handed out."""
        return self._state

    def __iter__(self) -> Iterator[PairBatch]:
        return self

    def __next__(self) -> PairBatch:
        while len(self._pending) <= self.config.prefetch:
            self._pending.append(self._begin())
        start = time.perf_counter()
        pending = self._pending.popleft()
        batch, bad = pending.finish(self._behind(pending))
        self.wait_seconds += time.perf_counter() - start
        self._state = pending.state
        self._note(bad)
        return batch

    def _behind(self, pending: "_Pending") -> Iterator["_Pair"]:
        """Usable pairs behind a batch in the sequence, as far as they are looked for."""
        most = min(_MOST_BAD, self.pairs_per_epoch)
        for first in range(0, most, _CHUNK):
            count = min(_CHUNK, most - first)
            images = np.empty((count, self.size, self.size, 3), np.uint8)
            rows = self._rows(pending.epoch, pending.start + self.config.batch_size + first, count)
            made = self._make.rows(rows, images)
            for at in range(count):
                if at not in made.bad:
                    yield _Pair(images[at], made.texts[at], made.image_ids[at], made.keys[at])

    def _begin(self) -> "_Pending":
        """Hand the next batch to the threads."""
        size = self.config.batch_size
        start = self._ahead.consumed + self.rank * size
        epoch = self._ahead.epoch
        rows = self._rows(epoch, start, size)
        consumed = self._ahead.consumed + self.world * size
        self._ahead = _normal(LoaderState(epoch=self._ahead.epoch, consumed=consumed), self.pairs_per_epoch)
        images = np.empty((size, self.size, self.size, 3), np.uint8)
        parts = [slice(at, min(at + _CHUNK, size)) for at in range(0, size, _CHUNK)]
        tasks = [self._pool.submit(self._make.rows, rows[part], images[part]) for part in parts]
        return _Pending(self._ahead, epoch, start, images, tasks)

    def _rows(self, epoch: int, start: int, count: int) -> list[_Row]:
        """Rows at `[start, start + count)` of the sequence, which goes on into the next epochs."""
        epoch, start = epoch + start // self.pairs_per_epoch, start % self.pairs_per_epoch
        rows: list[_Row] = []
        while len(rows) < count:
            plan = self._plan(epoch)
            for window, shards, pairs in plan.stretch(start, count - len(rows)):
                views = self._views.of([self._instances[at] for at in plan.windows[window]])
                for shard, pair in zip(shards.tolist(), pairs.tolist(), strict=True):
                    instance = self._instances[shard]
                    rows.append(_Row(epoch, instance, views[_identity(instance)], pair))
                if window + 1 < len(plan.windows):
                    self._views.of([self._instances[at] for at in plan.windows[window + 1]])
            epoch, start = epoch + 1, 0
        return rows

    def _plan(self, epoch: int) -> EpochPlan:
        if epoch not in self._plans:
            self._plans = {number: plan for number, plan in self._plans.items() if number >= epoch - 1}
            self._plans[epoch] = EpochPlan(
                self._sizes, seed=self.seed, epoch=epoch, shuffle_shards=self.config.shuffle_shards
            )
        return self._plans[epoch]

    def _note(self, bad: list[BadSample]) -> None:
        for sample in bad:
            if self.bad_count < 10:
                logger.warning("image %s cannot be used (%s); another takes its place", sample.key, sample.detail)
            self.bad_count += 1
            if len(self.bad) < _LISTED:
                self.bad.append(sample)


def _instances(datasets: Iterable[tuple[DatasetRef, int]]) -> Iterator[_Instance]:
    for ref, repeat in datasets:
        if repeat < 1:
            raise ConfigError(f"dataset {ref.name}: repeat must be at least 1, not {repeat}")
        shards = checked_manifest(ref).shards
        for turn in range(repeat):
            for entry in shards:
                yield _Instance(ref.name, ref.uri, entry, turn)


def _normal(state: LoaderState, per_epoch: int) -> LoaderState:
    """The same place with `consumed` below an epoch's pairs."""
    return LoaderState(epoch=state.epoch + state.consumed // per_epoch, consumed=state.consumed % per_epoch)


def _identity(instance: _Instance) -> tuple[str, str]:
    return instance.root, instance.entry.name


class _Views:
    """Open shards: those of the current and the next window, and as many again that may come back."""

    def __init__(self, config: LoaderConfig) -> None:
        folder = Path(config.cache_dir).expanduser() if config.cache_dir else None
        self._cache = ShardCache(folder, int(config.cache_gb * (1 << 30)))
        self._keep = 4 * config.shuffle_shards
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="capfilt-shards")
        self._views: OrderedDict[tuple[str, str], Future[ShardView]] = OrderedDict()

    def of(self, instances: Iterable[_Instance]) -> dict[tuple[str, str], "Future[ShardView]"]:
        """The views of these shards, being opened if need be."""
        found = {}
        for instance in instances:
            name = _identity(instance)
            if name not in self._views:
                self._views[name] = self._pool.submit(ShardView, instance.root, instance.entry, self._cache)
            self._views.move_to_end(name)
            found[name] = self._views[name]
        while len(self._views) > max(self._keep, len(found)):
            self._views.popitem(last=False)
        return found

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._views.clear()


class _RowMaker:
    """Pairs to pixels and cleaned texts; used by many threads."""

    def __init__(self, config: LoaderConfig, size: int, seed: int, read: ReadText | None) -> None:
        self.config, self.size, self.seed = config, size, seed
        self._read = read or self._caption
        self._decoded = _DecodedCache(config.cache_decoded_mb << 20)
        self._augment = TrainAugmentation(size, config)

    def rows(self, rows: Sequence[_Row], images: Pixels) -> "_Made":
        """Fill `images` `[b, S, S, 3]` and return the rest."""
        made = _Made([], [], [], {})
        for at, row in enumerate(rows):
            view = row.view.result()
            pair = view.pick(row.pair, slots_of(row.instance.entry), self._offset(row, view))
            number, caption, _ = view.pairs[pair]
            image = view.images[number]
            made.texts.append(self._read(view, pair))
            made.image_ids.append(image.image_id)
            made.keys.append(f"{row.instance.dataset}/{image.key}")
            try:
                images[at] = self._pixels(row, view, image, caption)
            except BadImage as error:
                made.bad[at] = BadSample(key=made.keys[-1], reason=error.reason, detail=str(error))
        return made

    def _offset(self, row: _Row, view: ShardView) -> float:
        """Which of a weighted shard's pairs come up in this epoch, where not all can.

        Steps of the golden ratio spread over the epochs evenly: what weighs a half is met in about every second one.
        """
        if view.weights is None:
            return 0.0
        one = row.instance
        start = key_seed("weights", self.seed, one.dataset, one.turn, one.entry.name) / 2**64
        return (start + row.epoch * _GOLDEN) % 1.0

    def _caption(self, view: ShardView, pair: int) -> str:
        return pre_caption(view.pairs[pair][2], self.config.max_words)

    def _pixels(self, row: _Row, view: ShardView, image: ImagePlace, caption: int) -> Pixels:
        decoded = self._decoded.get(image.sha256)
        if decoded is None:
            decoded = decode_image(view.read(image), max_pixels=self.config.max_pixels)
            self._decoded.put(image.sha256, decoded)
        if not self.config.augment:
            return resize_square(decoded, self.size)
        instance = row.instance
        seed = key_seed("view", self.seed, row.epoch, instance.dataset, instance.turn, image.key, caption)
        return self._augment(decoded, np.random.Generator(np.random.PCG64(seed)))


class _DecodedCache:
    """Decoded images up to a number of bytes; what came first stays, for a cycle longer than a LRU helps nobody.

    They lie in one block. Strewn among a training's large tensors, they would keep the allocator from using the room
    around them again, and the process would grow at every step.
    """

    def __init__(self, max_bytes: int) -> None:
        self._block = np.zeros(max_bytes, np.uint8)  # the system gives its pages when they are written
        self._used = 0
        self._lock = threading.Lock()
        self._images: dict[str, Pixels] = {}

    def get(self, sha256: str) -> Pixels | None:
        return self._images.get(sha256)

    def put(self, sha256: str, image: Pixels) -> None:
        with self._lock:
            end = self._used + image.nbytes
            if sha256 in self._images or end > len(self._block):
                return
            kept = self._block[self._used : end].reshape(image.shape)
            kept[:] = image
            kept.setflags(write=False)
            self._images[sha256] = kept
            self._used = end


@dataclass(frozen=True)
class _Made:
    """Part of a batch; `bad` tells which rows have no image."""

    texts: list[str]
    image_ids: list[int]
    keys: list[str]
    bad: dict[int, BadSample]


class _Pair(NamedTuple):
    """One row of a batch."""

    image: Pixels
    text: str
    image_id: int
    key: str


@dataclass(frozen=True)
class _Pending:
    """A batch in the making, where it starts in which epoch, and the state behind it."""

    state: LoaderState
    epoch: int
    start: int
    images: Pixels
    tasks: Sequence["Future[_Made]"]

    def finish(self, behind: Iterator[_Pair]) -> tuple[PairBatch, list[BadSample]]:
        """Wait for the batch; rows without an image become copies of the next row that has one.

        Where none has, usable pairs `behind` the batch take their places.

        Raises:
            DataError: there are none either.
        """
        texts, ids, keys = list[str](), list[int](), list[str]()
        bad: dict[int, BadSample] = {}
        for task in self.tasks:
            made = task.result()
            bad |= {len(texts) + at: sample for at, sample in made.bad.items()}
            texts, ids, keys = texts + made.texts, ids + made.image_ids, keys + made.keys
        size = len(texts)
        if len(bad) == size:
            others = list(islice(behind, size))
            if not others:
                raise DataError(
                    f"a whole batch of unusable images, e.g. {bad[0].key}: {bad[0].detail}; nor is one of those behind "
                    "it any better: check the data"
                )
            for at in bad:
                self.images[at], texts[at], ids[at], keys[at] = others[at % len(others)]
        else:
            for at in bad:
                row = next(row % size for row in range(at + 1, at + size) if row % size not in bad)
                self.images[at], texts[at], ids[at], keys[at] = self.images[row], texts[row], ids[row], keys[row]
        return PairBatch(self.images, texts, np.asarray(ids, np.int64), keys), list(bad.values())
