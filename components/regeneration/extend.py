"""Web data that grew: only new or changed shards are worked on, the others are taken over from an earlier version.

A shard is the earlier one if the plan of that version says just the same of it (name, size, hash or etag, how many
samples are taken, which keys were met before) and models and settings are the same. Then its files are what a run
would write again, byte for byte: they are linked or copied where they lie, and committed under the new plan.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from components.common.errors import ConfigError, DataError
from components.common.precision import Precision
from components.common.storage import Store, join_uri, open_store
from components.data.commits import READERS, commit_of, commit_shard, load_json
from components.data.manifest import PLAN_KEY, Manifest, load_manifest, plan_differences
from components.data.records import Parent, ShardRecord
from components.regeneration.band import with_bands
from components.regeneration.config import CapfiltConfig
from components.regeneration.plan import Plan, shard_as_planned
from components.regeneration.reading import ShardSource


@dataclass(frozen=True)
class Base:
    """The version that is extended, and what was planned for it."""

    store: Store
    manifest: Manifest
    plan: dict[str, Any]

    @property
    def precision(self) -> Precision:
        """The arithmetic it was made in."""
        precision: Precision = self.plan["config"]["precision"]
        return precision

    def holding(self, outcomes: Sequence[str]) -> frozenset[str]:
        """Names of the shards in which captions ended in one of these."""
        counts = [f"caption_{one}" for one in outcomes]
        return frozenset(entry.name for entry in self.manifest.shards if any(entry.metrics.get(one) for one in counts))

    def settled(self, config: CapfiltConfig) -> CapfiltConfig:
        """The config with what this version settled for itself: its arithmetic, its cascade's bands."""
        if config.precision == "auto":
            config = config.model_copy(update={"precision": self.precision})
        found = self.plan["config"].get("cascade")
        return with_bands(config, (found["web"], found["synthetic"])) if config.needs_band and found else config

    @property
    def parent(self) -> Parent:
        """How the new version names it."""
        return Parent(role="extends", digest=self.manifest.digest, uri=self.store.uri)


def open_base(uri: str) -> Base:
    """The version to extend.

    Raises:
        DataError: there is none, or it was not made by CapFilt.
    """
    store = open_store(uri)
    manifest = load_manifest(store.uri)
    if manifest.kind != "capfilt":
        raise DataError(f"{store.uri} is a {manifest.kind} dataset; only what CapFilt made can be extended")
    return Base(store, manifest, load_json(store.read(PLAN_KEY), join_uri(store.uri, PLAN_KEY)))


def check_extends(base: Base, plan: Plan) -> None:
    """Models and settings must be those of the base.

    Raises:
        ConfigError: they are others; names what differs.
    """
    names = ("version", "captioner", "filter", "config", "scorers", "engines", "outcomes")
    there, wanted = ({name: one.get(name) for name in names} for one in (base.plan, plan.as_json()))
    if differences := plan_differences(there, wanted):
        raise ConfigError(
            f"{base.store.uri} was made otherwise: {'; '.join(differences[:8])}. Only with the same models and "
            "settings can its shards be taken over; give those, or leave out what is to be extended"
        )


def unchanged(base: Base, todo: Sequence[ShardSource]) -> list[ShardSource]:
    """The shards that are as they were when the base was made."""
    before = {entry[0]: entry for entry in base.plan["shards"]}
    return [shard for shard in todo if before.get(shard.name) == shard_as_planned(shard)]


def adopt(base: Base, plan: Plan, todo: Sequence[ShardSource], target: Store) -> Iterator[ShardRecord]:
    """Take over the shards that are as they were, several at once; each is committed when it is yielded.

    Those with captions that shall be tried again are left out.

    Args:
        base: the version to extend, of the same models and settings.
        plan: the new plan.
        todo: shards that are not committed yet.
        target: rooted at the new dataset.
    """
    left_out = base.holding(plan.retry) if plan.retry else frozenset()
    same = [shard.name for shard in unchanged(base, todo) if shard.name not in left_out]
    fingerprint = plan.fingerprint
    entries = {entry.name: entry for entry in base.manifest.shards}

    def take(name: str) -> ShardRecord:
        record = commit_of(base.store, entries[name])
        if record is None:
            raise DataError(f"{base.store.uri}: the commit record of shard {name} is gone; make the version again")
        for file in record.own_files:
            target.copy(base.store, file.uri, file.uri)
        return commit_shard(target, record.model_copy(update={"plan": fingerprint}))

    with ThreadPoolExecutor(READERS, "adopt") as pool:
        yield from pool.map(take, same)
