"""What is written down of a dataset's shards: files, counts, the commit record of each, its line in the manifest.

Files are named by their content (`shards/00000-0a1b2c3d4e5f6071.tar`), and so is the commit record that points at them:
two writers can never overwrite one another's bytes, however long one of them was paused.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from components.common.contracts import Contract
from components.common.seeding import digest_of

_TAG = 16  # hex digits of a hash in a file's name


class FileRecord(Contract):
    """A file of a dataset and what its bytes must be."""

    uri: str = Field(
        description="relative to the dataset's root; for a file used in place `../…` in the same store, else absolute"
    )
    bytes: int = Field(ge=0, description="size in bytes")
    sha256: str = Field(description="sha256 hex of the bytes")

    @property
    def in_place(self) -> bool:
        """Whether the file lies outside the dataset."""
        return "://" in self.uri or self.uri.startswith(("/", "../"))


def own_file(name: str, suffix: str, size: int, sha256: str) -> FileRecord:
    """The record of a file that is written for a shard: its name is its content's."""
    return FileRecord(uri=f"shards/{name}-{sha256[:_TAG]}{suffix}", bytes=size, sha256=sha256)


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
        sums = dict.fromkeys(COUNTED, 0)
        failed: dict[str, int] = {}
        for part in parts:
            for name in COUNTED:
                sums[name] += getattr(part, name)
            for reason, count in part.failed.items():
                failed[reason] = failed.get(reason, 0) + count
        return cls(**sums, failed=dict(sorted(failed.items())))


KEPT_WEIGHT = "kept_weight"
"""Among a shard's metrics: the sum of its pairs' weights, where not all are 1."""

COUNTED = ("samples", "kept", "dropped", "kept_pairs", "dropped_pairs")
"""The plain numbers of `Counts`."""


class ShardEntry(Contract):
    """A shard as the manifest knows it."""

    name: str = Field(description="e.g. `00000`")
    tar: FileRecord
    parquet: FileRecord = Field(description="candidate captions")
    vectors: FileRecord | None = Field(default=None, description="ITC vectors of its images, see vectors.py")
    images: FileRecord | None = Field(default=None, description="keys and hashes of the images behind the vectors")
    counts: Counts
    metrics: dict[str, float] = Field(default_factory=dict, description="figures that depend on content alone")
    commit_digest: str = Field(description="digest of the commit record, which lists the bad samples")

    @property
    def commit_key(self) -> str:
        """Where the commit record lies below the dataset's root."""
        return commit_key(self.name, self.commit_digest)

    @property
    def own_files(self) -> tuple[FileRecord, ...]:
        """Its files that lie in the dataset."""
        return own_files(self)


class ShardRecord(Contract):
    """The commit record of one finished shard."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="e.g. `00000`")
    plan: str = Field(default="", description="fingerprint of the plan it is part of; empty: of any")
    tar: FileRecord
    parquet: FileRecord
    vectors: FileRecord | None = Field(default=None, description="ITC vectors of its images, see vectors.py")
    images: FileRecord | None = Field(default=None, description="keys and hashes of the images behind the vectors")
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

    @property
    def digest(self) -> str:
        """sha256 over all of it but the places of files used elsewhere."""
        return digest_of(without_places(self.model_dump(mode="json")))

    @property
    def own_files(self) -> tuple[FileRecord, ...]:
        """Its files that lie in the dataset."""
        return own_files(self)

    def to_bytes(self) -> bytes:
        """Its JSON as committed: equal records, equal bytes."""
        return pretty(self.model_dump(mode="json"))

    def entry(self) -> ShardEntry:
        """What the manifest says of it."""
        names = ("name", "tar", "parquet", "vectors", "images", "counts", "metrics")
        return ShardEntry(**{name: getattr(self, name) for name in names}, commit_digest=self.digest)


def own_files(shard: ShardEntry | ShardRecord) -> tuple[FileRecord, ...]:
    """The files of a shard that lie in the dataset, tar first."""
    files = (shard.tar, shard.parquet, shard.vectors, shard.images)
    return tuple(file for file in files if file is not None and not file.in_place)


def commit_key(name: str, digest: str) -> str:
    """Where the commit record of this digest lies below the dataset's root."""
    return f"commits/{name}-{digest[:_TAG]}.json"


class Parent(Contract):
    """Something a dataset was made from."""

    role: str = Field(description="`web`, `captioner`, `filter`, `dataset`, `extends` …")
    digest: str = Field(description="its version")
    uri: str = Field(default="", description="where it was; not part of the digest")


@dataclass(frozen=True)
class Provenance:
    """Where a dataset comes from: what its manifest says beside its shards.

    Args:
        name: e.g. `web-capfilt-1`.
        kind: `human`, `web`, `vqa`, `capfilt`, `recut` or `selected`.
        config: settings that made it, as JSON values and without locations (they would be part of the version).
        fingerprint: digest of the plan.
        parents: what it was made from.
        origin: where the input was.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    fingerprint: str
    parents: Sequence[Parent] = ()
    origin: str = ""


def without_places(value: Any) -> Any:
    """The value with the URIs of files used in place cut to their last part."""
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: without_places(item) for key, item in value.items()}
    if kept.keys() == {"uri", "bytes", "sha256"} and FileRecord(**value).in_place:
        kept["uri"] = kept["uri"].rpartition("/")[2]
    return kept


def storable(text: str) -> str:
    """The text, with what is no Unicode, such as bytes of a file's name in Latin-1, written out as escapes."""
    return text.encode(errors="backslashreplace").decode()


def pretty(value: Any) -> bytes:
    """JSON for people, with a line break at its end."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
