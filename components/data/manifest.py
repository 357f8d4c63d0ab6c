"""What makes a folder a dataset: plan, data, a commit per shard, the manifest last. Readers start at the manifest.

    plan.json                       what will be made, created once; another plan at the same place is refused
    shards/00000-<sha256>.tar       named by its content; or a tar elsewhere, named by its URI and its sha256
    shards/00000-<sha256>.parquet   the candidate captions
    commits/00000-<digest>.json     ShardRecord: files, counts, every bad sample with its reason
    shards-<sha256>.parquet         a row per shard (shardtable.py)
    made.json                       where the last shard was made: machine, threads, versions; no part of the digest
    manifest.json                   Manifest: totals, parents, config, where the table is, and the digest: the version

The digest covers content and where it came from, but neither the dataset's name nor *where* things lie: a dataset made
again elsewhere, or by another number of workers, is the same version. URIs within one store are relative.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError

from components.common.contracts import Contract, DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.locations import absolute_uri, relative_uri, store_root
from components.common.seeding import canonical_json, digest_of
from components.common.storage import Store, join_uri, open_store, sha256_hex, split_uri
from components.common.surroundings import surroundings
from components.data.commits import commit_of, commit_shard, load_json, read_commit, recall, short_errors
from components.data.records import (
    BadSample,
    Counts,
    FileRecord,
    Parent,
    Provenance,
    ShardEntry,
    ShardRecord,
    own_file,
    pretty,
)
from components.data.shardtable import ShardTable, TableRecord

__all__ = [
    "BadSample", "Counts", "FileRecord", "Manifest", "Parent", "Provenance", "ShardEntry", "ShardRecord", "ShardTable",
    "check_plan", "commit_of", "commit_shard", "dataset_ref", "dataset_store", "file_uri", "find_dataset", "is_planned",
    "load_manifest", "own_file", "plan_dataset", "plan_differences", "read_commit", "recall", "seal_dataset",
    "written_manifest",
]  # fmt: skip

FORMAT = 2
MANIFEST_KEY = "manifest.json"
PLAN_KEY = "plan.json"
MADE_KEY = "made.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Manifest(Contract):
    """A sealed dataset version. In memory its URIs are absolute; as written, those within the store are relative."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    format: int = FORMAT
    name: str = Field(description="not part of the digest")
    kind: str = Field(description="`human`, `web`, `capfilt` or `recut`")
    fingerprint: str = Field(description="digest of the plan that made it")
    origin: str = Field(default="", description="URI the input was read from; not part of the digest")
    config: dict[str, Any] = Field(description="the resolved settings that made it, no locations")
    parents: tuple[Parent, ...] = ()
    table: TableRecord = Field(description="the table of shards beside the manifest")
    totals: Counts
    digest: str = ""
    _shards: ShardTable | None = PrivateAttr(default=None)

    @property
    def shards(self) -> ShardTable:
        """Its shards, in order."""
        if self._shards is None:
            raise DataError(f"dataset {self.name}: its table of shards was not read; use load_manifest")
        return self._shards

    def with_shards(self, shards: ShardTable) -> "Manifest":
        """This manifest and the table it speaks of."""
        self._shards = shards
        return self

    @property
    def version(self) -> str:
        """The digest as it must be: sha256 over content and provenance, without the name and places."""
        said = self.model_dump(mode="json", include={"format", "kind", "fingerprint", "config", "totals"})
        parents = [[parent.role, parent.digest] for parent in self.parents]
        return digest_of({**said, "parents": parents, "shards": self.shards.digest})

    def ref(self, uri: str) -> DatasetRef:
        """The contract that flows pass around."""
        return DatasetRef(
            name=self.name, uri=uri, digest=self.digest, images=self.totals.kept, pairs=self.totals.kept_pairs
        )

    def to_bytes(self, root: str) -> bytes:
        """Its JSON as written at this root: URIs of the same store relative to it."""
        within = store_root(root)
        document = self.model_dump(mode="json")
        for place in (*document["parents"], document):
            key = "origin" if "origin" in place else "uri"
            place[key] = relative_uri(root, place[key], within=within) if place[key] else ""
        return pretty(document)

    @classmethod
    def read(cls, document: dict[str, Any], root: str) -> "Manifest":
        """The manifest of this JSON at this root, without its table."""
        for place in (*document.get("parents", ()), document):
            key = "origin" if "origin" in place else "uri"
            if place.get(key):
                place[key] = absolute_uri(root, place[key])
        return cls.model_validate(document)


