"""What a CapFilt run will do, settled before it starts: input shards, models, settings, and their fingerprint."""

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import DataError
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri, normalise_uri, open_store, sha256_file
from components.data.commits import commit_of
from components.data.manifest import MANIFEST_KEY, file_uri, load_manifest
from components.data.records import Parent, ShardEntry
from components.data.shards import DUPLICATE_KEY, EARLIER_SHARD, scan_shard
from components.inference.arithmetic import Precision
from components.regeneration.config import OUTPUT_VERSION, CapfiltConfig
from components.regeneration.reading import ShardSource, fetch_shard
from components.regeneration.seeds import stream_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebInput:
    """The web data to work on: its version and its shards in order."""

    uri: str
    digest: str
    shards: tuple[ShardSource, ...]

    @property
    def samples(self) -> int | None:
        """Samples to work on; None where nobody has counted them."""
        counts = [shard.expected if shard.take is None else shard.take for shard in self.shards]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


@dataclass(frozen=True)
class Plan:
    """One run: what is read, with which models, under which settings."""

    web: WebInput
    captioner: ModelRef
    filter: ModelRef
    config: CapfiltConfig

    def at(self, precision: Precision) -> "Plan":
        """This plan in other arithmetic."""
        return replace(self, config=self.config.model_copy(update={"precision": precision}))

    def as_json(self) -> dict[str, Any]:
        """Everything the output depends on, and nothing else: no places, no speed settings."""
        return {
            "kind": "capfilt",
            "version": OUTPUT_VERSION,
            "web": self.web.digest,
            "shards": [shard_as_planned(shard) for shard in self.web.shards],
            "captioner": self.captioner.digest,
            "filter": self.filter.digest,
            "config": self.config.effective(),
        }

    @property
    def fingerprint(self) -> str:
        """Digest of the plan: names the output."""
        return digest_of(self.as_json())

    @property
    def stream(self) -> str:
        """What draws captions and coins: see seeds.py."""
        return stream_of(self.captioner.digest, self.config.effective())

    @property
    def parents(self) -> tuple[Parent, ...]:
        """What the output is made from."""
        return (
            Parent(role="web", digest=self.web.digest, uri=self.web.uri),
            Parent(role="captioner", digest=self.captioner.digest, uri=self.captioner.uri),
            Parent(role="filter", digest=self.filter.digest, uri=self.filter.uri),
        )


def shard_as_planned(shard: ShardSource) -> list[Any]:
    """What a plan says of an input shard: its name first, and everything its result depends on."""
    repeated = [digest_of(sorted(shard.repeated))] if shard.repeated else []
    return [shard.name, shard.bytes, shard.sha256 or shard.etag, shard.take, *repeated]


def web_input(web: DatasetRef | str, limit: int | None = None) -> WebInput:
    """Find the shards of the web data: a sealed dataset, or any folder or prefix with WebDataset tars.

    Of samples with one key in several shards the first counts, as it does within a shard; the others are marked. In a
    sealed dataset the import has found them, in local tars they are found here. Tars under an S3 prefix are not looked
    at beforehand, so there a key counts once per shard: import them first if keys may repeat.

    Args:
        web: reference or URI.
        limit: samples to take from the front; None for all.

    Raises:
        DataError: if there are no shards.
    """
    uri = normalise_uri(web if isinstance(web, str) else web.uri)
    store = open_store(uri)
    sealed = store.exists(MANIFEST_KEY)
    found = _of_manifest(uri) if sealed else _of_folder(store)
    if isinstance(web, DatasetRef) and found.digest != web.digest:
        raise DataError(f"{uri} is version {found.digest[:12]}, not the expected {web.digest[:12]}; name the right one")
    if limit is not None:
        found = replace(found, shards=tuple(_limited(found.shards, limit)))
    return found if sealed else replace(found, shards=tuple(_marked(store, found.shards)))


def _of_manifest(uri: str) -> WebInput:
    manifest = load_manifest(uri)
    shards = [
        ShardSource(
            entry.name,
            file_uri(uri, entry.tar),
            entry.tar.bytes,
            sha256=entry.tar.sha256,
            expected=entry.counts.samples,
            repeated=_found_by_import(uri, entry),
        )
        for entry in manifest.shards
    ]
    if manifest.config.get("limit") is not None and shards:  # imported in part: the last tar holds more
        shards[-1] = replace(shards[-1], take=shards[-1].expected)
    return WebInput(uri, manifest.digest, tuple(shards))


def _found_by_import(uri: str, entry: ShardEntry) -> frozenset[str]:
    """Keys that the import of a web dataset met before, in an earlier shard."""
    record = commit_of(open_store(uri), entry) if DUPLICATE_KEY in entry.counts.failed else None
    bad = record.bad if record is not None else ()
    return frozenset(one.key for one in bad if one.reason == DUPLICATE_KEY and one.detail == EARLIER_SHARD)


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


def _marked(store: Store, shards: Sequence[ShardSource]) -> Iterator[ShardSource]:
    """Local shards with the keys that an earlier one has. Memory: three numbers of 8 bytes a sample."""
    if store.local_path("") is None:
        yield from shards
        return
    hashes = [np.fromiter((hash(key) for key in _keys(shard)), np.int64) for shard in shards]
    again = np.ones(sum(len(part) for part in hashes), bool)
    again[np.unique(np.concatenate(hashes), return_index=True)[1]] = False
    flags = np.split(again, np.cumsum([len(part) for part in hashes])[:-1])
    if again.any():
        logger.warning(
            "%s: %d samples have the key of one in an earlier shard and will not be used (%s); if different sets are "
            "numbered alike here, work on each of them alone",
            store.uri,
            again.sum(),
            DUPLICATE_KEY,
        )
    for shard, mine in zip(shards, flags, strict=True):
        keys = zip(_keys(shard), mine, strict=True) if mine.any() else ()
        yield replace(shard, repeated=frozenset(key for key, met in keys if met))


def _keys(shard: ShardSource) -> list[str]:
    """The keys of a local tar, each once, without those of refused samples."""
    samples = scan_shard(Path(shard.uri)).samples[: shard.take]
    return [sample.key for sample in samples if sample.problem is None]


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
