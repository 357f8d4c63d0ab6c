"""Reading shards ahead of the models: images are read and decoded by threads, in order, across shard borders.

Memory holds a window of decoded images and the index of the shards at hand, never a shard.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from components.common.errors import DataError
from components.common.storage import Store, open_store, sha256_file, split_uri
from components.data.decoding import Pixels
from components.data.phash import perceptual_hash
from components.data.shards import SampleIndex, ShardScan, read_at, scan_shard
from components.data.web.samples import read_sample, with_repeats
from components.inference.protocols import WHOLE
from components.inference.squares import image_at
from components.regeneration.policy import Text
from components.regeneration.texts import web_candidates


@dataclass(frozen=True)
class ShardSource:
    """One input tar as the plan has it.

    Args:
        name: name of the output shard, e.g. `00000`.
        uri: where the tar is.
        bytes: its size when planned.
        sha256: its hash, where the plan knows it (imported datasets).
        etag: the store's version tag when planned, where no hash is known.
        take: samples to take from its front; None for all.
        expected: samples it should have, where somebody counted them (tells how many a broken tar has lost).
        repeated: keys that an earlier shard has: the samples of this one are not used.
    """

    name: str
    uri: str
    bytes: int
    sha256: str | None = None
    etag: str | None = None
    take: int | None = None
    expected: int | None = None
    repeated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OpenShard:
    """An input tar at hand: a local file and its index."""

    source: ShardSource
    path: Path
    scan: ShardScan
    sha256: str
    temporary: bool

    @property
    def samples(self) -> list[SampleIndex]:
        """The samples to work on, in order; those with the key of an earlier shard's are marked as duplicates."""
        return with_repeats(self.scan.samples[: self.source.take], self.source.repeated)

    def member(self, sample: SampleIndex, extension: str) -> bytes | None:
        """A member's bytes; None if the sample has no such member."""
        place = sample.members.get(extension)
        return None if place is None else read_at(self.path, *place)

    def close(self) -> None:
        """Delete the file if it is a copy."""
        if self.temporary:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Loaded:
    """A sample ready for the models, or the reason why it is not.

    Args:
        sample: its place in the tar.
        texts: its web texts, or one that says why there is none.
        sha256: hash of the image's bytes; empty where there is no image.
        squares: the image in the sizes asked for, in that order; none if it failed.
        phash: its perceptual hash.
        reason: short code of the failure, e.g. `truncated`; empty if there is none.
        detail: what was found, for people.
    """

    sample: SampleIndex
    texts: tuple[Text, ...]
    sha256: str = ""
    squares: tuple[Pixels, ...] = ()
    phash: int = 0
    reason: str = ""
    detail: str = ""


class Item(NamedTuple):
    """One step of the stream: a sample of a shard, or (`loaded` is None) the shard's end."""

    shard: OpenShard
    loaded: Loaded | None


@dataclass(frozen=True)
class ReadOptions:
    """How samples are read: limits as in CapfiltConfig, `sizes` the sides of the squares wanted.

    WHOLE among them stands for the image as it is, sides beyond WHOLE_SIDE shrunk; it is the only one, or the first.
    """

    sizes: tuple[int, ...]
    max_pixels: int
    min_side: int


def fetch_shard(source: ShardSource, work_dir: Path) -> OpenShard:
    """Bring a shard to this machine, check that it is the planned one, and index it.

    Raises:
        DataError: if its bytes are not those of the plan.
    """
    folder, name = split_uri(source.uri)
    store = open_store(folder)
    path = store.local_path(name)
    temporary = path is None
    if path is None:
        path = work_dir / f"{source.name}-{os.getpid()}.tar"
        store.download(name, path)
    elif not path.is_file():
        raise DataError(f"shard {source.uri} is gone since the plan was made; bring it back, or start a new dataset")
    try:
        digest = sha256_file(path)
        size = path.stat().st_size
        etag = _etag(store, name) if source.etag else source.etag
        if size != source.bytes or digest != (source.sha256 or digest) or etag != source.etag:
            planned = f", sha256 {source.sha256[:12]}…" if source.sha256 else f", etag {source.etag}"
            raise DataError(
                f"shard {source.uri} has changed since the plan was made: {size} bytes, sha256 {digest[:12]}…, etag "
                f"{etag}; planned were {source.bytes} bytes{planned}. Restore it, or write to a new dataset"
            )
        return OpenShard(source, path, scan_shard(path, name=source.uri), digest, temporary)
    except BaseException:
        if temporary:
            path.unlink(missing_ok=True)
        raise


def _etag(store: Store, key: str) -> str | None:
    """The store's version tag now: asked for after the download, it tells of a change before and during it."""
    info = store.info(key)
    return None if info is None else info.etag


def load_sample(shard: OpenShard, sample: SampleIndex, options: ReadOptions) -> Loaded:
    """Read one sample and decode its image; whatever is wrong with it becomes its reason."""
    limits = {"max_pixels": options.max_pixels, "min_side": options.min_side}
    read = read_sample(shard.path, sample, shard.source.repeated, **limits)
    texts = web_candidates(read.texts)
    if read.image is None:
        return Loaded(sample, texts, read.sha256, reason=read.reason, detail=read.detail)
    squares = tuple(image_at(read.image, size) for size in options.sizes)
    looks = (
        perceptual_hash(squares[-1]) if options.sizes[-1] != WHOLE else 0
    )  # it goes with vectors, which squares have
    return Loaded(sample, texts, read.sha256, squares, looks, read.reason, read.detail)


def stream(
    sources: Iterable[ShardSource],
    options: ReadOptions,
    work_dir: Path,
    *,
    threads: int,
    ahead: int,
    fetch: Callable[[ShardSource, Path], OpenShard] = fetch_shard,
) -> Generator[Item, None, None]:
    """Samples of all shards in order, each shard followed by its end; `ahead` samples are decoded beforehand.

    The next shard is fetched while the one before is worked on. Whoever stops early must close the generator.
    """
    window: deque[tuple[OpenShard, Future[Loaded] | None]] = deque()
    with ThreadPoolExecutor(threads, "read") as pool, ThreadPoolExecutor(1, "fetch") as fetcher:
        try:
            for shard in _fetched(sources, work_dir, fetcher, fetch):
                for sample in shard.samples:
                    window.append((shard, pool.submit(load_sample, shard, sample, options)))
                    while len(window) > ahead:
                        yield _finished(window)
                window.append((shard, None))
            while window:
                yield _finished(window)
        finally:
            for _, future in window:
                if future is not None:
                    future.cancel()


def _finished(window: deque[tuple[OpenShard, Future[Loaded] | None]]) -> Item:
    shard, future = window.popleft()
    return Item(shard, None if future is None else future.result())


def _fetched(
    sources: Iterable[ShardSource],
    work_dir: Path,
    fetcher: ThreadPoolExecutor,
    fetch: Callable[[ShardSource, Path], OpenShard],
) -> Iterator[OpenShard]:
    """Shards in order, one fetched ahead."""
    coming: Future[OpenShard] | None = None
    for source in sources:
        upcoming = fetcher.submit(fetch, source, work_dir)
        if coming is not None:
            yield coming.result()
        coming = upcoming
    if coming is not None:
        yield coming.result()
