"""Rows of a table of image paths and texts, CSV, TSV or parquet, each with its place in the file.

What is a table is told by its name: `.csv`, `.tsv` (or `.tab`, `.txt`: separated by tabs), `.parquet`. CSV and TSV are
UTF-8 with a header line. A row that cannot be read is handed out with what is wrong with it, and the rest goes on.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TextIO

from components.common.errors import ConfigError, DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")
_FIELD_LIMIT = 1 << 20  # characters of one field


@dataclass(frozen=True)
class TableRow:
    """A row.

    Attributes:
        place: `line 17` of a text file, `row 16` (from 0) of parquet.
        image: what stands in the image column; empty for a row that cannot be read.
        text: what stands in the text column.
        fault: why the row cannot be read; empty if it can.
    """

    place: str
    image: str
    text: object
    fault: str = ""


@dataclass(frozen=True)
class TableImage:
    """Neighbouring rows of one image: a sample, with as many texts as rows.

    Attributes:
        key: the first row's number (from 0) in nine digits.
        rows: one or more; a row that cannot be read stands alone.
    """

    key: str
    rows: tuple[TableRow, ...]

    @property
    def image(self) -> str:
        """Path of the image as the table has it."""
        return self.rows[0].image

    @property
    def place(self) -> str:
        """Where it begins in the table."""
        return self.rows[0].place


def table_images(path: Path, name: str, *, image: str, text: str) -> Iterator[TableImage]:
    """The images of a table in its order. Rows of one image that do not follow one another are samples of their own.

    Args:
        path: a local file.
        name: what the table is called, which tells its kind.
        image, text: names of the columns.

    Raises:
        ConfigError: a column is not there (names those that are), or the file is of no known kind.
        DataError: the file cannot be read at all.
    """
    numbered = enumerate(_rows(path, name, image, text))
    for _, group in groupby(numbered, key=lambda item: (item[1].image or f"row {item[0]}", bool(item[1].fault))):
        members = list(group)
        yield TableImage(f"{members[0][0]:09d}", tuple(row for _, row in members))


def check_table(path: Path, name: str, *, image: str, text: str) -> None:
    """Look before any work: the table's kind, and its columns; errors as of `table_images`."""
    next(_rows(path, name, image, text), None)


def _rows(path: Path, name: str, image: str, text: str) -> Iterator[TableRow]:
    suffix = Path(name).suffix.lower()
    if suffix in _PARQUET:
        return _parquet_rows(path, name, image, text)
    if suffix in _SEPARATORS:
        return _text_rows(path, name, _SEPARATORS[suffix], image, text)
    raise ConfigError(f"{name}: which kind of table is it? Name it .csv, .tsv or .parquet")


def _text_rows(path: Path, name: str, separator: str, image: str, text: str) -> Iterator[TableRow]:
    csv.field_size_limit(_FIELD_LIMIT)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(_without_nul(file), delimiter=separator)
        header = next(reader, [])
        columns = _column(header, image, name), _column(header, text, name)
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield TableRow(place, "", None, f"it is no {separator!r}-separated line: {error}")
                continue
            if fields:  # blank lines are no rows
                yield _text_row(place, fields, len(header), columns)


def _without_nul(file: TextIO) -> Iterator[str]:
    """Lines without NUL characters, which older versions of the csv module end at."""
    return (line.replace("\0", "") for line in file)


def _text_row(place: str, fields: list[str], width: int, columns: tuple[int, int]) -> TableRow:
    if len(fields) != width:
        return TableRow(place, "", None, f"it has {len(fields)} fields, the header {width}")
    image, text = (fields[column] for column in columns)
    return TableRow(place, image, text)


def _parquet_rows(path: Path, name: str, image: str, text: str) -> Iterator[TableRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for column in (image, text):
                _column(file.schema_arrow.names, column, name)
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=list(dict.fromkeys((image, text)))):
                columns = batch.column(image).to_pylist(), batch.column(text).to_pylist()
                for where, said in zip(*columns, strict=True):
                    yield _parquet_row(f"row {number}", where, said)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is not a readable parquet file: {error}") from error


def _parquet_row(place: str, image: object, text: object) -> TableRow:
    if image is None or isinstance(image, str):
        return TableRow(place, image or "", text)
    return TableRow(place, "", text, f"the image is no path but {type(image).__name__}")


def _column(names: list[str], wanted: str, where: str) -> int:
    """Place of a column by its name."""
    if names.count(wanted) != 1:
        found = "is there twice" if wanted in names else "is not there"
        raise ConfigError(f"{where}: column {wanted!r} {found}; its columns are {', '.join(names) or 'none'}")
    return names.index(wanted)
