"""The candidate table of a shard: one parquet row per caption that was considered, kept or not."""

import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from components.common.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Source = Literal["web", "synthetic", "human"]


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


def read_candidate_table(source: str | Path | bytes, *, name: str | None = None) -> "pa.Table":
    """The table as Arrow columns.

    Raises:
        DataError: if it is no parquet file or lacks columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = name or ("candidates in memory" if isinstance(source, bytes) else str(source))
    try:
        # Our own file in memory or on disk: read whole, in this thread, so that a reader per core does not make n²
        with pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where} is not a readable parquet file: {error}") from error
    expected = candidate_schema()
    if "weight" not in table.column_names:  # written before pairs had weights
        table = table.append_column("weight", pa.array([1.0] * len(table), pa.float64()))
    missing = [column for column in expected.names if column not in table.column_names]
    if missing:
        raise DataError(f"{where} is no candidate table: it lacks {', '.join(missing)}")
    try:
        return table.select(expected.names).cast(expected)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{where} is no candidate table: {error}") from error


def read_candidates(source: str | Path | bytes, *, name: str | None = None) -> list[Candidate]:
    """The rows of a table, in order.

    Raises:
        DataError: if it is no candidate table.
    """
    table = read_candidate_table(source, name=name)
    rows = [Candidate(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    if unknown := {row.source for row in rows} - set(get_args(Source)):
        raise DataError(f"{name or 'candidate table'}: unknown source {sorted(unknown)}; expected {get_args(Source)}")
    return rows


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
