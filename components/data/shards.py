"""Shards: WebDataset tars, read fast and distrustfully, written to the same bytes every time.

A sample is the members that share everything up to the first dot of the base name (WebDataset's rule): `a/b.c.jpg` has
key `a/b` and extension `c.jpg`, extensions are lower-cased, members without a dot, hidden and `__meta__` ones are no
part of a sample. So keys should have no dot: `img.1.jpg` and `img.2.jpg` are one sample `img` with two images, here as
in webdataset, and such a sample has no one image (`ShardSample.image`). Members need not be neighbours, as webdataset
wants them: they are joined by key, and only the index of a tar is held in memory.

A tar that was cut or damaged is always noticed (`BrokenShard`); members that could do harm are refused one by one.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from components.common.errors import DataError
from components.common.storage import folder_errors
from components.data.candidates import Candidate, read_candidates, write_candidates
from components.data.tarwalk import BLOCK, BrokenShard, Entry, Tar, open_source, refusal, walk

__all__ = [
    "DUPLICATE_KEY", "EARLIER_SHARD", "BrokenShard", "Candidate", "SampleIndex", "ShardSample", "ShardScan",
    "ShardWriter", "index_shard", "only_image", "read_candidates", "read_shard", "scan_shard", "split_name",
    "walk_samples", "write_candidates", "write_shard",
]  # fmt: skip

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm")

DUPLICATE_KEY = "duplicate_key"
"""Reason of a sample whose key another sample had before, in its shard or in an earlier one."""
EARLIER_SHARD = "an earlier shard has this key"
BROKEN_SHARD = "broken_shard"
"""Reason of samples that lie behind a break in their tar."""

_KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_HIDDEN = re.compile(r"(^|/)\.[^/]*$")  # `._a.jpg` beside `a.jpg`, as macOS leaves them


@dataclass(frozen=True)
class SampleIndex:
    """Where a sample's members lie in its tar.

    `problem` is None or why the sample must not be used: `absolute_name`, `parent_name`, `bad_name`, `link`, `device`,
    `sparse`, `member_too_large` or `duplicate_key` (not the first sample of this key in the shard).
    """

    key: str
    offset: int
    """Byte of the sample's first header."""
    members: dict[str, tuple[int, int]]
    """Extension to (byte offset of the data, size in bytes)."""
    problem: str | None = None

    @property
    def image(self) -> str | None:
        """Extension of the sample's only image; None if it has none or several."""
        return only_image(self.members)


@dataclass(frozen=True)
class ShardSample:
    """A sample with its bytes; fields as in `SampleIndex`."""

    key: str
    members: dict[str, bytes]
    offset: int = 0
    problem: str | None = None

    @property
    def image(self) -> str | None:
        """Extension of the sample's only image; None if it has none or several."""
        return only_image(self.members)


@dataclass(frozen=True)
class ShardScan:
    """All that can be said of a tar without reading its members."""

    samples: list[SampleIndex]
    ignored: int
    """Members that belong to no sample: no extension, hidden, or `__meta__`."""
    broken: BrokenShard | None
    """Why the rest is missing. Samples that may lack members because of it are not among `samples`."""
    cut: int
    """How many those are."""
    bytes: int


def images_among(members: Iterable[str]) -> list[str]:
    """The extensions that are images' (`jpg`, or `v2.jpg`)."""
    return [extension for extension in members if extension.rpartition(".")[2] in IMAGE_EXTENSIONS]


def only_image(members: Iterable[str]) -> str | None:
    """The one extension that is an image's; None if there is none or several."""
    found = images_among(members)
    return found[0] if len(found) == 1 else None


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension of a member's name by WebDataset's rule; None for a member of no sample."""
    if _META.match(name) or (name.startswith("__") and name.endswith("__")) or _HIDDEN.search(name):
        return None
    match = _KEY.match(name)
    return (match[1], match[2].lower()) if match else None


def read_shard(source: str | Path | bytes, *, name: str | None = None) -> Iterator[ShardSample]:
    """Read a tar sample by sample, in order.

    Args:
        source: a local file, or a whole tar in memory.
        name: what to call it in errors (default: its path).

    Raises:
        BrokenShard: after the last whole sample, if the tar is cut or damaged behind it.
    """
    with open_source(source, name) as tar:
        scan = _scan(tar)
        for sample in scan.samples:
            bad = sample.problem is not None
            members = {} if bad else {ext: tar.read(*place) for ext, place in sample.members.items()}
            yield ShardSample(sample.key, members, sample.offset, sample.problem)
    if scan.broken is not None:
        raise scan.broken


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Exactly `size` bytes of a file.

    Raises:
        DataError: if the file is shorter: somebody cut it since it was indexed.
    """
    with path.open("rb") as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise DataError(f"{path} became shorter while it was read; leave input shards alone and run again")
    return data


def scan_shard(source: str | Path | bytes, *, name: str | None = None) -> ShardScan:
    """Index a tar; a break ends the list and is told, not raised."""
    with open_source(source, name) as tar:
        return _scan(tar)


def index_shard(source: str | Path | bytes, *, name: str | None = None) -> list[SampleIndex]:
    """Where every sample of a tar lies.

    Raises:
        BrokenShard: if the tar is cut or damaged.
    """
    scan = scan_shard(source, name=name)
    if scan.broken is not None:
        raise scan.broken
    return scan.samples


