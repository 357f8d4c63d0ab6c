"""The kept samples of a shard, streamed from its store: images as they lie, captions from the candidate table.

A sample counts only if the table says that a caption of it was kept: the tars of imported web data are used in place,
and hold much that was not.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO, NamedTuple

from components.common.errors import DataError
from components.common.storage import open_store, sha256_hex, split_uri
from components.data.candidates import Candidate, stored_candidates
from components.data.manifest import ShardEntry, file_uri
from components.data.shards import SampleIndex, walk_samples
from components.data.tarwalk import MAX_MEMBER_BYTES, BrokenShard

_CHUNK = 1 << 20
_WINDOW = 2 * MAX_MEMBER_BYTES


class KeptSample(NamedTuple):
    """A sample with at least one kept caption."""

    key: str
    tar: str
    """Path or URI of its tar."""
    kind: str
    """Extension of its image."""
    image: bytes
    fields: bytes
    """Its JSON member; `{}` where there is none."""
    captions: list[Candidate]
    """The kept ones, in order."""
    text: str | None
    """What its tar has as `.txt`: the caption that was chosen. None where the tar is used in place."""
    members: dict[str, bytes]
    """All of its members as they lie in the tar, where they were asked for."""

    @property
    def lists_captions(self) -> bool:
        """Whether its JSON has the kept captions; not in a tar that was there before, or was cut out of such a one."""
        return self.text is not None and (b'"captions"' in self.fields or self.captions[0].source != "web")


def kept_samples(root: str, entry: ShardEntry, *, whole: bool = False) -> Iterator[KeptSample]:
    """The kept samples of a shard in its order.

    Args:
        root: URI of the dataset.
        entry: the shard, as the manifest has it.
        whole: give all members, those too that nobody here reads.

    Raises:
        DataError: tar, table and manifest do not fit together.
    """
    where = file_uri(root, entry.tar)
    kept, found = _kept(root, entry), 0
    folder, key = split_uri(where)
    with open_store(folder).open(key) as stream:
        tar = _StreamedTar(stream, where, entry.tar.bytes)
        try:
            for index in walk_samples(tar):
                tar.forget(index.offset)
                usable = index.problem is None and index.image is not None
                captions = kept.pop(index.key, None) if usable else None
                if captions is not None:
                    sample = _sample(tar, index, captions, in_place=entry.tar.in_place)
                    yield sample._replace(members=_members(tar, index)) if whole else sample
                    found += 1
                if not kept:
                    break
        except BrokenShard:
            if kept:  # else the break was counted when the dataset was made, and all before it is whole
                raise
    if found != entry.counts.kept:
        raise DataError(
            f"{where}: {found} samples with a kept caption, the manifest says {entry.counts.kept}: tar and candidate "
            "table do not fit; `capfilt dataset verify` says more"
        )


def _kept(root: str, entry: ShardEntry) -> dict[str, list[Candidate]]:
    """The kept captions of a shard by the sample's key, in order."""
    rows = (row for row in stored_candidates(root, entry.parquet).rows() if row.kept)
    return {key: list(group) for key, group in groupby(rows, key=lambda row: row.key)}


def _sample(tar: "_StreamedTar", index: SampleIndex, captions: list[Candidate], *, in_place: bool) -> KeptSample:
    """One sample.

    Raises:
        DataError: its image is not the one that was captioned.
    """
    extension = str(index.image)
    image = tar.read(*index.members[extension])
    if sha256_hex(image) != captions[0].image_sha256:
        raise DataError(f"{tar.name}: image {index.key!r} changed since the dataset was made; bring the old tar back")
    prefix, _, kind = extension.rpartition(".")  # of a key with a dot, `img.v2`: its image is `v2.jpg` to webdataset
    fields, text = (index.members.get(f"{prefix}.{name}") or index.members.get(name) for name in ("json", "txt"))
    chosen = tar.read(*text).decode("utf-8", "replace") if text and not in_place else captions[0].text
    data = tar.read(*fields) if fields else b"{}"
    return KeptSample(index.key, tar.name, kind, image, data, captions, None if in_place else chosen, {})


def _members(tar: "_StreamedTar", index: SampleIndex) -> dict[str, bytes]:
    return {extension: tar.read(*place) for extension, place in index.members.items()}


class _StreamedTar:
    """Positioned reads over a tar that arrives from front to back.

    What was read is kept until it is told to be forgotten: the walk meets the next sample's header before the data of
    the last one is asked for.
    """

    def __init__(self, stream: BinaryIO, name: str, size: int) -> None:
        self.name, self.size = name, size
        self._stream = stream
        self._window = bytearray()
        self._start = 0  # byte of the tar at which the window begins

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            BrokenShard: the stream ends before, or the place has gone by.
        """
        while self._start + len(self._window) < offset + size:
            self._fill()
        at = offset - self._start
        if at < 0:
            raise BrokenShard(self.name, offset, f"a sample of more than {_WINDOW >> 20} MiB")
        return bytes(self._window[at : at + size])

    def forget(self, before: int) -> None:
        """Nothing in front of this byte will be asked for again."""
        if (count := min(before - self._start, len(self._window))) > 0:
            del self._window[:count]
            self._start += count

    def _fill(self) -> None:
        data = self._stream.read(_CHUNK)
        if not data:
            raise BrokenShard(self.name, self._start + len(self._window), f"it should have {self.size} bytes")
        self._window += data
        self.forget(self._start + len(self._window) - _WINDOW)