def dataset_store(store: Store, name: str, fingerprint: str) -> Store:
    """Where a version of a dataset lives: `<store>/datasets/<name>/<first 16 digits of the fingerprint>`.

    Raises:
        ConfigError: the name is none.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a dataset: use letters, digits, `-`, `_` and `.`")
    return store.child("datasets", name, fingerprint[:16])


def file_uri(root: str, record: FileRecord) -> str:
    """Absolute URI of a dataset's file, given the dataset's root."""
    return absolute_uri(root, record.uri)


def plan_dataset(store: Store, plan: Mapping[str, Any]) -> str:
    """Write down what will be made here, or check that the same was to be made.

    Args:
        store: rooted at the dataset.
        plan: everything the result depends on, as JSON values.

    Returns:
        The plan's fingerprint.

    Raises:
        ConfigError: another plan was begun here; names what differs.
    """
    plan = json.loads(canonical_json(plan))
    if not store.write(PLAN_KEY, pretty(plan), if_absent=True):
        check_plan(store, plan)
    return digest_of(plan)


def check_plan(store: Store, plan: Mapping[str, Any]) -> None:
    """Look, and write nothing: nothing or just this may have been begun here.

    Raises:
        ConfigError: another plan was begun here; names what differs.
    """
    if not store.exists(PLAN_KEY):
        return
    there = load_json(store.read(PLAN_KEY), join_uri(store.uri, PLAN_KEY))
    if differences := plan_differences(there, json.loads(canonical_json(plan))):
        raise ConfigError(
            f"{store.uri} was begun with other settings: {'; '.join(differences[:8])}"
            f"{f'; and {len(differences) - 8} more' if len(differences) > 8 else ''}."
            " Go on with the old settings, or write to another place"
        )


def is_planned(store: Store, plan: Mapping[str, Any]) -> bool:
    """Whether just this was begun here."""
    if not store.exists(PLAN_KEY):
        return False
    there = load_json(store.read(PLAN_KEY), join_uri(store.uri, PLAN_KEY))
    return not plan_differences(there, json.loads(canonical_json(plan)))


class Difference(NamedTuple):
    """A setting that two plans have otherwise."""

    name: str
    there: str
    wanted: str


def plan_differences(there: Any, wanted: Any) -> list[str]:
    """Where two JSON values differ, e.g. `decoding.top_p: 0.9 there, 0.8 asked for`."""
    return [f"{one.name or 'plan'}: {one.there} there, {one.wanted} asked for" for one in differences(there, wanted)]


def differences(there: Any, wanted: Any, name: str = "") -> Iterator[Difference]:
    """Where two JSON values differ, setting by setting."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in sorted({*there, *wanted}):
            inner = f"{name}.{key}" if name else key
            yield from differences(there.get(key, _ABSENT), wanted.get(key, _ABSENT), inner)
    elif isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        for at, (a, b) in enumerate(zip(there, wanted, strict=True)):
            yield from differences(a, b, f"{name}[{at}]")
    elif there != wanted:
        yield Difference(name, _short(there), _short(wanted))


class _Absent:
    """A key the other plan lacks."""

    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def seal_dataset(
    store: Store,
    made: Provenance,
    records: Iterable[ShardRecord | ShardEntry],
) -> DatasetRef:
    """Write the manifest, once: from now on the dataset exists. Who finds one of the same plan there takes that.

    Args:
        store: rooted at the dataset.
        made: its name, and what it comes from.
        records: the committed shards, in order.

    Raises:
        DataError: two shards of one name, or the manifest of another plan lies here.
    """
    manifest = written_manifest(store, made, records)
    if not store.exists(MANIFEST_KEY):
        store.write(MADE_KEY, pretty(surroundings()))
    store.write(MANIFEST_KEY, manifest.to_bytes(store.uri), if_absent=True)
    there = load_manifest(store.uri)
    if there.digest != manifest.digest and not _of_one_plan(there, manifest):
        raise DataError(
            f"{store.uri} holds another dataset (version {there.digest[:12]}, this one is {manifest.digest[:12]});"
            " write to another place"
        )
    return there.ref(store.uri)


