"""What a CapFilt run will do, settled before it starts: input shards, models, settings, and their fingerprint."""

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.capfilt.config import OUTPUT_VERSION, CapfiltConfig
from components.capfilt.reading import ShardSource, fetch_shard
from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import DataError
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri, normalise_uri, open_store, sha256_file
from components.data.manifest import MANIFEST_KEY, Parent, file_uri, load_manifest


@dataclass(frozen=True)
class WebInput:
    """The web data to work on: its version and its shards in order."""

    uri: str
    digest: str
    shards: tuple[ShardSource, ...]


@dataclass(frozen=True)
class Plan:
    """One run: what is read, with which models, under which settings."""

    web: WebInput
    captioner: ModelRef
    filter: ModelRef
    config: CapfiltConfig

    def as_json(self) -> dict[str, Any]:
        """Everything the output depends on, and nothing else: no places, no speed settings."""
        return {
            "kind": "capfilt",
            "version": OUTPUT_VERSION,
            "web": self.web.digest,
            "shards": [[shard.name, shard.bytes, shard.sha256 or shard.etag, shard.take] for shard in self.web.shards],
            "captioner": self.captioner.digest,
            "filter": self.filter.digest,
            "config": self.config.effective(),
        }

    @property
    def fingerprint(self) -> str:
        """Digest of the plan: names the output, seeds the captions."""
        return digest_of(self.as_json())

    @property
    def parents(self) -> tuple[Parent, ...]:
        """What the output is made from."""
        return (
            Parent(role="web", digest=self.web.digest, uri=self.web.uri),
            Parent(role="captioner", digest=self.captioner.digest, uri=self.captioner.uri),
            Parent(role="filter", digest=self.filter.digest, uri=self.filter.uri),
        )


def web_input(web: DatasetRef | str, limit: int | None = None) -> WebInput:
    """Find the shards of the web data: a sealed dataset, or any folder or prefix with WebDataset tars.

    Args:
        web: reference or URI.
        limit: samples to take from the front; None for all.

    Raises:
        DataError: if there are no shards.
    """
    uri = normalise_uri(web if isinstance(web, str) else web.uri)
    store = open_store(uri)
    found = _of_manifest(uri) if store.exists(MANIFEST_KEY) else _of_folder(store)
    if isinstance(web, DatasetRef) and found.digest != web.digest:
        raise DataError(f"{uri} is version {found.digest[:12]}, not the expected {web.digest[:12]}; name the right one")
    return found if limit is None else replace(found, shards=tuple(_limited(found.shards, limit)))


def _of_manifest(uri: str) -> WebInput:
    manifest = load_manifest(uri)
    shards = [
        ShardSource(
            entry.name,
            file_uri(uri, entry.tar),
            entry.tar.bytes,
            sha256=entry.tar.sha256,
            expected=entry.counts.samples,
        )
        for entry in manifest.shards
    ]
    if manifest.config.get("limit") is not None and shards:  # imported in part: the last tar holds more
        shards[-1] = replace(shards[-1], take=shards[-1].expected)
    return WebInput(uri, manifest.digest, tuple(shards))


def _of_folder(store: Store) -> WebInput:
    """Tars in key order. Local ones are hashed, so that a copy elsewhere is the same input; S3 has its etags."""
    tars = [info for info in store.list() if info.key.endswith(".tar")]
    if not tars:
        raise DataError(
            f"no shards in {store.uri}: expected *.tar files as img2dataset writes them (WebDataset layout), or a "
            "dataset with a manifest.json"
        )
    names = _names([info.key for info in tars])
    shards = []
    for name, info in zip(names, tars, strict=True):
        path = store.local_path(info.key)
        digest = None if path is None else sha256_file(path)
        etag = None if digest else info.etag
        where = join_uri(store.uri, info.key)
        shards.append(ShardSource(name, where, info.size, digest, etag, expected=_successes(store, info.key)))
    version = digest_of([[one.name, one.bytes, one.sha256 or one.etag] for one in shards])
    return WebInput(store.uri, version, tuple(shards))


def _successes(store: Store, tar: str) -> int | None:
    """Samples in a tar by img2dataset's statistics beside it, if they are there."""
    key = f"{tar.removesuffix('.tar')}_stats.json"
    if not store.exists(key):
        return None
    try:
        count = json.loads(store.read(key)).get("successes")
    except (ValueError, AttributeError):
        return None
    return count if isinstance(count, int) else None


def _names(keys: Sequence[str]) -> list[str]:
    """Output names: the tars' own where they are usable and differ, else numbers."""
    stems = [key.rpartition("/")[2].removesuffix(".tar") for key in keys]
    usable = len(set(stems)) == len(stems) and all(re.fullmatch(r"[A-Za-z0-9_-]+", stem) for stem in stems)
    return stems if usable else [f"{index:05d}" for index in range(len(keys))]


def _limited(shards: Sequence[ShardSource], limit: int) -> Iterator[ShardSource]:
    """The first shards that together have `limit` samples; the last of them only in part."""
    left = limit
    with tempfile.TemporaryDirectory(prefix="capfilt-limit-") as folder:
        for shard in shards:
            if left <= 0:
                return
            opened = fetch_shard(shard, Path(folder))
            count = len(opened.scan.samples)
            opened.close()
            yield shard if count < left or (count == left and opened.scan.broken is None) else replace(shard, take=left)
            left -= count
