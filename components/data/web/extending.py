"""An import that goes on from an earlier one of the same place: tars that are as they were are not read again.

A tar is as it was if its size is the same and so is its tag (modification time or ETag) where it lies, or else its
sha256. What became of it is then known, but for one thing that other tars decide: which of its keys an earlier tar has.
Where those are the same too, its candidates and its commit record are taken over, byte for byte.

Tars that were broken are read again: what is lost of them depends on the statistics beside them, too.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from components.common.errors import DataError, StorageError
from components.common.storage import Store, join_uri
from components.data.candidates import stored_candidates
from components.data.commits import commit_of, commit_shard
from components.data.manifest import MANIFEST_KEY, Manifest, file_uri, load_manifest
from components.data.records import Parent, ShardEntry, ShardRecord
from components.data.shards import BROKEN_SHARD, EARLIER_SHARD
from components.data.web.listing import WebTar
from components.data.web.repeats import KeysMet, keys_of_record

logger = logging.getLogger(__name__)

SOURCES_KEY = "sources.json"


@dataclass(frozen=True)
class Former:
    """An earlier version of an import.

    Args:
        store: rooted at it.
        manifest: what it holds.
        tags: modification times or ETags of its tars when it was made.
    """

    store: Store
    manifest: Manifest
    tags: dict[str, str]

    @cached_property
    def entries(self) -> dict[str, ShardEntry]:
        """Its shards by name, without those that were broken."""
        return {entry.name: entry for entry in self.manifest.shards if BROKEN_SHARD not in entry.counts.failed}

    def parents_of(self, records: Iterable[ShardRecord]) -> list[Parent]:
        """How a version of these shards names it: as a parent, if any of them is its own."""
        own = self.manifest.shards.commits()
        if not any(own.get(record.name) == record.digest for record in records):
            return []
        return [Parent(role="extends", digest=self.manifest.digest, uri=self.store.uri)]

    def candidate(self, shard: WebTar) -> ShardEntry | None:
        """The shard that has this tar's name and size."""
        entry = self.entries.get(shard.name)
        return entry if entry is not None and entry.tar.bytes == shard.size else None

    def is_unread(self, shard: WebTar, uri: str, entry: ShardEntry) -> bool:
        """Whether the tar at this URI has the tag that it had when the shard was made of it."""
        return self.tags.get(shard.key) == shard.etag and file_uri(self.store.uri, entry.tar) == uri


def find_former(
    versions: Store, config: Mapping[str, object], shards: Sequence[WebTar], besides: Store
) -> Former | None:
    """The earlier version that has most of these tars; None if none has any.

    Args:
        versions: the folder with all versions of a dataset.
        config: as the import to be made has it.
        shards: the tars there are.
        besides: where that is to be made.
    """
    found: list[tuple[int, str, Former]] = []
    for root in _sealed(versions):
        place = versions.child(root)
        if place.uri == besides.uri or not place.exists(SOURCES_KEY):
            continue
        try:
            manifest = load_manifest(place.uri)
        except DataError as error:
            logger.info("%s is not gone on from: %s", place.uri, error)
            continue
        if manifest.kind == "web" and manifest.config == config:
            former = Former(place, manifest, json.loads(place.read(SOURCES_KEY)))
            found.append((sum(former.candidate(shard) is not None for shard in shards), root, former))
    most = max(found, default=None, key=lambda one: one[:2])
    return None if most is None or most[0] == 0 else most[2]


def _sealed(versions: Store) -> Iterable[str]:
    names = (info.key.split("/") for info in versions.list())
    return [root for root, *rest in names if rest == [MANIFEST_KEY]]


def take_over(
    former: Former, entry: ShardEntry, shard: WebTar, source: Store, target: Store, met: KeysMet
) -> ShardRecord | None:
    """Commit what is known of a tar that is as it was; None if earlier tars have other keys of it now.

    Args:
        former: the earlier version.
        entry: its shard.
        shard: the tar.
        source: where the tars lie.
        target: rooted at the new version.
        met: keys of the tars before this one; those of this one are added where it is taken over.
    """
    try:
        record = commit_of(former.store, entry)
        table = stored_candidates(former.store.uri, entry.parquet)
    except (DataError, StorageError) as error:
        if isinstance(error, StorageError) and error.retryable:
            raise
        logger.warning("shard %s is read again: %s", entry.name, error)
        return None
    if record is None:
        return None
    keys = keys_of_record(record, table.keys)
    if met.known(keys) != _repeated(record):
        return None
    met.again(keys)
    for file in record.own_files:
        target.copy(former.store, file.uri, file.uri)
    tar = record.tar.model_copy(update={"uri": join_uri(source.uri, shard.key)})
    return commit_shard(target, record.model_copy(update={"tar": tar}))


def _repeated(record: ShardRecord) -> frozenset[str]:
    """Keys of a shard that an earlier one had when it was read."""
    return frozenset(bad.key for bad in record.bad if bad.detail.startswith(EARLIER_SHARD))
