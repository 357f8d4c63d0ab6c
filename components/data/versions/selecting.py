"""A part of a version by a list of keys or uids, as a child version with those samples only; and such a list of one.

Nothing is decided again: what the version kept and the list has stays, byte for byte, in tars of the child's own. What
is not on the list stays in the tables with its scores, dropped as `not_selected`. No web shard, no model is needed.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from components.common.contracts import Contract, DatasetRef
from components.common.errors import DataError
from components.common.storage import Store, normalise_uri, open_store, sha256_hex, split_uri
from components.data.candidates import Candidate, CandidateTable, candidates_to_bytes, kept_weight, stored_candidates
from components.data.commits import commit_of, commit_shard, recall
from components.data.kept import kept_samples
from components.data.manifest import Manifest, check_plan, load_manifest, plan_dataset, seal_dataset
from components.data.records import KEPT_WEIGHT, Counts, Parent, Provenance, ShardEntry, ShardRecord, own_file
from components.data.selection import Selection, read_selection, uid_of, uids_to_npy
from components.data.shards import write_shard
from components.data.web.texts import json_fields

logger = logging.getLogger(__name__)

NOT_SELECTED = "not_selected"
REVISION = 1
"""Raised when the same version and list would give another output."""


class Selected(Contract):
    """A child version, and what of the list it has."""

    dataset: DatasetRef
    listed: int
    missing: int
    """Listed, and not among what the version kept."""


def select_dataset(
    uri: str, listed: str, out: Store, *, progress: Callable[[int], None] = lambda samples: None
) -> Selected:
    """Make a child version with the samples of a list only; interrupted, the same call goes on.

    Args:
        uri: a sealed dataset of any kind.
        listed: URI of the list: see selection.py.
        out: root of the new dataset. Its last part is the dataset's name.
        progress: called with the number of samples looked at, shard by shard.

    Raises:
        DataError: there is no such dataset or list, or nothing of the list is there.
        ConfigError: `out` holds something else.
    """
    manifest, selection = load_manifest(uri), read_selection(listed)
    settings = {"selection": selection.sha256, "listed": len(selection)}
    plan = {"kind": "selected", "version": REVISION, "dataset": manifest.digest, "config": settings}
    check_plan(out, plan)
    if not _has_any(uri, manifest, selection):
        raise DataError(
            f"{listed}: not one of its {len(selection):,} names is among what {uri} kept, e.g. "
            f"{selection.missing_names(1)[0]}: is it the list of another dataset? Nothing was written"
        )
    fingerprint = plan_dataset(out, plan)
    source, entries = open_store(uri), []
    committed = recall(out, plan=fingerprint)
    with tempfile.TemporaryDirectory(prefix="capfilt-select-") as folder:
        for entry in manifest.shards:
            record = _again(out, committed.get(entry.name), selection)
            entries.append((record or _cut(source, entry, out, fingerprint, selection, Path(folder))).entry())
            progress(entry.counts.kept)
    if selection.missing:
        some = ", ".join(selection.missing_names())
        logger.warning(
            "%s: %d of %d names are not in %s, e.g. %s", listed, selection.missing, len(selection), uri, some
        )
    parents = (Parent(role="dataset", digest=manifest.digest, uri=source.uri), *manifest.parents)
    name = out.uri.rpartition("/")[2]
    made = Provenance(name, "selected", settings, fingerprint, parents, manifest.origin)
    return Selected(dataset=seal_dataset(out, made, entries), listed=len(selection), missing=selection.missing)


def _has_any(uri: str, manifest: Manifest, selection: Selection) -> bool:
    """Whether the version kept one of the list at least: with a right list the first samples tell."""
    return any(
        selection.wants(sample.key, uid_of(sample.key, json_fields(sample.fields)))
        for entry in manifest.shards
        for sample in kept_samples(uri, entry)
    )


def _again(out: Store, record: ShardRecord | None, selection: Selection) -> ShardRecord | None:
    """A shard that an earlier call finished; what of the list it has counts as found."""
    if record is not None:
        for sample in kept_samples(out.uri, record.entry()):
            selection.wants(sample.key, uid_of(sample.key, json_fields(sample.fields)))
    return record


def _cut(
    source: Store, entry: ShardEntry, out: Store, fingerprint: str, selection: Selection, folder: Path
) -> ShardRecord:
    """One shard of the child, committed."""
    commit = commit_of(source, entry)
    if commit is None:
        raise DataError(f"{source.uri}: the commit record of shard {entry.name} is gone; make the dataset again")
    chosen: set[str] = set()
    local = folder / f"{entry.name}.tar"
    size, digest = write_shard(_chosen(source.uri, entry, selection, chosen), local)
    tar = own_file(entry.name, ".tar", size, digest)
    out.upload(local, tar.uri)
    local.unlink()
    table = stored_candidates(source.uri, entry.parquet)
    rows = [_decided(row, chosen) for row in table.rows()]
    data = candidates_to_bytes(rows, table.scores, outcomes=table.outcomes)
    parquet = own_file(entry.name, ".parquet", len(data), sha256_hex(data))
    out.write(parquet.uri, data)
    for file in (entry.vectors, entry.images):
        if file is not None:
            out.copy(source, file.uri, file.uri)
    more = {"plan": fingerprint, "tar": tar, "parquet": parquet}
    counted = {"counts": _counts(entry.counts, rows), "metrics": _weight(rows)}
    return commit_shard(out, commit.model_copy(update=more | counted))


def _chosen(
    uri: str, entry: ShardEntry, selection: Selection, chosen: set[str]
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """The samples that are wanted, in order; their keys are gathered in `chosen`."""
    for sample in kept_samples(uri, entry, whole=True):
        if selection.wants(sample.key, uid_of(sample.key, json_fields(sample.fields))):
            chosen.add(sample.key)
            yield sample.key, sample.members


def _decided(row: Candidate, chosen: set[str]) -> Candidate:
    return row if not row.kept or row.key in chosen else replace(row, kept=False, reason=NOT_SELECTED)


def _counts(before: Counts, rows: list[Candidate]) -> Counts:
    pairs = sum(row.kept for row in rows)
    kept = len({row.key for row in rows if row.kept})
    moved = {"kept": kept, "dropped": before.dropped + before.kept - kept, "kept_pairs": pairs}
    return before.model_copy(update=moved | {"dropped_pairs": before.dropped_pairs + before.kept_pairs - pairs})


def _weight(rows: list[Candidate]) -> dict[str, float]:
    """What a loader has to know where not all pairs weigh 1."""
    weight = kept_weight(rows)
    return {} if weight is None else {KEPT_WEIGHT: round(weight, 6)}


def export_list(uri: str, target: str, *, progress: Callable[[int], None] = lambda samples: None) -> int:
    """Write the uids of what a version kept to a `.npy`, or its keys to a text file.

    Args:
        uri: a sealed dataset.
        target: URI of the list; what ends in `.npy` is one as DataComp's, anything else has a key a line.
        progress: called with the number of samples looked at, shard by shard.

    Returns:
        How many samples it lists.

    Raises:
        DataError: a sample has no uid.
    """
    manifest = load_manifest(uri)
    names: list[str] = []
    for entry in manifest.shards:
        if target.endswith(".npy"):
            names += _uids(uri, entry)
        else:
            names += _kept_keys(stored_candidates(uri, entry.parquet))
        progress(entry.counts.kept)
    data = uids_to_npy(names) if target.endswith(".npy") else "".join(f"{name}\n" for name in names).encode()
    folder, name = split_uri(normalise_uri(target))
    open_store(folder).write(name, data)
    return len(names)


def _uids(uri: str, entry: ShardEntry) -> Iterator[str]:
    for sample in kept_samples(uri, entry):
        uid = uid_of(sample.key, json_fields(sample.fields))
        if uid is None:
            raise DataError(
                f"{sample.tar}: sample {sample.key} has no uid (32 hex digits in its JSON or as its key); "
                "write keys to a text file instead: give the list another ending than .npy"
            )
        yield uid


def _kept_keys(table: CandidateTable) -> list[str]:
    return list(dict.fromkeys(key for key, _, _ in table.kept()))