def walk_samples(tar: Tar) -> Iterator[SampleIndex]:
    """The runs of neighbouring members of one key, in order, each as soon as the next one's first header was read.

    For readers of streams, who cannot go back: a sample whose members lie apart comes in parts.

    Raises:
        BrokenShard: after the last whole run, if the tar is cut or damaged behind it.
    """
    run: SampleIndex | None = None
    for entry in walk(tar):
        if (named := _named(entry)) is None:
            continue
        key, extension = named
        if run is None or key != run.key or extension in run.members:
            if run is not None:
                yield run
            run = SampleIndex(key, entry.header, {})
        if entry.problem is not None and run.problem is None:
            run = replace(run, problem=entry.problem)
        run.members[extension] = (entry.offset, entry.size)
    if run is not None:
        yield run


def _named(entry: Entry) -> tuple[str, str] | None:
    """Key and extension of a member, valid Unicode; None for one that belongs to no sample and does no harm."""
    parts = split_name(entry.name)
    if parts is None and entry.problem is None:
        return None
    key, extension = parts or (entry.name, "")
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), extension


def _scan(tar: Tar) -> ShardScan:
    groups = _Groups()
    try:
        for entry in walk(tar):
            groups.add(entry)
    except BrokenShard as error:
        whole = groups.whole()
        return ShardScan(whole, groups.ignored, error, len(groups.samples) - len(whole), tar.size)
    return ShardScan(groups.samples, groups.ignored, None, 0, tar.size)


class _Groups:
    """Members grouped into samples, in the order of their first ones."""

    def __init__(self) -> None:
        self.samples: list[SampleIndex] = []
        self.ignored = 0
        self._place: dict[str, int] = {}  # of the latest sample of a key
        self._last = -1  # the sample that got the member before
        self._scattered = False

    def add(self, entry: Entry) -> None:
        """A member joins the latest sample of its key; an extension that has it already starts a second one."""
        if (named := _named(entry)) is None:
            self.ignored += 1
            return
        key, extension = named
        place = self._place.get(key)
        if place is None or extension in self.samples[place].members:
            self.samples.append(SampleIndex(key, entry.header, {}, None if place is None else DUPLICATE_KEY))
            place = self._place[key] = len(self.samples) - 1
        elif place != self._last:
            self._scattered = True
        sample = self.samples[place]
        if entry.problem is not None and sample.problem is None:
            sample = self.samples[place] = replace(sample, problem=entry.problem)
        sample.members[extension] = (entry.offset, entry.size)
        self._last = place

    def whole(self) -> list[SampleIndex]:
        """Before a break: all but the last sample; in a tar whose members lie apart, those with as many as any has."""
        if not self._scattered:
            return self.samples[:-1]
        most = max(len(sample.members) for sample in self.samples)
        return [sample for sample in self.samples if len(sample.members) == most]


class ShardWriter:
    """Write a tar whose bytes depend on the samples alone: no times, no owners, fixed order of members.

    Use as a context manager; `size` and `sha256` hold once it is closed. An exception inside leaves the tar without its
    trailer, so that no reader takes it for whole.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Write the trailer; the file stays open."""
        self._put(bytes(2 * BLOCK))

    @property
    def sha256(self) -> str:
        """sha256 hex of what was written so far."""
        return self._hash.hexdigest()

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample: its image, `json`, `txt`, then other members by name.

        Raises:
            DataError: if readers would not find the sample under this key again.
        """
        for extension in sorted(members, key=_member_rank):
            name, data = f"{key}.{extension}", members[extension]
            if split_name(name) != (key, extension) or refusal(b"0", name, 0, {}) or "\0" in name:
                raise DataError(f"{name!r} is no usable member name: no dots in keys, no absolute or `..` paths")
            self._put(_header(name, len(data)))
            self._put(data)
            self._put(bytes(-len(data) % BLOCK))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)


def _member_rank(extension: str) -> tuple[int, str]:
    ranks = {"json": 1, "txt": 2}
    return (0 if extension.rpartition(".")[2] in IMAGE_EXTENSIONS else ranks.get(extension, 3), extension)


def _header(name: str, size: int) -> bytes:
    """A USTAR header with time 0 and owner 0; long or non-ASCII names get the PAX header that `tarfile` writes."""
    if len(name) > 100 or not name.isascii() or size >= 8 << 30:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    head = name.encode().ljust(100, b"\0") + b"0000644\x000000000\x000000000\0%011o\x0000000000000\0" % size
    tail = (b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0").ljust(356, b"\0")
    return head + b"%06o\0 " % (sum(head) + 256 + sum(tail)) + tail


def write_shard(samples: Iterable[ShardSample | tuple[str, Mapping[str, bytes]]], target: Path) -> tuple[int, str]:
    """Write samples to a local tar, whole or not at all.

    Returns:
        Its size in bytes and its sha256.

    Raises:
        StorageError: the disk is full or refuses.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with folder_errors("write", target), partial.open("wb") as file, ShardWriter(file) as writer:
            for sample in samples:
                key, members = (sample.key, sample.members) if isinstance(sample, ShardSample) else sample
                writer.add(key, members)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return writer.size, writer.sha256
