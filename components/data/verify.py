"""Is a dataset still what its manifest says? Every file hashed, every count recounted."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

from components.common.errors import DataError, StorageError
from components.common.storage import open_store, split_uri
from components.data.candidates import Candidate, read_candidates
from components.data.manifest import FileRecord, ShardEntry, file_uri, load_manifest, read_commit
from components.data.shards import ShardScan, only_image, scan_shard

_CHUNK = 4 << 20


def verify_dataset(uri: str, *, progress: Callable[[int], object] | None = None) -> list[str]:
    """What is wrong with a dataset, one line each; empty if all is well.

    Checks the manifest's digest, sizes and sha256 of all tars and tables, the tars' trailers, commit records, and that
    counts hold: captions in the table, samples in the tar, `in = kept + dropped + failed`.

    Args:
        uri: the dataset's root.
        progress: called with 1 after each shard.

    Raises:
        DataError: there is no manifest that can be read.
    """
    root = open_store(uri).uri
    problems: list[str] = []
    for entry in load_manifest(root).shards:
        problems += _shard_problems(root, entry)
        if progress is not None:
            progress(1)
    return problems


def _shard_problems(root: str, entry: ShardEntry) -> Iterator[str]:
    try:
        commit = read_commit(open_store(root), entry.name)
        if commit is None or commit.entry() != entry:
            yield f"{root}/commits/{entry.name}.json: {'differs from the manifest' if commit else 'is missing'}"
        tar, tar_problem = _checked(root, entry.tar)
        table, table_problem = _checked(root, entry.parquet)
        yield from (problem for problem in (tar_problem, table_problem) if problem)
        if not tar_problem and not table_problem:
            yield from _content_problems(entry, scan_shard(tar, name=file_uri(root, entry.tar)), read_candidates(table))
    except (DataError, StorageError) as error:
        yield str(error)


def _checked(root: str, record: FileRecord) -> tuple[bytes, str | None]:
    """A file's bytes, and what is wrong with them."""
    where = file_uri(root, record)
    folder, key = split_uri(where)
    store = open_store(folder)
    if not store.exists(key):
        return b"", f"{where}: is missing"
    data = store.read(key)
    if len(data) != record.bytes:
        return data, f"{where}: has {len(data)} bytes, the manifest says {record.bytes}"
    if hashlib.sha256(data).hexdigest() != record.sha256:
        return data, f"{where}: its sha256 is not the manifest's"
    return data, None


def _content_problems(entry: ShardEntry, scan: ShardScan, rows: list[Candidate]) -> Iterator[str]:
    counts = entry.counts
    if scan.broken is not None and not (entry.tar.in_place and "broken_shard" in counts.failed):
        yield str(scan.broken)
    usable = {sample.key for sample in scan.samples if sample.problem is None and only_image(sample.members)}
    keys = Counter(row.key for row in rows if row.kept)
    found = {
        "kept_pairs": keys.total(),
        "dropped_pairs": len(rows) - keys.total(),
        "kept": len(keys),
        "dropped": len({row.key for row in rows} - set(keys)),
    }
    for name, number in found.items():
        if number != getattr(counts, name):
            yield f"shard {entry.name}: {number} {name} in the table, {getattr(counts, name)} in the manifest"
    if missing := {row.key for row in rows} - usable:
        yield f"shard {entry.name}: no picture for {len(missing)} keys of the table, e.g. {min(missing)!r}"
