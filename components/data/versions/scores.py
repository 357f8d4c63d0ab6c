"""Scores that other programs found, as further columns of a version: a child version that can be cut by them.

What was kept stays kept, and its files are taken over as they are; only the candidate tables are new. The child names
each score's file by its digest, as it would a scorer, so that a threshold can be tied to it.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from components.common.contracts import Contract, DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.storage import Store, normalise_uri, open_store, sha256_hex, split_uri
from components.data.candidates import Candidate, CandidateTable, candidates_to_bytes, stored_candidates
from components.data.commits import commit_of, commit_shard, recall
from components.data.manifest import Manifest, load_manifest, plan_dataset, seal_dataset
from components.data.records import Parent, Provenance, ShardEntry, ShardRecord, own_file
from components.data.scores import BLIP_COLUMNS, Column, Kind, Reading, check_score_name

logger = logging.getLogger(__name__)

REVISION = 1
"""Raised when the same version and file would give another output."""
Texts = Literal["all", "web", "synthetic"]
_SHOWN = 5


class Scored(Contract):
    """A child version, and how many captions got a score."""

    dataset: DatasetRef
    captions: int
    """Captions that were to get one: those that a scorer had looked at."""
    missing: int
    """Of these, captions whose image is not in the file, or has nothing there, by score; the largest."""
    unused: int
    """Keys of the file that no caption has."""


class _File(NamedTuple):
    """Scores by name and key."""

    values: dict[str, dict[str, float]]
    keys: set[str]
    sha256: str
    uri: str


def add_scores(
    uri: str,
    table: str,
    scores: Mapping[str, str],
    out: Store,
    *,
    key: str = "key",
    kind: Kind = "logit",
    texts: Texts = "all",
) -> Scored:
    """Make a child version with further scores; interrupted, the same call goes on.

    Args:
        uri: a dataset that CapFilt made, or one that was made of it.
        table: URI of a parquet file with a row per image.
        scores: names of the scores to the columns that have them.
        out: root of the new dataset. Its last part is the dataset's name.
        key: column with the images' keys.
        kind: what the values are.
        texts: which captions of an image they are about; `all` where they are about the image.

    Raises:
        ConfigError: a name is none or taken, or `out` holds something else.
        DataError: there is no such dataset or column, a value is no finite number, a key has two values, or no caption
            gets a score.
    """
    manifest = load_manifest(uri)
    if manifest.kind not in ("capfilt", "recut"):
        raise DataError(
            f"{uri} is a {manifest.kind} dataset without scores; only what CapFilt made can get more of them. A list "
            "of keys cuts any dataset (`capfilt dataset select`)"
        )
    file = _read(table, scores, key)
    settings = {name: {"sha256": file.sha256, "column": scores[name], "kind": kind, "texts": texts} for name in scores}
    columns = [Column(name, kind) for name in scores]
    plan = {"kind": "recut", "version": REVISION, "dataset": manifest.digest, "scores": settings}
    fingerprint = plan_dataset(out, plan)
    source, committed = open_store(uri), recall(out, plan=fingerprint)
    told = _Told(file)
    entries = []
    for entry in manifest.shards:
        before = stored_candidates(source.uri, entry.parquet)
        _check_free(source.uri, before, scores)
        rows = [_scored(row, file, texts, told) for row in before.rows()]
        if (record := committed.get(entry.name)) is None:
            data = candidates_to_bytes(rows, [*before.scores, *columns], outcomes=before.outcomes)
            record = _commit(source, entry, out, fingerprint, data)
        entries.append(record.entry())
    told.check(uri, key)
    made = _made(manifest, source, out, fingerprint, settings, file)
    return Scored(dataset=seal_dataset(out, made, entries), captions=told.captions, **told.counts())


def _made(
    manifest: Manifest, source: Store, out: Store, fingerprint: str, settings: dict[str, Any], file: _File
) -> Provenance:
    """A dataset that was cut again without deciding otherwise: whatever reads those reads this."""
    config = {**manifest.config, "scores": {**manifest.config.get("scores", {}), **settings}}
    scorers = [Parent(role=f"scorer:{name}", digest=file.sha256, uri=file.uri) for name in settings]
    parents = (Parent(role="dataset", digest=manifest.digest, uri=source.uri), *manifest.parents, *scorers)
    return Provenance(out.uri.rpartition("/")[2], "recut", config, fingerprint, parents, manifest.origin)


class _Told:
    """Which captions got no score, and which keys nobody has."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self.captions = 0
        self._missing: dict[str, list[str]] = {name: [] for name in file.values}
        self._met: set[str] = set()

    def add(self, key: str) -> None:
        """A caption that was to get scores."""
        self.captions += 1
        self._met.add(key)
        for name, values in self.file.values.items():
            if key not in values:
                self._missing[name].append(key)

    def counts(self) -> dict[str, int]:
        """`missing` and `unused` of the result."""
        missing = max(len(keys) for keys in self._missing.values())
        return {"missing": missing, "unused": len(self.file.keys - self._met)}

    def check(self, uri: str, key: str) -> None:
        """Tell what is missing.

        Raises:
            DataError: that is everything.
        """
        for name, keys in self._missing.items():
            some = ", ".join(dict.fromkeys(keys[:_SHOWN]))
            if len(keys) == self.captions:
                raise DataError(
                    f"{self.file.uri}: no caption of {uri} gets a {name}: the keys there are such as {some or 'none'}, "
                    f"those of column {key} such as {', '.join(sorted(self.file.keys)[:3])}"
                )
            if keys:
                told = "%s: %d of %d captions get no %s, and no rule that asks for it keeps them: images %s …"
                logger.warning(told, self.file.uri, len(keys), self.captions, name, some)


