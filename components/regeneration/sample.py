"""A sample of web data: images of all shards in proportion, the same ones for the same data and seed.

They are copied into tars of their own, key and bytes as they are, so that captions are drawn as they are for the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.common.errors import DataError
from components.common.seeding import key_seed
from components.data.shards import SampleIndex, write_shard
from components.regeneration.plan import WebInput, web_input
from components.regeneration.reading import OpenShard, ShardSource, fetch_shard

MOST_SHARDS = 64
"""Shards that are looked into, at most: each is fetched whole."""

_IN_A_TAR = 256


@dataclass(frozen=True)
class Sample:
    """Images that stand for all.

    Attributes:
        web: the tars they lie in; a local folder.
        drawn: how many were drawn, by shard; those that the tar alone tells to be of no use (a key met before …) are
            not in the tars.
        shard_of: the shard that each image in the tars was drawn from, by its key.
        all_shards: whether every shard was looked into.
        of: images of the whole; estimated by bytes where nobody has counted them.
        counted: whether they were counted.
    """

    web: WebInput
    drawn: dict[str, int]
    shard_of: dict[str, str]
    all_shards: bool
    of: int
    counted: bool

    @property
    def images(self) -> int:
        """How many were drawn."""
        return sum(self.drawn.values())


def allocate(sizes: Sequence[int], count: int) -> list[int]:
    """How many to draw of each stratum: in proportion to its size, largest remainders first; all there are at most."""
    total = sum(sizes)
    count = min(count, total)
    shares = [count * size / total if total else 0.0 for size in sizes]
    found = [int(share) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda at: (found[at] - shares[at], at))
    for at in by_remainder[: count - sum(found)]:
        found[at] += 1
    return found


def drawn(keys: Sequence[str], count: int, *of: str | int) -> list[int]:
    """The numbers of `count` of the keys, drawn by the keys and `of`, ascending."""
    ranked = sorted(range(len(keys)), key=lambda at: (key_seed("sample", *of, keys[at]), at))
    return sorted(ranked[:count])


def draw_sample(web: WebInput, count: int, seed: int, folder: Path) -> Sample:
    """Draw images and copy them.

    Args:
        web: the whole.
        count: images to draw; all if there are no more.
        seed: of the draw.
        folder: where the tars go, and copies of shards for a while; is made.

    Raises:
        DataError: no image can be drawn.
    """
    tars = folder / "web"
    tars.mkdir(parents=True)
    shards = [web.shards[at] for at in drawn([one.name for one in web.shards], MOST_SHARDS, seed)]
    sizes = _sizes(shards, folder)
    wanted = allocate(sizes, count)
    copied = _Copied(tars)
    for shard, number in zip(shards, wanted, strict=True):
        if number:
            copied.take(shard, number, seed, folder)
    copied.write()
    if not copied.shard_of:
        raise DataError(f"{web.uri}: of the images that were drawn none can be used; verify the shards")
    whole = len(shards) == len(web.shards)
    of = sum(sizes) if whole else web.samples
    reckoned = round(sum(sizes) * sum(one.bytes for one in web.shards) / max(1, sum(one.bytes for one in shards)))
    return Sample(
        web=web_input(str(tars)),
        drawn=copied.drawn,
        shard_of=copied.shard_of,
        all_shards=whole,
        of=reckoned if of is None else of,
        counted=of is not None,
    )


def _sizes(shards: Sequence[ShardSource], folder: Path) -> list[int]:
    """Samples of each shard, counted where nobody has."""
    return [_count(shard, folder) if shard.take or shard.expected is None else shard.expected for shard in shards]


def _count(shard: ShardSource, folder: Path) -> int:
    opened = fetch_shard(shard, folder)
    try:
        return len(opened.samples)
    finally:
        opened.close()


class _Copied:
    """Samples on their way into tars."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drawn: dict[str, int] = {}
        self.shard_of: dict[str, str] = {}
        self._tars = 0
        self._waiting: list[tuple[str, dict[str, bytes]]] = []

    def take(self, shard: ShardSource, count: int, seed: int, folder: Path) -> None:
        """Draw from a shard."""
        opened = fetch_shard(shard, folder)
        try:
            samples = opened.samples
            numbers = drawn([one.key for one in samples], count, seed, shard.name)
            self.drawn[shard.name] = len(numbers)
            for at in numbers:
                self._one(opened, samples[at])
        finally:
            opened.close()

    def _one(self, shard: OpenShard, sample: SampleIndex) -> None:
        if sample.problem is not None or sample.key in self.shard_of:
            return
        self.shard_of[sample.key] = shard.source.name
        self._waiting.append((sample.key, {name: shard.member(sample, name) or b"" for name in sample.members}))
        if len(self._waiting) == _IN_A_TAR:
            self.write()

    def write(self) -> None:
        """Write what waits to a tar of its own."""
        if self._waiting:
            write_shard(self._waiting, self.folder / f"{self._tars:05d}.tar")
            self._tars, self._waiting = self._tars + 1, []
