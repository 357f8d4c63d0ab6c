"""The candidate table of a shard: one parquet row per caption that was considered, kept or not."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from components.common.errors import DataError
from components.common.locations import absolute_uri
from components.common.storage import open_store, sha256_hex, split_uri
from components.data.records import FileRecord

if TYPE_CHECKING:
    import pyarrow as pa

Source = Literal["web", "synthetic", "human", "question"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One caption of one image. Rows lie in the order of the tar's samples; an image's rows are neighbours."""

    key: str
    image_sha256: str
    source: Source
    text: str
    itm_probability: float | None
    """P(match) by the filter, 0..1; None where no filter looked."""
    itc_similarity: float | None
    """Cosine of the unimodal embeddings, -1..1; None where no filter looked."""
    kept: bool
    reason: str = ""
    """Why it was dropped; empty for a kept one."""
    weight: float = 1.0
    """How often a training shall meet the pair, in relation to others."""


@cache
def candidate_schema() -> "pa.Schema":
    """Columns of the table, in order."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = (text, text, text, text, number, number, pa.bool_(), text, number)
    nullable = ("itm_probability", "itc_similarity")
    return pa.schema(
        [
            pa.field(field.name, kind, nullable=field.name in nullable)
            for field, kind in zip(fields(Candidate), types, strict=True)
        ]
    )


def candidates_to_bytes(rows: Iterable[Candidate]) -> bytes:
    """The parquet file of these rows: the same rows, the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    columns = [[getattr(row, field.name) for row in rows] for field in fields(Candidate)]
    schema = candidate_schema()
    try:
        table = pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise DataError(f"a caption or key cannot be stored: {error}; clean it to valid Unicode first") from error
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", version="2.6", row_group_size=1 << 16, use_dictionary=["source"])
    return buffer.getvalue()


def write_candidates(rows: Iterable[Candidate], target: Path) -> None:
    """Write the table to a local file."""
    target.write_bytes(candidates_to_bytes(rows))


class CandidateTable:
    """A candidate table at hand: columns for those who need few, rows for those who need all.

    Args:
        source: a local file, or the whole file in memory.
        name: what to call it in errors (default: its path).

    Raises:
        DataError: it is no parquet file, lacks columns, or has a source that is none.
    """

    def __init__(self, source: str | Path | bytes, *, name: str | None = None) -> None:
        self.name = name or ("candidates in memory" if isinstance(source, bytes) else str(source))
        self._table = _checked(_read(source, self.name), self.name)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def keys(self) -> list[str]:
        """Keys of the images, one for every row."""
        return self._column("key")

    def rows(self) -> list[Candidate]:
        """All candidates, in order."""
        columns = (column.to_pylist() for column in self._table.columns)
        return [Candidate(*row) for row in zip(*columns, strict=True)]

    def kept(self) -> Iterator[tuple[str, str, str]]:
        """Key, sha256 of the image and text of every kept candidate, in order."""
        table = self._table.filter(self._table["kept"])
        return zip(*(table[name].to_pylist() for name in ("key", "image_sha256", "text")), strict=True)

    def _column(self, name: str) -> list[str]:
        values: list[str] = self._table[name].to_pylist()
        return values


def _read(source: str | Path | bytes, name: str) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Our own file in memory or on disk: read whole, in this thread, so that a reader per core does not make n²
        with pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is not a readable parquet file: {error}") from error


def _checked(table: "pa.Table", name: str) -> "pa.Table":
    """The table in the columns and types of candidates."""
    import pyarrow as pa
    import pyarrow.compute as pc

    expected = candidate_schema()
    if "weight" not in table.column_names:  # written before pairs had weights
        table = table.append_column("weight", pa.array([1.0] * len(table), pa.float64()))
    if missing := [column for column in expected.names if column not in table.column_names]:
        raise DataError(f"{name} is no candidate table: it lacks {', '.join(missing)}")
    try:
        table = table.select(expected.names).cast(expected)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{name} is no candidate table: {error}") from error
    if unknown := set(pc.unique(table["source"]).to_pylist()) - set(get_args(Source)):
        raise DataError(f"{name}: unknown source {sorted(unknown)}; expected {get_args(Source)}")
    return table


def read_candidates(source: str | Path | bytes, *, name: str | None = None) -> list[Candidate]:
    """The rows of a table, in order; arguments and errors as `CandidateTable` has them."""
    return CandidateTable(source, name=name).rows()


def stored_candidates(root: str, record: FileRecord) -> CandidateTable:
    """The candidate table of a dataset's shard, from its store.

    Args:
        root: URI of the dataset.
        record: the table's file, as the manifest or the commit record has it.

    Raises:
        DataError: it is missing, no candidate table, or not the one that was committed.
    """
    uri = absolute_uri(root, record.uri)
    folder, key = split_uri(uri)
    data = open_store(folder).read(key)
    if sha256_hex(data) != record.sha256:
        raise DataError(f"{uri} is not what the manifest says: its sha256 differs; make the dataset again")
    return CandidateTable(data, name=uri)


MAX_TEXT_BYTES = 20_000
"""Longer texts are pages, not captions: dropped as `text_too_long`. 30 words are ever read of a caption."""


def text_problem(text: object) -> str | None:
    """Why a text cannot be a caption (`missing_text`, `empty_text`, `text_too_long`, `text_not_utf8`), or None."""
    if not isinstance(text, str):
        return "missing_text"
    if not text.strip():
        return "empty_text"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # lone surrogates, which JSON can smuggle in
        return "text_not_utf8"
    return "text_too_long" if size > MAX_TEXT_BYTES else None
