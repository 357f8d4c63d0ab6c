"""The candidate table of a shard: one parquet row per caption that was considered, kept or not."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from components.common.contracts import ScoreWeights
from components.common.errors import DataError
from components.common.locations import absolute_uri
from components.common.storage import open_store, sha256_hex, split_uri
from components.data.records import FileRecord
from components.data.scores import Column, Kind, Reading

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
    others: Mapping[str, Reading] = field(default_factory=dict)
    """What other scorers than BLIP said, by the score's name."""
    outcome: str | None = None
    """What became of a caption that was asked for (`ok`, `cut`, …); None where nobody looked."""
    rule: str | None = None
    """The rule that found the outcome; None for `ok`."""


BASE = tuple(one.name for one in fields(Candidate) if one.name not in ("others", "outcome", "rule"))
"""Columns that every table has. Further ones follow where there is something to say; older readers pass over them."""


@cache
def candidate_schema() -> "pa.Schema":
    """Columns of the table, in order."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = (text, text, text, text, number, number, pa.bool_(), text, number)
    nullable = ("itm_probability", "itc_similarity")
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in zip(BASE, types, strict=True)])


def _further(scores: Sequence[Column], outcomes: bool) -> "list[pa.Field]":
    """Columns behind the base ones: each score with its kind, whether its text was cut, outcome and rule."""
    import pyarrow as pa

    found = []
    for score in scores:
        mark = {"capfilt": "score", "kind": score.kind}
        found.append(pa.field(score.name, pa.float64(), metadata=mark))
        found.append(pa.field(f"{score.name}_truncated", pa.bool_(), metadata={"capfilt": "truncated"}))
    if outcomes:
        found += [pa.field(name, pa.string(), metadata={"capfilt": "outcome"}) for name in ("outcome", "rule")]
    return found


def candidates_to_bytes(rows: Iterable[Candidate], scores: Sequence[Column] = (), *, outcomes: bool = False) -> bytes:
    """The parquet file of these rows: the same rows, the same bytes.

    Args:
        rows: the candidates.
        scores: scores of other scorers than BLIP, each a column under its name and one that says whether it was cut.
        outcomes: whether captions were held against the rules of outcomes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    columns = [[getattr(row, name) for row in rows] for name in BASE]
    schema = candidate_schema()
    if further := _further(scores, outcomes):
        schema = pa.schema([*schema, *further])
        for score in scores:
            readings = [row.others.get(score.name) for row in rows]
            columns += [[None if one is None else one[part] for one in readings] for part in (0, 1)]
        if outcomes:
            columns += [[row.outcome for row in rows], [row.rule for row in rows]]
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


def kept_weight(rows: Iterable[Candidate]) -> float | None:
    """Sum of the weights of the kept ones; None where every one weighs 1, so that their number says it."""
    weights = [row.weight for row in rows if row.kept]
    return None if all(weight == 1 for weight in weights) else sum(weights)


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
        whole = _read(source, self.name)
        self._table = _checked(whole, self.name)
        self._further = {
            one.name: (mark, whole.column(one.name))
            for one in whole.schema
            if (mark := {key.decode(): value.decode() for key, value in (one.metadata or {}).items()}).get("capfilt")
        }

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def keys(self) -> list[str]:
        """Keys of the images, one for every row."""
        return self._column("key")

    @property
    def columns(self) -> "pa.Table":
        """All candidates as Arrow's columns, for those who ask of thousands at a time."""
        return self._table

    def rows(self) -> list[Candidate]:
        """All candidates, in order."""
        columns = (column.to_pylist() for column in self._table.columns)
        if not self._further:
            return [Candidate(*row) for row in zip(*columns, strict=True)]
        more = zip(self._others(), self._told("outcome"), self._told("rule"), strict=True)
        rows = (dict(zip(BASE, row, strict=True)) for row in zip(*columns, strict=True))
        named = zip(rows, more, strict=True)
        return [Candidate(**row, others=others, outcome=outcome, rule=rule) for row, (others, outcome, rule) in named]

    @property
    def scores(self) -> tuple[Column, ...]:
        """Scores of other scorers than BLIP that it has, in order."""
        kinds = {name: mark["kind"] for name, (mark, _) in self._further.items() if mark["capfilt"] == "score"}
        if unknown := [kind for kind in kinds.values() if kind not in get_args(Kind)]:
            raise DataError(f"{self.name}: scores of unknown kind {unknown}; it was written by a later version")
        return tuple(Column(name, kind) for name, kind in kinds.items())

    @property
    def outcomes(self) -> bool:
        """Whether captions were held against the rules of outcomes."""
        return "outcome" in self._further

    def _others(self) -> list[dict[str, Reading]]:
        found: list[dict[str, Reading]] = [{} for _ in range(len(self))]
        for score in self.scores:
            values, cut = (self._told(name) for name in (score.name, f"{score.name}_truncated"))
            for row, value, truncated in zip(found, values, cut, strict=True):
                if value is not None:
                    row[score.name] = Reading(value, bool(truncated))
        return found

    def _told(self, name: str) -> list[Any]:
        values: list[Any] = self._further[name][1].to_pylist() if name in self._further else [None] * len(self)
        return values

    def kept_weights(self) -> list[float]:
        """Weights of the kept candidates, in order."""
        values: list[float] = self._table.filter(self._table["kept"])["weight"].to_pylist()
        return values

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


def deciding_score(row: Candidate, weights: ScoreWeights | None) -> float | None:
    """What decided of a text: the match probability, or it weighed with the cosine; None if it had no score."""
    if weights is None or row.itm_probability is None or row.itc_similarity is None:
        return row.itm_probability
    return weights.probability(row.itm_probability, row.itc_similarity)


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
