"""Exact search over the ITC vectors of images: every vector is looked at, block by block, where it is mapped from.

The vectors are those of a dataset's shards (vectors.py), or of an index that was made for images that had none:

    <root>/capfilt.index/index.json    IndexRecord, written last
    <root>/capfilt.index/shards/…      vectors and images, as beside the shards of a dataset

A million vectors of width 256 are 512 MB on disk and none in memory but what the system keeps of the files.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from components.common.contracts import Contract
from components.common.errors import DataError
from components.common.locations import absolute_uri
from components.common.storage import Store, join_uri, open_store
from components.data.commits import load_json, short_errors
from components.data.fetch import ShardCache
from components.data.manifest import MANIFEST_KEY, Manifest, load_manifest
from components.data.phrases import Said, places
from components.data.records import BadSample, FileRecord, Parent, pretty
from components.data.vectors import Beside, Vectors, image_table, open_vectors

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float32]

INDEX_FOLDER = "capfilt.index"
INDEX_KEY = "index.json"
_BLOCK = 2048  # vectors that are widened at a time: they stay in the processor's cache


class IndexPart(Contract):
    """A part of an index, as a shard is of a dataset."""

    name: str = Field(description="of the shard, or a running number")
    vectors: FileRecord
    images: FileRecord


class IndexRecord(Contract):
    """An index beside images that had no vectors."""

    format: int = 1
    model: Parent = Field(description="the filter whose ITC head made the vectors")
    config: dict[str, Any] = Field(description="settings of the filter that decide vectors")
    parts: tuple[IndexPart, ...]
    failed: tuple[BadSample, ...] = Field(default=(), description="images that could not be used")


class Found(NamedTuple):
    """An image that was found: its shard, key and hash, and its cosine to the query."""

    shard: str
    key: str
    image_sha256: str
    similarity: float


class VectorIndex:
    """The vectors of many images, searched exactly.

    Args:
        root: URI that the files of the parts are relative to.
        parts: shards with vectors, by name; others have no images to find.
        model: the filter that made the vectors.
        config: settings of that filter.
        cache: for vectors that are not on this machine.

    `mapped` are the vectors of each part, in order.
    """

    def __init__(
        self,
        root: str,
        parts: Sequence[tuple[str, Beside]],
        model: Parent,
        config: dict[str, Any],
        cache: ShardCache | None = None,
    ) -> None:
        self.root, self.model, self.config = root, model, config
        self.names = [name for name, _ in parts]
        self._parts = [part for _, part in parts]
        self.mapped = [open_vectors(root, part, cache) for part in self._parts]
        self.starts = [0, *itertools.accumulate(len(one) for one in self.mapped)]

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return int(self.mapped[0].shape[1]) if self.mapped else 0

    def vector(self, row: int) -> Floats:
        """The vector `[d]` of an image by its row among all."""
        part, place = self._place(row)
        found: Floats = self.mapped[part][place].astype(np.float32)
        return found

    def scores(self, queries: Floats) -> Floats:
        """Cosines `[Q, N]` of queries `[Q, d]` of length 1 and all images, in fp32."""
        import torch

        if self.mapped and queries.shape[1] != self.width:
            raise DataError(f"{self.root}: its vectors have {self.width} numbers, the query {queries.shape[1]}")
        found = np.empty((len(queries), len(self)), np.float32)
        turned = torch.from_numpy(np.ascontiguousarray(queries.T, np.float32))
        for start, block in self._blocks():
            # torch widens half precision five times as fast as NumPy; nothing writes to what is mapped
            wide = torch.from_numpy(np.array(block)).float()
            found[:, start : start + len(block)] = (wide @ turned).T.numpy()
        return found

    def nearest(self, query: Floats, count: int, said: Said | None = None) -> list[Found]:
        """The images nearest to a query `[d]` of length 1, the nearest first; equally near ones in their order.

        Args:
            query: the vector.
            count: images to find.
            said: which images' captions say what is asked for; these come further to the front (phrases.py).
        """
        scores = self.scores(query[None])[0]
        order = scores if said is None else places(scores, said)
        return [self._found(int(row), float(scores[row])) for row in largest(order, count)]

    def images(self, part: int) -> "pa.Table":
        """Keys and hashes of a part's images, in the order of its vectors."""
        return self._tables[part] if part in self._tables else self._tables.setdefault(part, self._read_images(part))

    @cached_property
    def _tables(self) -> dict[int, "pa.Table"]:
        return {}

    def _read_images(self, part: int) -> "pa.Table":
        return image_table(self.root, self._parts[part]).select(["key", "image_sha256"])

    def _place(self, row: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return part, row - self.starts[part]

    def _found(self, row: int, similarity: float) -> Found:
        part, place = self._place(row)
        image = self.images(part)
        key, digest = image["key"][place].as_py(), image["image_sha256"][place].as_py()
        return Found(self.names[part], key, digest, similarity)

    def _blocks(self) -> Iterator[tuple[int, Vectors]]:
        for begin, vectors in zip(self.starts, self.mapped, strict=False):
            for start in range(0, len(vectors), _BLOCK):
                yield begin + start, vectors[start : start + _BLOCK]


def largest(scores: Floats, count: int) -> npt.NDArray[np.int64]:
    """Places of the largest scores `[N]`, the largest first and equal ones in their order."""
    count = min(count, len(scores))
    if count == 0:
        return np.empty(0, np.int64)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero(scores >= least)  # all that are as large as the last one: order decides among equals
    return places[np.argsort(-scores[places], kind="stable")][:count].astype(np.int64)


def open_index(uri: str, *, manifest: Manifest | None = None, cache: ShardCache | None = None) -> VectorIndex:
    """The vectors at a URI: those of an index made there, or those of a dataset's shards.

    Args:
        uri: root of a dataset, or a folder or prefix of images with an index.
        manifest: the dataset's, if it was read before.
        cache: for vectors that are not on this machine.

    Raises:
        DataError: there are none; says how to get some.
    """
    store = open_store(uri)
    if store.exists(f"{INDEX_FOLDER}/{INDEX_KEY}"):  # somebody wanted other vectors than a dataset's own
        return _of_record(store.child(INDEX_FOLDER), cache)
    if manifest is None and store.exists(MANIFEST_KEY):
        manifest = load_manifest(uri)
    if manifest is not None and (found := _of_dataset(store.uri, manifest, cache)) is not None:
        return found
    raise DataError(
        f"{store.uri} has no vectors of its images to search in: make them with `capfilt index {store.uri} "
        "--model FILTER`"
    )


def _of_dataset(root: str, manifest: Manifest, cache: ShardCache | None) -> VectorIndex | None:
    parts = [(entry.name, entry) for entry in manifest.shards if entry.vectors is not None]
    model = next((parent for parent in manifest.parents if parent.role == "filter"), None)
    if not parts or model is None:
        return None
    return VectorIndex(root, parts, model, _settings(manifest), cache)


def _settings(manifest: Manifest) -> dict[str, Any]:
    """The settings of the filter: a recut dataset has those of the one it was cut from, if that is still there."""
    if manifest.kind != "recut":
        return manifest.config
    for parent in manifest.parents:
        if parent.role == "dataset" and open_store(parent.uri).exists(MANIFEST_KEY):
            return _settings(load_manifest(parent.uri))
    return manifest.config


def _of_record(store: Store, cache: ShardCache | None) -> VectorIndex:
    where = join_uri(store.uri, INDEX_KEY)
    try:
        record = IndexRecord.model_validate(load_json(store.read(INDEX_KEY), where))
    except ValidationError as error:
        raise DataError(f"{where} is no record of an index ({short_errors(error)}); make it again") from error
    model = record.model.model_copy(update={"uri": absolute_uri(store.uri, record.model.uri)})
    return VectorIndex(store.uri, [(part.name, part) for part in record.parts], model, record.config, cache)


def write_index(store: Store, record: IndexRecord) -> None:
    """Declare the index at the store's root whole: from now on it is found."""
    store.write(INDEX_KEY, pretty(record.model_dump(mode="json")))