def _check_free(uri: str, table: CandidateTable, scores: Mapping[str, str]) -> None:
    taken = {one.name for one in (*BLIP_COLUMNS, *table.scores)} & scores.keys()
    if taken:
        raise ConfigError(f"{uri} has a score {sorted(taken)[0]} already: give the new one another name")


def _scored(row: Candidate, file: _File, texts: Texts, told: _Told) -> Candidate:
    """A candidate with what the file says of it, if a scorer had looked at it: what has no score was of no use."""
    if (row.itm_probability is None and not row.others) or texts not in ("all", row.source):
        return row
    told.add(row.key)
    found = {name: Reading(values[row.key]) for name, values in file.values.items() if row.key in values}
    return replace(row, others={**row.others, **found})


def _commit(source: Store, entry: ShardEntry, out: Store, fingerprint: str, table: bytes) -> ShardRecord:
    """Write the table, take over the other files, commit."""
    commit = commit_of(source, entry)
    if commit is None:
        raise DataError(f"{source.uri}: the commit record of shard {entry.name} is gone; make the dataset again")
    parquet = own_file(entry.name, ".parquet", len(table), sha256_hex(table))
    out.write(parquet.uri, table)
    for file in entry.own_files:
        if file != entry.parquet:
            out.copy(source, file.uri, file.uri)
    return commit_shard(out, commit.model_copy(update={"plan": fingerprint, "parquet": parquet}))


def _read(uri: str, scores: Mapping[str, str], key: str) -> _File:
    """The columns of the file that are wanted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not scores:
        raise ConfigError("which scores? Give a name and the column that has it, NAME=COLUMN")
    names = [check_score_name(name) for name in scores]
    uri = normalise_uri(uri)
    folder, name = split_uri(uri)
    data = open_store(folder).read(name)
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri} is not a readable parquet file: {error}") from error
    if missing := [column for column in (key, *scores.values()) if column not in table.column_names]:
        raise DataError(f"{uri} has no column {missing[0]}: it has {', '.join(table.column_names[:20])}")
    keys = [str(one) for one in table[key].to_pylist()]
    values = {name: _values(uri, scores[name], keys, table[scores[name]].to_pylist()) for name in names}
    return _File(values, set(keys), sha256_hex(data), uri)


def _values(uri: str, column: str, keys: list[str], cells: list[Any]) -> dict[str, float]:
    """Values by key; a null is none."""
    found: dict[str, float] = {}
    for key, cell in zip(keys, cells, strict=True):
        if cell is None:
            continue
        if isinstance(cell, bool) or not isinstance(cell, int | float) or not math.isfinite(cell):
            raise DataError(
                f"{uri}, column {column}, key {key}: {cell!r} is no finite number; mend it, or make it null"
            )
        if found.setdefault(key, float(cell)) != float(cell):
            raise DataError(f"{uri}, column {column}: key {key} has two values, {found[key]!r} and {cell!r}; leave one")
    return found
