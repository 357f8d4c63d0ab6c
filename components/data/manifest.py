"""What makes a folder a dataset: plan, data, a commit per shard, the manifest last. Readers start at the manifest.

    plan.json            what will be made, created once; another plan at the same place is refused
    shards/00000.tar     or a tar elsewhere, named by an absolute URI and its sha256
    shards/00000.parquet the candidate captions
    commits/00000.json   ShardRecord: files, counts, every bad sample with its reason
    manifest.json        Manifest: all shards, totals, parents, config, and the digest that is the version

The digest covers everything but itself and *where* things lie (absolute URIs): a dataset made again elsewhere, or by
another number of workers, is the same version.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from components.common.contracts import Contract, DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.seeding import canonical_json, digest_of
from components.common.storage import Store, join_uri, open_store, split_uri

FORMAT = 1
MANIFEST_KEY = "manifest.json"
PLAN_KEY = "plan.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class FileRecord(Contract):
    """A file of a dataset and what its bytes must be."""

    uri: str = Field(description="key below the dataset's root, or an absolute URI for a file used in place")
    bytes: int = Field(ge=0, description="size in bytes")
    sha256: str = Field(description="sha256 hex of the bytes")

    @property
    def in_place(self) -> bool:
        """Whether the file lies outside the dataset."""
        return "://" in self.uri or self.uri.startswith("/")


class BadSample(Contract):
    """A sample that could not be used."""

    key: str
    reason: str = Field(description="short code, as counted in `failed`")
    detail: str = Field(default="", description="what exactly was found, for people")
    count: int = Field(default=1, ge=1, description="samples this stands for: more than one behind a break in a tar")


class Counts(Contract):
    """Conservation: `in = kept + dropped + failed`, in samples (images). Pairs are counted beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)

    samples: int = Field(default=0, ge=0, alias="in", description="samples read")
    kept: int = Field(default=0, ge=0, description="samples with at least one kept caption")
    dropped: int = Field(default=0, ge=0, description="good samples none of whose captions was kept")
    failed: dict[str, int] = Field(default_factory=dict, description="samples that could not be used, by reason")
    kept_pairs: int = Field(default=0, ge=0, description="kept captions")
    dropped_pairs: int = Field(default=0, ge=0, description="captions considered and not kept")

    @model_validator(mode="after")
    def _conserved(self) -> "Counts":
        if self.samples != self.kept + self.dropped + sum(self.failed.values()):
            raise ValueError(
                f"in = {self.samples} is not kept {self.kept} + dropped {self.dropped} + failed {self.failed}"
            )
        return self

    @classmethod
    def total(cls, parts: Iterable["Counts"]) -> "Counts":
        """The sum, reasons in alphabetical order."""
        parts = list(parts)
        reasons = sorted({reason for part in parts for reason in part.failed})
        numbers = ("samples", "kept", "dropped", "kept_pairs", "dropped_pairs")
        sums: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in numbers}
        return cls(**sums, failed={reason: sum(part.failed.get(reason, 0) for part in parts) for reason in reasons})


class ShardEntry(Contract):
    """A shard as the manifest knows it."""

    name: str = Field(description="e.g. `00000`")
    tar: FileRecord
    parquet: FileRecord = Field(description="candidate captions")
    counts: Counts
    metrics: dict[str, float] = Field(default_factory=dict, description="figures that depend on content alone")
    commit_digest: str = Field(description="digest of the commit record, which lists the bad samples")


