"""What a store could do without: files that no sealed manifest and no unfinished plan refers to.

They come from writers who finished a shard that another's commit counts for, from upgrades, from writers who were
killed. Only the names that datasets are made of are looked at (`shards/…`, `commits/…`, `shards-….parquet`), in the
folders of datasets and at a root that is one; nothing else in a store is ever touched.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from components.common.contracts import Contract
from components.common.errors import DataError
from components.common.locations import absolute_uri, is_absolute
from components.common.storage import ObjectInfo, Store, join_uri, open_store
from components.data.manifest import MANIFEST_KEY, PLAN_KEY, load_manifest

_OURS = re.compile(r"(?:shards|commits)/[^/]+|shards-[0-9a-f]{16}\.parquet")
_DATASET = re.compile(r"(datasets/[^/]+/[0-9a-f]{16})/(.+)")


class Leftovers(Contract):
    """What was found."""

    uri: str
    keys: tuple[str, ...]
    """Below the store's root."""
    bytes: int
    deleted: bool


def collect_leftovers(uri: str, *, delete: bool) -> Leftovers:
    """Find leftover files of a store, or of a dataset that stands alone, and delete them.

    Run it while nothing works on the store: what a writer has begun is spared only until its dataset is sealed.

    Args:
        uri: root of the store.
        delete: delete them; else they are only told.

    Raises:
        DataError: a manifest cannot be read, so that nobody knows what it refers to; nothing was deleted.
    """
    store = open_store(uri)
    places: dict[str, list[ObjectInfo]] = {}
    for info in _objects(store):
        match = _DATASET.fullmatch(info.key)
        root, key = (match[1], match[2]) if match else ("", info.key)
        if root or key in (MANIFEST_KEY, PLAN_KEY) or _OURS.fullmatch(key):
            places.setdefault(root, []).append(info)
    if not {MANIFEST_KEY, PLAN_KEY} & {info.key for info in places.get("", ())}:
        places.pop("", None)  # the root is no dataset: somebody else's `shards/`, perhaps
    needed = {needed for root, infos in places.items() for needed in _needed(store, root, infos)}
    found = [
        info
        for root, infos in places.items()
        for info in infos
        if _OURS.fullmatch(info.key[len(root) :].lstrip("/")) and join_uri(store.uri, info.key) not in needed
    ]
    for info in found if delete else ():
        store.delete(info.key)
    return Leftovers(
        uri=store.uri,
        keys=tuple(info.key for info in found),
        bytes=sum(info.size for info in found),
        deleted=delete,
    )


def _objects(store: Store) -> Iterator[ObjectInfo]:
    """Everything in folders of datasets, and what belongs to a dataset at the root."""
    for folder in ("datasets", "shards", "commits"):
        for info in store.child(folder).list():
            yield replace(info, key=f"{folder}/{info.key}")
        if (local := store.local_path(folder)) is not None:  # half-written files, which no list shows
            keys = (path.relative_to(local).as_posix() for path in sorted(local.rglob(".*.tmp")))
            yield from filter(None, (store.info(f"{folder}/{key}") for key in keys))
    yield from filter(None, map(store.info, (MANIFEST_KEY, PLAN_KEY)))
    if store.exists(MANIFEST_KEY):
        yield from (info for info in store.list("shards-") if "/" not in info.key)


def _needed(store: Store, root: str, infos: list[ObjectInfo]) -> Iterator[str]:
    """URIs that the dataset at this key refers to, in its own folder or another."""
    keys = {info.key[len(root) :].lstrip("/") for info in infos}
    place = join_uri(store.uri, root) if root else store.uri
    if MANIFEST_KEY not in keys:
        # Begun and not finished: every file may be on its way to a commit. Without a plan nobody will finish it.
        yield from (join_uri(place, key) for key in keys if PLAN_KEY in keys)
        return
    try:
        manifest = load_manifest(place)
    except DataError as error:
        raise DataError(f"{error}. Nothing was deleted") from error
    yield join_uri(place, manifest.table.uri)
    for entry in manifest.shards:
        yield join_uri(place, entry.commit_key)
        for file in (entry.tar, entry.parquet, entry.vectors, entry.images):
            if file is not None:
                yield file.uri if is_absolute(file.uri) else absolute_uri(place, file.uri)
