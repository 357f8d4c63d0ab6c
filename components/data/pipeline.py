"""A sealed dataset as a webdataset pipeline, for whoever trains with plain PyTorch. The only importer of webdataset.

What is read is what the manifest names: no bucket is listed, and no shell is asked (webdataset itself reads S3 by
`pipe:`). Shards are streamed from their store, one after the other, and a sample counts only if the candidate table
says that a caption of it was kept: the tars of imported web data are used in place, and hold much that was not.

Reading is shared out by shards: first among the processes of a distributed training, then among the workers of a
DataLoader. All of them together see every sample once a pass; where there are fewer shards than readers, some see none.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from components.common.errors import DataError
from components.common.seeding import key_seed
from components.common.storage import open_store, sha256_hex, split_uri
from components.data.candidates import Candidate, stored_candidates
from components.data.manifest import ShardEntry, file_uri, load_manifest
from components.data.shards import SampleIndex, walk_samples
from components.data.tarwalk import MAX_MEMBER_BYTES, BrokenShard

if TYPE_CHECKING:
    from webdataset import FluidWrapper

    Samples: TypeAlias = FluidWrapper

Sample = dict[str, Any]
_CHUNK = 1 << 20
_WINDOW = 2 * MAX_MEMBER_BYTES


def open_dataset(uri: str, *, shuffle: int = 0, seed: int = 0) -> "Samples":
    """The kept samples of a dataset.

    Each is a dict: `__key__`, `__url__` (the tar), and as bytes the image under its extension (`jpg`, `png` …), `txt`
    (the first kept caption, UTF-8) and `json` (an object; under `captions` all kept ones in order, each with `text`,
    `source` and scores). Other members are left out: webdataset's `decode` unpickles some, and strangers wrote them.

    Args:
        uri: the dataset's root, in a folder or S3.
        shuffle: samples held in memory to be shuffled, the shards of each reader being shuffled too; 0: in the order of
            the dataset. Every pass has an order of its own.
        seed: of the order. With workers, it is the same again if torch's seed (`torch.manual_seed`) is.

    Returns:
        A pipeline with webdataset's methods (`decode`, `to_tuple`, `map`, `batched` …), for iterating or a DataLoader.

    Raises:
        DataError: there is no dataset; while reading, also that a file is missing or is not what the manifest says.
    """
    import webdataset

    manifest = load_manifest(uri)
    root = open_store(uri).uri
    shards = [_Shard(root, entry) for entry in manifest.shards]
    order = _Order(shuffle, seed)
    pipeline = webdataset.DataPipeline(
        _Shards(shards), webdataset.split_by_node, webdataset.split_by_worker, order.of_shards, _read, order.of_samples
    )
    return webdataset.FluidWrapper(pipeline)


@dataclass(frozen=True)
class _Shard:
    """A shard to read: the dataset's root and what the manifest says."""

    root: str
    entry: ShardEntry


@dataclass(frozen=True)
class _Shards:
    """The pipeline's source."""

    shards: list[_Shard]

    def __call__(self) -> Iterator[_Shard]:
        return iter(self.shards)


class _Order:
    """The order of one reader's shards and samples, another in every pass."""

    def __init__(self, buffer: int, seed: int) -> None:
        self.buffer, self.seed, self.passes = buffer, seed, 0

    def of_shards(self, shards: Iterable[_Shard]) -> Iterator[_Shard]:
        """All shards of this reader, shuffled as whole ones."""
        found = list(shards)
        self.passes += 1
        if self.buffer:
            self._random("shards").shuffle(found)
        yield from found

    def of_samples(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Samples drawn from as many as the buffer holds."""
        import webdataset

        if not self.buffer:
            return iter(samples)
        drawn: Iterator[Sample] = webdataset.shuffle(self.buffer, rng=self._random("samples"))(iter(samples))
        return drawn

    def _random(self, purpose: str) -> random.Random:
        """Numbers of this pass. A worker of a DataLoader is born anew for each, with another seed of torch's."""
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        return random.Random(key_seed(purpose, self.seed, self.passes, 0 if worker is None else worker.seed))


def _read(shards: Iterable[_Shard]) -> Iterator[Sample]:
    """The kept samples of shards, one shard after the other."""
    for shard in shards:
        yield from _read_shard(shard.root, shard.entry)


def _read_shard(root: str, entry: ShardEntry) -> Iterator[Sample]:
    """The kept samples of a shard in its order.

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
                    yield _sample(tar, index, captions, in_place=entry.tar.in_place)
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


def _sample(tar: "_StreamedTar", index: SampleIndex, captions: list[Candidate], *, in_place: bool) -> Sample:
    """One sample as webdataset has it.

    Raises:
        DataError: its image is not the one that was captioned.
    """
    extension = str(index.image)
    image = tar.read(*index.members[extension])
    if sha256_hex(image) != captions[0].image_sha256:
        raise DataError(f"{tar.name}: image {index.key!r} changed since the dataset was made; bring the old tar back")
    prefix, _, kind = extension.rpartition(".")  # of a key with a dot, `img.v2`: its image is `v2.jpg` to webdataset
    place = index.members.get(f"{prefix}.json") or index.members.get("json")
    fields = tar.read(*place) if place else b"{}"
    texts = {"txt": captions[0].text.encode(), "json": _json_of(fields, captions) if in_place else fields}
    return {"__key__": index.key, "__url__": tar.name, kind: image, **texts}


def _json_of(data: bytes, captions: list[Candidate]) -> bytes:
    """A web sample's own fields with its kept captions, as a tar of CapFilt's has them."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):  # its text came from the txt, then
        fields = {}
    listed = [
        {
            "text": one.text,
            "source": one.source,
            "itm_probability": one.itm_probability,
            "itc_similarity": one.itc_similarity,
            **({"scores": {name: reading.value for name, reading in one.others.items()}} if one.others else {}),
        }
        for one in captions
    ]
    own: Mapping[str, Any] = fields if isinstance(fields, dict) else {}
    return json.dumps({**own, "captions": listed}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


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