class ShardRecord(Contract):
    """The commit record of one finished shard."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="e.g. `00000`")
    tar: FileRecord
    parquet: FileRecord
    counts: Counts
    bad: tuple[BadSample, ...] = Field(default=(), description="every failed sample, in input order")
    metrics: dict[str, float] = Field(
        default_factory=dict, description="figures of the content (no clock, no host): they are part of the digest"
    )

    @model_validator(mode="after")
    def _bad_samples_are_counted(self) -> "ShardRecord":
        listed = sum(bad.count for bad in self.bad)
        if listed != sum(self.counts.failed.values()):
            raise ValueError(f"shard {self.name}: {listed} bad samples listed, counted {self.counts.failed}")
        return self

    def to_bytes(self) -> bytes:
        """Its JSON as committed: equal records, equal bytes."""
        return _pretty(self.model_dump(mode="json"))

    def entry(self) -> ShardEntry:
        """What the manifest says of it."""
        values = {name: getattr(self, name) for name in ("name", "tar", "parquet", "counts", "metrics")}
        return ShardEntry(**values, commit_digest=digest_of(_without_places(self.model_dump(mode="json"))))


class Parent(Contract):
    """Something a dataset was made from."""

    role: str = Field(description="`web`, `captioner`, `filter`, `dataset` …")
    digest: str = Field(description="its version")
    uri: str = Field(default="", description="where it was; not part of the digest")


class Manifest(Contract):
    """A sealed dataset version."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    format: int = FORMAT
    name: str
    kind: str = Field(description="`human`, `web`, `capfilt` or `recut`")
    fingerprint: str = Field(description="digest of the plan that made it")
    origin: str = Field(default="", description="URI the input was read from; not part of the digest")
    config: dict[str, Any] = Field(description="the resolved settings that made it, no locations")
    parents: tuple[Parent, ...] = ()
    shards: tuple[ShardEntry, ...]
    totals: Counts
    digest: str = ""

    @property
    def version(self) -> str:
        """The digest as it must be: sha256 over everything but itself and places."""
        return digest_of(_without_places(self.model_dump(mode="json", exclude={"digest", "origin"})))

    def ref(self, uri: str) -> DatasetRef:
        """The contract that flows pass around."""
        return DatasetRef(
            name=self.name, uri=uri, digest=self.digest, images=self.totals.kept, pairs=self.totals.kept_pairs
        )


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
    return record.uri if record.in_place else join_uri(root, record.uri)


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
    if not store.write(PLAN_KEY, _pretty(plan), if_absent=True):
        where = join_uri(store.uri, PLAN_KEY)
        there = _load_json(store.read(PLAN_KEY), where)
        if differences := plan_differences(there, plan):
            raise ConfigError(
                f"{store.uri} was begun with other settings: {'; '.join(differences[:8])}"
                f"{f'; and {len(differences) - 8} more' if len(differences) > 8 else ''}."
                " Go on with the old settings, or write to another place"
            )
    return digest_of(plan)


def is_planned(store: Store, plan: Mapping[str, Any]) -> bool:
    """Whether just this was begun here."""
    if not store.exists(PLAN_KEY):
        return False
    there = _load_json(store.read(PLAN_KEY), join_uri(store.uri, PLAN_KEY))
    return not plan_differences(there, json.loads(canonical_json(plan)))


