"""A store of format 1 becomes one of format 2: without a model, without reading an image.

Format 1 named files and commits by their shard alone (`shards/00000.tar`, `commits/00000.json`), had all shards in the
manifest, absolute URIs, and the dataset's name in its digest. Files get their content's name (by a link, or a copy
within the object store), commits and manifests are written anew, and stage records name the new digests, so that what
was done is found done. A dataset's new manifest takes the old one's place in one step, the old one is kept beside it;
an upgrade that was interrupted is run again.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from components.common.contracts import Contract
from components.common.errors import DataError
from components.common.locations import is_below, map_texts, relative_values, store_root, texts_in
from components.common.seeding import digest_of
from components.common.storage import ObjectInfo, Store, join_uri, open_store
from components.data.commits import commit_shard, load_json
from components.data.manifest import MANIFEST_KEY, Manifest, load_manifest, written_manifest
from components.data.records import FileRecord, Parent, Provenance, ShardRecord, own_file

logger = logging.getLogger(__name__)

KEPT_KEY = "manifest.format1.json"
"""The old manifest, kept beside the new one."""
_VERSION = re.compile(r"[^/]+/[0-9a-f]{16}")
_SEALED = re.compile(rf"({_VERSION.pattern})/{re.escape(MANIFEST_KEY)}")
_PLACE = re.compile(rf"(?P<root>.+)/datasets/(?P<version>{_VERSION.pattern})(/.*)?")


class Upgraded(Contract):
    """What an upgrade did."""

    uri: str
    datasets: dict[str, str]
    """New digest by the old one; those that were upgraded before among them."""
    records: int
    """Stage records written anew."""


def upgrade_store(uri: str) -> Upgraded:
    """Bring every dataset of a store, or a single dataset, to the format of today. Nothing is done twice.

    Args:
        uri: root of a store, or of a dataset that stands alone.

    Raises:
        DataError: a dataset lacks files or commits, or is not what its manifest says; it stays as it was.
    """
    store = open_store(store_root(open_store(uri).uri))
    upgrade = _Upgrade(store)
    upgrade.datasets()
    records = sum(upgrade.record(info.key) for info in store.child("stages").list() if info.key.endswith(".json"))
    return Upgraded(uri=store.uri, datasets=upgrade.digests, records=records)


def dataset_roots(store: Store) -> list[str]:
    """Keys of all sealed datasets of a store, `` being the root itself: whatever format they have."""
    found = [match[1] for info in store.child("datasets").list() if (match := _SEALED.fullmatch(info.key))]
    return [*([""] if store.exists(MANIFEST_KEY) else []), *(f"datasets/{one}" for one in found)]


class _Upgrade:
    """The datasets of a store in the order in which they depend on one another."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.digests: dict[str, str] = {}
        self._old: dict[str, dict[str, Any]] = {}
        for root in dataset_roots(store):
            place = _at(store, root)
            key = KEPT_KEY if place.exists(KEPT_KEY) else MANIFEST_KEY
            document = load_json(place.read(key), join_uri(place.uri, key))
            if document.get("format") == 1:
                self._old[root] = document
        self._roots = sorted({store.uri, *self._former_roots()}, key=len, reverse=True)

    def _former_roots(self) -> Iterator[str]:
        """Where this store was when its files were written: what lies before a version of it in their URIs."""
        for text in texts_in([self._old, [self._record(info.key) for info in self._records()]]):
            if (match := _PLACE.fullmatch(text)) and f"datasets/{match['version']}" in self._old:
                yield match["root"]

    def _records(self) -> Iterator[ObjectInfo]:
        return (info for info in self.store.child("stages").list() if info.key.endswith(".json"))

    def _record(self, key: str) -> dict[str, Any]:
        return load_json(self.store.child("stages").read(key), join_uri(self.store.uri, "stages", key))

    def here(self, uri: str) -> str:
        """A URI as it is now: what lay in this store where it was before lies in it where it is."""
        root = next((root for root in self._roots if is_below(root, uri)), None)
        return uri if root is None else join_uri(self.store.uri, uri[len(root) :])

    def datasets(self) -> None:
        """Upgrade all of them, parents first."""
        left = dict(self._old)
        while left:
            known = {document["digest"] for document in left.values()}
            ready = [root for root, one in left.items() if not known & {parent["digest"] for parent in one["parents"]}]
            for root in ready or left:
                document = left.pop(root)
                self.digests[document["digest"]] = self._dataset(_at(self.store, root), document)
                if not ready:  # digests in a circle: no program wrote that, but it must not go on for ever
                    break

    def _dataset(self, place: Store, old: dict[str, Any]) -> str:
        """Upgrade one, or find it upgraded; its new digest."""
        if load_json(place.read(MANIFEST_KEY), place.uri).get("format") == 1:
            covered = {name: value for name, value in old.items() if name not in ("digest", "origin")}
            if digest_of(_without_places(covered)) != old["digest"]:
                raise DataError(f"{place.uri}: its manifest was changed after it was written; make the dataset again")
            records = [self._shard(place, old["fingerprint"], entry) for entry in old["shards"]]
            self._seal(place, old, records)
            logger.info("%s: %d shards are of format 2 now", place.uri, len(records))
        for entry in old["shards"]:
            for key in (entry["tar"]["uri"], entry["parquet"]["uri"], f"commits/{entry['name']}.json"):
                if not FileRecord(uri=key, bytes=0, sha256="").in_place:
                    place.delete(key)
        return load_manifest(place.uri).digest

    def _shard(self, place: Store, fingerprint: str, entry: Mapping[str, Any]) -> ShardRecord:
        """Give a shard's files their content's names, and commit them."""
        key = f"commits/{entry['name']}.json"
        where = join_uri(place.uri, key)
        if not place.exists(key):
            raise DataError(f"{where} is missing, which the manifest of format 1 speaks of; make the dataset again")
        commit = load_json(place.read(key), where)
        if digest_of(_without_places(commit)) != entry["commit_digest"]:
            raise DataError(f"{where} is not the commit that was sealed; make the dataset again")
        files = {name: self._file(place, entry["name"], FileRecord(**commit[name])) for name in ("tar", "parquet")}
        return commit_shard(place, ShardRecord.model_validate({**commit, **files, "plan": fingerprint}))

    def _file(self, place: Store, shard: str, file: FileRecord) -> FileRecord:
        if file.in_place:
            return file.model_copy(update={"uri": self.here(file.uri)})
        named = own_file(shard, f".{file.uri.rpartition('.')[2]}", file.bytes, file.sha256)
        info = place.info(named.uri)
        if info is None or info.size != file.bytes:
            place.copy(place, file.uri, named.uri)
        return named

    def _seal(self, place: Store, old: Mapping[str, Any], records: list[ShardRecord]) -> None:
        parents = [
            Parent(role=one["role"], digest=self.digests.get(one["digest"], one["digest"]), uri=self.here(one["uri"]))
            for one in old["parents"]
        ]
        kept = {name: old[name] for name in ("name", "kind", "fingerprint", "config")}
        made = Provenance(**kept, parents=parents, origin=self.here(old["origin"]))
        manifest: Manifest = written_manifest(place, made, records)
        place.write(KEPT_KEY, json.dumps(old, indent=1, ensure_ascii=False).encode())
        place.write(MANIFEST_KEY, manifest.to_bytes(place.uri))

    def record(self, key: str) -> bool:
        """Write a stage record anew under the digest that its inputs have now; whether that was needed."""
        record = self._record(key)
        if not {"kind", "revision", "depends", "result"} <= record.keys():
            return False
        moved = map_texts(record, lambda text: self.digests.get(text, self.here(text)))
        new = {**record, "depends": moved["depends"], "result": relative_values(self.store.uri, moved["result"])}
        digest = digest_of({name: new[name] for name in ("kind", "revision", "depends")})
        target = f"{key.rpartition('/')[0]}/{digest}.json"
        if new == record and target == key:
            return False
        stages = self.store.child("stages")
        stages.write(target, json.dumps(new, indent=1).encode())
        if target != key:
            stages.delete(key)
        return True


def _at(store: Store, root: str) -> Store:
    return store.child(root) if root else store


def _without_places(value: Any) -> Any:
    """What digests of format 1 covered: no absolute URIs but their last part, no parents' URIs."""
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_places(item) for key, item in value.items()}
    if kept.keys() == {"role", "digest", "uri"}:
        del kept["uri"]
    elif kept.keys() == {"uri", "bytes", "sha256"} and ("://" in kept["uri"] or kept["uri"].startswith("/")):
        kept["uri"] = kept["uri"].rpartition("/")[2]
    return kept
