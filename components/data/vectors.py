"""ITC vectors of a shard's images, stored beside it: search, near duplicates and leak checks need no second look.

    shards/00000-<sha256>.npy              float16 [N, d], rows of length 1, as NumPy writes it: can be mapped
    shards/00000-<sha256>.images.parquet   key, image_sha256, phash (64 bits, phash.py), a row per vector, in its order

There is a row for every good image of the shard, kept or dropped, in the order of the input.
"""

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from components.common.errors import DataError
from components.common.storage import Store, open_store, sha256_hex, split_uri
from components.data.fetch import ShardCache
from components.data.manifest import file_uri
from components.data.records import FileRecord, own_file

if TYPE_CHECKING:
    import pyarrow as pa

Vectors = npt.NDArray[np.float16]


class Beside(Protocol):
    """What has vectors: a shard of a dataset, or a part of an index."""

    @property
    def vectors(self) -> FileRecord | None:
        """The file of vectors."""

    @property
    def images(self) -> FileRecord | None:
        """The file of the images behind them."""


class ImageRow(NamedTuple):
    """What is known of an image without looking at it: the row of its vector has the same number."""

    key: str
    image_sha256: str
    phash: int


def vectors_to_bytes(vectors: Vectors) -> bytes:
    """The file of vectors `[N, d]`."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(vectors, np.float16), allow_pickle=False)
    return buffer.getvalue()


def images_to_bytes(rows: Sequence[ImageRow]) -> bytes:
    """The parquet file of the images behind the vectors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [[row[index] for row in rows] for index in range(3)]
    kinds = (pa.string(), pa.string(), pa.uint64())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    buffer = io.BytesIO()
    table = pa.Table.from_arrays(arrays, names=list(ImageRow._fields))
    pq.write_table(table, buffer, compression="zstd", version="2.6", use_dictionary=False)
    return buffer.getvalue()


def write_vectors(store: Store, name: str, rows: Sequence[ImageRow], vectors: Vectors) -> tuple[FileRecord, FileRecord]:
    """Write a shard's vectors `[N, d]` and its images; their records."""
    records = []
    for suffix, data in ((".npy", vectors_to_bytes(vectors)), (".images.parquet", images_to_bytes(rows))):
        records.append(own_file(name, suffix, len(data), sha256_hex(data)))
        store.write(records[-1].uri, data)
    return records[0], records[1]


def open_vectors(root: str, entry: Beside, cache: ShardCache | None = None) -> Vectors:
    """The vectors of a shard `[N, d]`, mapped into memory from where they are or from the cache.

    Raises:
        DataError: this dataset has none, or they are not what was committed.
    """
    record = _recorded(root, entry.vectors)
    with (cache or ShardCache()).opened(file_uri(root, record), record) as handle:
        try:
            found: Vectors = np.load(f"/proc/self/fd/{handle}", mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{file_uri(root, record)} is no file of vectors: {error}") from error
    os.close(handle)
    return found


def read_images(root: str, entry: Beside) -> list[ImageRow]:
    """The images behind a shard's vectors, in their order.

    Raises:
        DataError: this dataset has none, or they are not what was committed.
    """
    table = image_table(root, entry)
    return [ImageRow(*row) for row in zip(*(table[name].to_pylist() for name in ImageRow._fields), strict=True)]


def image_table(root: str, entry: Beside) -> "pa.Table":
    """The same as columns: `key`, `image_sha256`, `phash`; raises as `read_images` does."""
    import pyarrow.parquet as pq

    record = _recorded(root, entry.images)
    uri = file_uri(root, record)
    folder, key = split_uri(uri)
    data = open_store(folder).read(key)
    if sha256_hex(data) != record.sha256:
        raise DataError(f"{uri} is not what was committed: its sha256 differs; make the dataset again")
    return pq.read_table(io.BytesIO(data), use_threads=False)


def _recorded(root: str, record: FileRecord | None) -> FileRecord:
    if record is None:
        raise DataError(
            f"{root} has no vectors of its images: it was imported, or made by an earlier release; regenerate it, or "
            "compute them: capfilt index"
        )
    return record