def written_manifest(
    store: Store,
    made: Provenance,
    records: Iterable[ShardRecord | ShardEntry],
) -> Manifest:
    """The manifest of these shards, their table written beside the place where it belongs: see `seal_dataset`."""
    shards = ShardTable.of(one.entry() if isinstance(one, ShardRecord) else one for one in records)
    if len(shards.commits()) != len(shards):
        raise DataError(f"{store.uri}: there are shards of one name; every shard needs a name of its own")
    data = shards.to_bytes()
    sha256 = sha256_hex(data)
    manifest = Manifest(
        name=made.name,
        kind=made.kind,
        fingerprint=made.fingerprint,
        origin=made.origin,
        config=json.loads(canonical_json(made.config)),
        parents=tuple(made.parents),
        table=TableRecord(uri=f"shards-{sha256[:16]}.parquet", bytes=len(data), sha256=sha256, rows=len(shards)),
        totals=shards.totals(),
    ).with_shards(shards)
    store.write(manifest.table.uri, data)
    return manifest.model_copy(update={"digest": manifest.version}).with_shards(shards)


def _of_one_plan(a: Manifest, b: Manifest) -> bool:
    """Whether two writers with one plan made these: they may differ by the rounding of their arithmetic alone."""
    same = all(getattr(a, name) == getattr(b, name) for name in ("kind", "fingerprint", "config"))
    return same and a.totals.samples == b.totals.samples and a.shards.commits().keys() == b.shards.commits().keys()


def find_dataset(store: Store) -> DatasetRef | None:
    """The dataset at the store's root, or None if none was sealed here."""
    return dataset_ref(store.uri) if store.exists(MANIFEST_KEY) else None


def dataset_ref(uri: str) -> DatasetRef:
    """The reference to a sealed dataset.

    Raises:
        DataError: as `load_manifest`.
    """
    store = open_store(uri)
    return load_manifest(store.uri).ref(store.uri)


def load_manifest(uri: str) -> Manifest:
    """Read a dataset's manifest and check its digest.

    Args:
        uri: the dataset's root, or the manifest itself.

    Raises:
        DataError: there is none, it is unreadable, or it was changed.
    """
    root = split_uri(uri)[0] if uri.endswith(f"/{MANIFEST_KEY}") else uri
    store = open_store(root)
    where = join_uri(store.uri, MANIFEST_KEY)
    if not store.exists(MANIFEST_KEY):
        begun = "; its making was begun but not finished: run that again" if store.exists(PLAN_KEY) else ""
        raise DataError(f"{store.uri} is no dataset: there is no {MANIFEST_KEY}{begun}")
    document = load_json(store.read(MANIFEST_KEY), where)
    _check_format(document, store.uri, where)
    try:
        manifest = Manifest.read(document, store.uri)
    except (ValidationError, TypeError, AttributeError) as error:
        told = short_errors(error) if isinstance(error, ValidationError) else error
        raise DataError(f"{where} is no manifest ({told}); make the dataset again") from error
    manifest = manifest.with_shards(_read_table(store, manifest.table))
    if manifest.version != manifest.digest or manifest.shards.totals() != manifest.totals:
        raise DataError(f"{where} was changed after it was written: its digest does not hold; make the dataset again")
    return manifest


def _check_format(document: Mapping[str, Any], root: str, where: str) -> None:
    found = document.get("format")
    if found == 1:
        raise DataError(
            f"{where} has format 1, which an earlier release wrote; this program reads format {FORMAT}: run "
            f"`capfilt store upgrade {store_root(root)}` once, it needs no model and no images"
        )
    if found != FORMAT:
        raise DataError(f"{where} has format {found!r}; this program reads format {FORMAT}: use a newer release")


def _read_table(store: Store, record: TableRecord) -> ShardTable:
    where = join_uri(store.uri, record.uri)
    if not store.exists(record.uri):
        raise DataError(f"{where} is missing, which the manifest names: bring it back, or make the dataset again")
    data = store.read(record.uri)
    if sha256_hex(data) != record.sha256:
        raise DataError(f"{where} was changed after it was written: its sha256 does not hold; make the dataset again")
    return ShardTable.from_bytes(data, where)
