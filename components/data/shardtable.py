"""The shards of a sealed dataset as a table, a row each: 100,000 of them open in a second and become objects when read.

Written as parquet beside the manifest, which names it by its content. The version covers what the rows say, by the
digests of the commit records, and not the file's bytes: those are the parquet writer's.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from components.common.contracts import Contract
from components.common.errors import DataError
from components.data.records import COUNTED, Counts, FileRecord, ShardEntry

if TYPE_CHECKING:
    import pyarrow as pa

_FILES = ("tar", "parquet", "vectors", "images")
_GROUP = 1 << 13  # rows that are decompressed at a time
_CHUNK = 1024  # rows that are objects at a time while all are read


class TableRecord(Contract):
    """Where the table of shards is, and what it must be."""

    uri: str
    bytes: int
    sha256: str
    rows: int


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    fields = [pa.field("name", text, nullable=False)]
    for file in _FILES:
        fields += [pa.field(f"{file}_uri", text), pa.field(f"{file}_bytes", number), pa.field(f"{file}_sha256", text)]
    fields += [pa.field(name, number, nullable=False) for name in COUNTED]
    fields += [pa.field("failed", pa.map_(text, number)), pa.field("metrics", pa.map_(text, pa.float64()))]
    return pa.schema([*fields, pa.field("commit_digest", text, nullable=False)])


def _values(entry: ShardEntry) -> Iterator[Any]:
    """The columns of a row."""
    yield entry.name
    for name in _FILES:
        file: FileRecord | None = getattr(entry, name)
        yield from (None, None, None) if file is None else (file.uri, file.bytes, file.sha256)
    for name in COUNTED:
        yield getattr(entry.counts, name)
    yield list(entry.counts.failed.items())
    yield list(entry.metrics.items())
    yield entry.commit_digest


def _entry(row: dict[str, Any]) -> ShardEntry:
    files = {
        name: FileRecord(uri=row[f"{name}_uri"], bytes=row[f"{name}_bytes"], sha256=row[f"{name}_sha256"])
        for name in _FILES
        if row[f"{name}_uri"] is not None
    }
    counts = Counts(**{name: row[name] for name in COUNTED}, failed=dict(row["failed"]))
    digest = row["commit_digest"]
    return ShardEntry(name=row["name"], **files, counts=counts, metrics=dict(row["metrics"]), commit_digest=digest)


@contextlib.contextmanager
def _lean_memory() -> Iterator[None]:
    """Arrow's own pool keeps what was only needed to decompress: for 100,000 shards as much as the table itself."""
    import pyarrow as pa

    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


class ShardTable(Sequence[ShardEntry]):
    """The shards of a dataset in order; a row becomes a `ShardEntry` when it is asked for."""

    def __init__(self, table: "pa.Table") -> None:
        self._table = table

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> "ShardTable":
        """A table of these shards."""
        import pyarrow as pa

        columns: list[list[Any]] = [[] for _ in _schema()]
        for entry in entries:
            for column, value in zip(columns, _values(entry), strict=True):
                column.append(value)
        schema = _schema()
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return cls(pa.Table.from_arrays(arrays, schema=schema))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "ShardTable":
        """Read the parquet file.

        Raises:
            DataError: it is none, or lacks columns.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with _lean_memory(), pq.ParquetFile(pa.BufferReader(data)) as file:
                groups = [file.read_row_group(at, use_threads=False) for at in range(file.num_row_groups)]
                table = pa.concat_tables(groups) if groups else file.read()
            return cls(table.select(_schema().names).cast(_schema()))
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{where} is no table of shards: {error}; make the dataset again") from error

    def to_bytes(self) -> bytes:
        """The parquet file."""
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        how = {"compression": "zstd", "version": "2.6", "use_dictionary": False}
        pq.write_table(self._table, buffer, row_group_size=_GROUP, **how)
        return buffer.getvalue()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, at: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, at: slice) -> "ShardTable": ...
    def __getitem__(self, at: int | slice) -> "ShardEntry | ShardTable":
        if isinstance(at, slice):
            return ShardTable(self._table.take(list(range(*at.indices(len(self))))))
        index = range(len(self))[at]  # negative ones count from the end, wrong ones raise
        return _entry(self._table.slice(index, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[ShardEntry]:
        for start in range(0, len(self), _CHUNK):
            yield from (_entry(row) for row in self._table.slice(start, _CHUNK).to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardTable) and bool(self._table.equals(other._table))

    __hash__ = None  # type: ignore[assignment]

    def find(self, name: str) -> ShardEntry | None:
        """The shard of this name."""
        import pyarrow.compute as pc

        index = pc.index(self._table["name"], name).as_py()
        return None if index < 0 else self[index]

    def commits(self) -> dict[str, str]:
        """The commit digest of every shard by its name."""
        names, digests = self._table["name"].to_pylist(), self._table["commit_digest"].to_pylist()
        return dict(zip(names, digests, strict=True))

    @property
    def digest(self) -> str:
        """sha256 over the shards' names and the digests of their commit records, in order."""
        found = hashlib.sha256()
        for start in range(0, len(self), _CHUNK):
            rows = self._table.slice(start, _CHUNK)
            for name, digest in zip(rows["name"].to_pylist(), rows["commit_digest"].to_pylist(), strict=True):
                found.update(f"{name} {digest}\n".encode())
        return found.hexdigest()

    def totals(self) -> Counts:
        """The sum of all counts."""
        import pyarrow.compute as pc

        numbers = {name: int(pc.sum(self._table[name]).as_py() or 0) for name in COUNTED}
        failed: dict[str, int] = {}
        for chunk in self._table["failed"].chunks:
            for reason, count in zip(chunk.keys.to_pylist(), chunk.items.to_pylist(), strict=True):
                failed[reason] = failed.get(reason, 0) + count
        return Counts(**numbers, failed=dict(sorted(failed.items())))

    def bytes(self) -> int:
        """Bytes of all files."""
        import pyarrow.compute as pc

        return sum(int(pc.sum(self._table[f"{name}_bytes"]).as_py() or 0) for name in _FILES)
