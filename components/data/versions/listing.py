"""The dataset versions of a store, finished and begun."""

import json
import re
from collections.abc import Iterator

from pydantic import Field

from components.common.contracts import Contract
from components.common.errors import DataError
from components.common.storage import Store, join_uri, open_store
from components.data.manifest import MANIFEST_KEY, PLAN_KEY, Parent, load_manifest

_ROOT = re.compile(rf"([^/]+/[0-9a-f]{{16}})/({re.escape(MANIFEST_KEY)}|{re.escape(PLAN_KEY)})")


class VersionListing(Contract):
    """A version as a list shows it."""

    uri: str
    name: str
    digest: str | None = Field(description="the version; null: begun and not finished, or not readable")
    kind: str
    images: int = Field(description="with at least one kept caption")
    pairs: int
    parents: tuple[Parent, ...]
    written: float = Field(description="when its last file was, seconds since 1970 by the store's clock")
    problem: str | None = Field(default=None, description="why it is no version (yet)")


def list_versions(uri: str, name: str | None = None) -> list[VersionListing]:
    """All versions of a store, oldest first.

    Args:
        uri: root of a store, or of a dataset that stands alone.
        name: only of the dataset of this name.

    Raises:
        DataError: there are none; says where they would be.
    """
    store = open_store(uri)
    found = [one for one in _versions(store) if name in (None, one.name)]
    if not found:
        of = "" if name is None else f" named {name}"
        raise DataError(f"{store.uri} has no dataset{of}: give the root of a run's store, which has a folder datasets/")
    return sorted(found, key=lambda one: (one.written, one.uri))


def _versions(store: Store) -> Iterator[VersionListing]:
    written: dict[str, float] = {}
    for info in store.list("datasets/"):
        if (match := _ROOT.fullmatch(info.key.removeprefix("datasets/"))) is not None:
            root = f"datasets/{match[1]}"
            written[root] = max(info.modified, written.get(root, 0.0))
    for key in (MANIFEST_KEY, PLAN_KEY):  # a dataset that stands alone
        if (alone := store.info(key)) is not None:
            written[""] = max(alone.modified, written.get("", 0.0))
    for root, when in written.items():
        uri = join_uri(store.uri, root) if root else store.uri
        yield _version(uri, root.split("/")[1] if root else uri.rpartition("/")[2], when)


def _version(uri: str, name: str, written: float) -> VersionListing:
    try:
        manifest = load_manifest(uri)
    except DataError as error:
        begun = not open_store(uri).exists(MANIFEST_KEY)
        problem = "begun and not finished" if begun else str(error)
        kind = _planned(uri) if begun else ""
        return VersionListing(
            uri=uri, name=name, digest=None, kind=kind, images=0, pairs=0, parents=(), written=written, problem=problem
        )
    return VersionListing(
        uri=uri,
        name=manifest.name,
        digest=manifest.digest,
        kind=manifest.kind,
        images=manifest.totals.kept,
        pairs=manifest.totals.kept_pairs,
        parents=manifest.parents,
        written=written,
    )


def _planned(uri: str) -> str:
    """The kind that a plan says will be made; empty where it does not."""
    try:
        return str(json.loads(open_store(uri).read(PLAN_KEY)).get("kind", ""))
    except (ValueError, AttributeError):
        return ""
