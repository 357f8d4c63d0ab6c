"""What a CapFilt run will do, settled before it starts: input shards, models, settings, and their fingerprint."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import DataError
from components.common.precision import Precision
from components.common.seeding import digest_of
from components.common.storage import join_uri, normalise_uri, open_store, sha256_file
from components.data.commits import READERS, commit_of
from components.data.manifest import MANIFEST_KEY, file_uri, load_manifest
from components.data.parallel import ordered_map
from components.data.records import Parent, ShardEntry
from components.data.shards import DUPLICATE_KEY, scan_shard
from components.data.web.listing import check_listed, counted_samples, list_tars, origin_of
from components.data.web.named import is_named
from components.data.web.repeats import KeysMet, keys_beside, own_keys, repeated_in
from components.regeneration import outcomes
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
    scorers: tuple[tuple[str, ModelRef], ...] = ()
    """Further scorers by the names of their scores."""
    engines: tuple[tuple[str, Any], ...] = ()
    """What besides weights decides the results of models that are not BLIP, by role (families.engine_of)."""
    retry: tuple[str, ...] = ()
    """Outcomes of captions that are tried again in the version `retries`."""
    retries: str = ""
    """Digest of the version whose captions are tried again."""
    answers: str = ""
    """Where the answers of a captioner's server are kept; empty: beside the output."""

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
            **({"scorers": {name: one.digest for name, one in self.scorers}} if self.scorers else {}),
            **({"engines": dict(self.engines)} if self.engines else {}),
            **({"outcomes": outcomes.REVISION} if self.config.check_captions else {}),
            **({"retry": {"version": self.retries, "outcomes": list(self.retry)}} if self.retry else {}),
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
            *(Parent(role=f"scorer:{name}", digest=one.digest, uri=one.uri) for name, one in self.scorers),
        )


def shard_as_planned(shard: ShardSource) -> list[Any]:
    """What a plan says of an input shard: its name first, and everything its result depends on."""
    repeated = [digest_of(sorted(shard.repeated))] if shard.repeated else []
    return [shard.name, shard.bytes, shard.sha256 or shard.etag, shard.take, *repeated]


def web_input(web: DatasetRef | str, limit: int | None = None) -> WebInput:
    """Find the shards of the web data: a sealed dataset, any folder or prefix with WebDataset tars, or one tar.

    Of samples with one key in several shards the first counts, as it does within a shard; the others are marked. In a
    sealed dataset the import has found them, in local tars they are found here, and in tars on S3 by img2dataset's
    tables beside them. Without those a tar on S3 is not looked at beforehand, as it would be read twice: there a key
    counts once per shard. Import them first if keys may repeat (`repeats` tells).

    Args:
        web: reference or URI; also a brace range of tars, or a list of them in a file.
        limit: samples to take from the front; None for all.

    Raises:
        DataError: there are no shards, or none of them can be read.
    """
    uri = web if isinstance(web, str) else web.uri
    sealed = not is_named(uri) and open_store(uri).exists(MANIFEST_KEY)
    found = _of_manifest(normalise_uri(uri)) if sealed else _of_tars(uri)
    if isinstance(web, DatasetRef) and found.digest != web.digest:
        raise DataError(f"{uri} is version {found.digest[:12]}, not the expected {web.digest[:12]}; name the right one")
    if limit is not None:
        found = replace(found, shards=tuple(_limited(found.shards, limit)))
    return found if sealed else replace(found, shards=tuple(_marked(found.shards)))


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
    return frozenset() if record is None else repeated_in(record)


def _of_tars(uri: str) -> WebInput:
    """Tars in key order. Local ones are hashed, so that a copy elsewhere is the same input; S3 has its etags."""
    store, tars = list_tars(uri)
    check_listed(store, tars)
    shards = []
    for tar in tars:
        path = store.local_path(tar.key)
        digest = None if path is None else sha256_file(path)
        etag = None if digest else tar.etag
        where = join_uri(store.uri, tar.key)
        shards.append(ShardSource(tar.name, where, tar.size, digest, etag, expected=counted_samples(store, tar)))
    version = digest_of([[one.name, one.bytes, one.sha256 or one.etag] for one in shards])
    alone = uri.lower().endswith(".tar") and len(shards) == 1 and not is_named(uri)
    return WebInput(shards[0].uri if alone else origin_of(uri, store), version, tuple(shards))


def _marked(shards: Sequence[ShardSource]) -> Iterator[ShardSource]:
    """Shards with the keys that an earlier one has, as far as they are known beforehand."""
    met, repeated = KeysMet(), 0
    for shard, keys in zip(shards, ordered_map(_keys_of, shards, threads=READERS), strict=True):
        if keys is None:
            yield shard
            continue
        again = met.again(keys)
        repeated += len(again)
        yield replace(shard, repeated=again)
    if repeated:
        logger.warning(
            "%d samples have the key of one in an earlier shard and will not be used (%s); if different sets are "
            "numbered alike here, work on each of them alone",
            repeated,
            DUPLICATE_KEY,
        )


def _keys_of(shard: ShardSource) -> list[str] | None:
    if shard.sha256 is not None:
        return own_keys(scan_shard(Path(shard.uri)).samples[: shard.take])
    return keys_beside(shard.uri, shard.expected) if shard.take is None else None  # a table has an order of its own


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
