"""Which shards of a dataset are finished: a commit record per shard, written after its files.

Several writers may finish one shard, one of them perhaps hours after the other. Each writes files and a commit of its
own; none overwrites another's. Which of them counts is a function of what lies there and of nothing else: the one that
the manifest names, if there is one, else the one of the smallest digest among those whose files are whole.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from components.common.errors import DataError
from components.common.locations import relative_uri, store_root
from components.common.storage import Store, join_uri
from components.data.records import FileRecord, ShardEntry, ShardRecord, commit_key

logger = logging.getLogger(__name__)

_KEY = re.compile(r"(?P<name>.+)-(?P<digest>[0-9a-f]{16})\.json")
_FOLDER = "commits"
READERS = 16
"""Threads that read small files at once."""


def commit_shard(store: Store, record: ShardRecord) -> ShardRecord:
    """Declare a shard finished. Its files must lie in the store already; committing it again changes nothing.

    Args:
        store: rooted at the dataset.
        record: what was written.

    Returns:
        The record as committed: a tar in the same store is named by a relative URI.

    Raises:
        DataError: a file is missing or has another size.
    """
    record = record.model_copy(update={"tar": _from(store, record.tar)})
    for file in record.own_files:
        info = store.info(file.uri)
        if info is None or info.size != file.bytes:
            found = "missing" if info is None else f"{info.size} bytes"
            where = join_uri(store.uri, file.uri)
            raise DataError(f"cannot commit {where}: it is {found}, should be {file.bytes} bytes; run again")
    store.write(commit_key(record.name, record.digest), record.to_bytes())
    return record


def _from(store: Store, file: FileRecord) -> FileRecord:
    """A file as it is named in the dataset at the store's root."""
    uri = relative_uri(store.uri, file.uri, within=store_root(store.uri))
    return file if uri == file.uri else file.model_copy(update={"uri": uri})


def read_commit(store: Store, name: str) -> ShardRecord | None:
    """The commit record of a shard that counts, or None if the shard is not finished. One listing: see `recall`.

    Raises:
        DataError: the record is not readable.
    """
    return recall(store, names=(name,)).get(name)


def commit_of(store: Store, entry: ShardEntry) -> ShardRecord | None:
    """The commit record that a manifest's line stands for; None if it is gone.

    Raises:
        DataError: the record is not readable.
    """
    return _read(store, entry.commit_key) if store.exists(entry.commit_key) else None


def recall(
    store: Store, *, plan: str = "", names: Iterable[str] | None = None, sealed: Mapping[str, str] | None = None
) -> dict[str, ShardRecord]:
    """The commits that count, by the shards' names: one listing, then small reads by several threads.

    Args:
        store: rooted at the dataset.
        plan: fingerprint; commits of another plan do not count. Empty: of any.
        names: shards asked for; None for all.
        sealed: commit digests that a manifest names, by shard: they count before others.

    Raises:
        DataError: a record is not readable, or two of one shard cannot be of the same input.
    """
    wanted = None if names is None else set(names)
    keys = [key for key in _listed(store) if wanted is None or key[0] in wanted]
    if not keys:
        return {}
    sizes = {f"shards/{info.key}": info.size for info in store.child("shards").list()}
    found: dict[str, list[ShardRecord]] = {}
    with ThreadPoolExecutor(READERS, "recall") as pool:
        for record in pool.map(lambda key: _read(store, commit_key(*key)), keys):
            if plan and record.plan not in ("", plan):
                logger.warning("%s: a commit of shard %s is of another plan; left alone", store.uri, record.name)
            elif _whole(store, record, sizes):
                found.setdefault(record.name, []).append(record)
    return {name: _counting(store, records, (sealed or {}).get(name)) for name, records in found.items()}


def contested(store: Store, mine: Mapping[str, str]) -> set[str]:
    """Shards that another writer finished with another result.

    Args:
        store: rooted at the dataset.
        mine: commit digests by shard.
    """
    return {name for name, digest in _listed(store) if name in mine and not mine[name].startswith(digest)}


def _listed(store: Store) -> Iterator[tuple[str, str]]:
    """Names and digests (their first digits) of the commits that lie there, the smallest digest of a name first."""
    matches = (_KEY.fullmatch(info.key) for info in store.child(_FOLDER).list())
    yield from sorted((match["name"], match["digest"]) for match in matches if match is not None)


def _read(store: Store, key: str) -> ShardRecord:
    where = join_uri(store.uri, key)
    try:
        record = ShardRecord.model_validate(load_json(store.read(key), where))
    except ValidationError as error:
        raise DataError(f"{where} is no commit record ({short_errors(error)}); delete it and run again") from error
    if commit_key(record.name, record.digest) != key:
        raise DataError(f"{where} was changed after it was written: its digest does not hold; delete it and run again")
    return record


def _whole(store: Store, record: ShardRecord, sizes: Mapping[str, int]) -> bool:
    """Whether the files of a commit lie there in their sizes; if not, the commit counts for nothing."""
    for file in record.own_files:
        if sizes.get(file.uri) != file.bytes:
            found = f"{sizes[file.uri]} bytes" if file.uri in sizes else "missing"
            where = join_uri(store.uri, file.uri)
            logger.warning("%s is %s, not %d bytes: its commit does not count", where, found, file.bytes)
            return False
    return True


def _counting(store: Store, records: list[ShardRecord], sealed: str | None) -> ShardRecord:
    """The one of several commits of a shard that counts; they are in order of their digests."""
    first = next((one for one in records if one.digest == sealed), records[0])
    for other in records:
        if other.counts.samples != first.counts.samples:
            keys = " and ".join(join_uri(store.uri, commit_key(one.name, one.digest)) for one in (first, other))
            raise DataError(
                f"{keys} are not of the same input ({first.counts.samples} and {other.counts.samples} samples): two "
                "different runs wrote here; use a new place"
            )
    if len(records) > 1:
        logger.info("%s: shard %s was finished %d times; one counts", store.uri, first.name, len(records))
    return first


def load_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: it is none; says where.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}; delete it and run again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object; delete it and run again")
    return value


def short_errors(error: ValidationError) -> str:
    """The first three of pydantic's complaints on one line."""
    found = [f"{'.'.join(map(str, one['loc'])) or 'record'}: {one['msg']}" for one in error.errors()]
    return "; ".join(found[:3])