def plan_differences(there: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, e.g. `decoding.top_p: 0.9 there, 0.8 asked for`."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        found: list[str] = []
        for key in sorted({*there, *wanted}):
            inner = f"{name}.{key}" if name else key
            found += plan_differences(there.get(key, _ABSENT), wanted.get(key, _ABSENT), inner)
        return found
    if isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        pairs = enumerate(zip(there, wanted, strict=True))
        return [line for at, (a, b) in pairs for line in plan_differences(a, b, f"{name}[{at}]")]
    if there == wanted:
        return []
    return [f"{name or 'plan'}: {_short(there)} there, {_short(wanted)} asked for"]


class _Absent:
    """A key the other plan lacks."""

    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def commit_shard(store: Store, record: ShardRecord) -> ShardRecord:
    """Declare a shard finished. Its files must lie in the store already; committing it again changes nothing.

    Args:
        store: rooted at the dataset.
        record: what was written.

    Returns:
        The record that counts: this one, or an equal one that another worker committed first.

    Raises:
        DataError: a file is missing or has another size, or the shard was committed with another content.
    """
    for file in (record.tar, record.parquet):
        info = None if file.in_place else store.info(file.uri)
        if not file.in_place and (info is None or info.size != file.bytes):
            found = "missing" if info is None else f"{info.size} bytes"
            where = join_uri(store.uri, file.uri)
            raise DataError(f"cannot commit {where}: it is {found}, should be {file.bytes} bytes; run again")
    key = f"commits/{record.name}.json"
    if store.write(key, record.to_bytes(), if_absent=True):
        return record
    there = read_commit(store, record.name)
    if there is None or there.entry() != record.entry():
        where = join_uri(store.uri, key)
        raise DataError(f"{where} says other than what was made now: two different runs wrote here; use a new place")
    return there


def read_commit(store: Store, name: str) -> ShardRecord | None:
    """The commit record of a shard, or None if the shard is not finished.

    Raises:
        DataError: the record is not readable.
    """
    key = f"commits/{name}.json"
    if not store.exists(key):
        return None
    where = join_uri(store.uri, key)
    try:
        return ShardRecord.model_validate(_load_json(store.read(key), where))
    except ValidationError as error:
        raise DataError(f"{where} is no commit record ({_short_errors(error)}); delete it and run again") from error


def seal_dataset(
    store: Store,
    *,
    name: str,
    kind: str,
    config: Mapping[str, Any],
    fingerprint: str,
    records: Sequence[ShardRecord],
    parents: Sequence[Parent] = (),
    origin: str = "",
) -> DatasetRef:
    """Write the manifest: from now on the dataset exists. Sealing the same again is no error.

    Args:
        store: rooted at the dataset.
        name: e.g. `web-capfilt-1`.
        kind: `human`, `web`, `capfilt` or `recut`.
        config: settings that made it, as JSON values and without locations (they would be part of the version).
        fingerprint: digest of the plan.
        records: the committed shards, in order.
        parents: what it was made from.
        origin: where the input was.

    Raises:
        DataError: two shards of one name, or another manifest lies here.
    """
    names = [record.name for record in records]
    if len(set(names)) != len(names):
        raise DataError(f"{store.uri}: shards of one name: {sorted({n for n in names if names.count(n) > 1})}")
    manifest = Manifest(
        name=name,
        kind=kind,
        fingerprint=fingerprint,
        origin=origin,
        config=json.loads(canonical_json(config)),
        parents=tuple(parents),
        shards=tuple(record.entry() for record in records),
        totals=Counts.total(record.counts for record in records),
    )
    manifest = manifest.model_copy(update={"digest": manifest.version})
    if not store.write(MANIFEST_KEY, _pretty(manifest.model_dump(mode="json")), if_absent=True):
        there = load_manifest(store.uri)
        if there.digest != manifest.digest:
            raise DataError(
                f"{store.uri} holds another dataset (version {there.digest[:12]}, this one is {manifest.digest[:12]});"
                " write to another place"
            )
        manifest = there
    return manifest.ref(store.uri)


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
    document = _load_json(store.read(MANIFEST_KEY), where)
    if document.get("format") != FORMAT:
        raise DataError(f"{where} has format {document.get('format')!r}; this program reads format {FORMAT}")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        raise DataError(f"{where} is no manifest ({_short_errors(error)}); make the dataset again") from error
    if manifest.version != manifest.digest or Counts.total(one.counts for one in manifest.shards) != manifest.totals:
        raise DataError(f"{where} was changed after it was written: its digest does not hold; make the dataset again")
    return manifest


def _load_json(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}; delete it and run again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object; delete it and run again")
    return value


def _short_errors(error: ValidationError) -> str:
    """The first three of pydantic's complaints on one line."""
    found = [f"{'.'.join(map(str, one['loc'])) or 'record'}: {one['msg']}" for one in error.errors()]
    return "; ".join(found[:3])


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _without_places(value: Any) -> Any:
    """The value with files' absolute URIs cut to their last part, and parents' URIs left out."""
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_places(item) for key, item in value.items()}
    if kept.keys() == {"role", "digest", "uri"}:
        del kept["uri"]
    elif kept.keys() == {"uri", "bytes", "sha256"}:
        kept["uri"] = kept["uri"].rpartition("/")[2] if FileRecord(**value).in_place else kept["uri"]
    return kept
