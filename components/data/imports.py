"""The loop of every import that copies images: shard after shard, read and decoded in parallel.

A shard that is committed is found by its commit record, so an import that was interrupted goes on with the next one.
What cannot be used is told, the first of it one by one, and listed in full among the failed samples of the dataset.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from components.common.contracts import DatasetRef
from components.common.errors import StorageError
from components.common.seeding import digest_of
from components.common.storage import Store
from components.data.decoding import BadImage, decode_image
from components.data.health import Health, Telling
from components.data.manifest import (
    BadSample,
    Provenance,
    ShardRecord,
    dataset_store,
    find_dataset,
    plan_dataset,
    recall,
    seal_dataset,
)
from components.data.parallel import default_threads, ordered_map
from components.data.publish import ShardBuilder


class Keyed(Protocol):
    """What becomes a sample."""

    @property
    def key(self) -> str:
        """The sample's key."""


Item = TypeVar("Item", bound=Keyed)


def imported_once(
    store: Store,
    name: str,
    kind: str,
    plan: Mapping[str, Any],
    origin: str,
    work: Callable[[Store], list[ShardRecord]],
) -> DatasetRef:
    """The dataset of a plan: found made, or made now.

    Args:
        store: root of the project's store.
        name: the dataset's name.
        kind: of dataset.
        plan: all that decides what it will be; revision, shard size and limit are its config, too.
        origin: where the input lies.
        work: makes the shards in the dataset's own store.
    """
    target = dataset_store(store, name, digest_of(plan))
    fingerprint = plan_dataset(target, plan)
    if (found := find_dataset(target)) is not None:
        return found
    config = {key: plan[key] for key in ("revision", "shard_size", "limit")}
    return seal_dataset(target, Provenance(name, kind, config, fingerprint, origin=origin), work(target))


class ImageImport(ABC, Generic[Item]):
    """The work of one import; what an item is, how it is read and what is written of it say those who derive from it.

    Args:
        where: what is imported, for messages.
        source: the image folder.
        target: the dataset.
        threads: that read and decode (default: one per CPU).
        progress: called with the number of items just done.
        faults: entries of the input that are of no use, listed by the first shard.
    """

    def __init__(
        self,
        where: str,
        source: Store,
        target: Store,
        *,
        threads: int | None = None,
        progress: Callable[[int], object] | None = None,
        faults: Sequence[BadSample] = (),
    ) -> None:
        self.where, self.source, self.target, self.faults = where, source, target, faults
        self.threads, self.progress = threads or default_threads(), progress or (lambda _: None)
        self.committed = recall(target)
        self.health = Health(where)
        self.tell = Telling(where).tell

    def run(self, items: Iterable[Item], shard_size: int) -> list[ShardRecord]:
        """Make all shards.

        Raises:
            DataError: more than half of the items cannot be used.
        """
        records: list[ShardRecord] = []
        for part in _parts(items, shard_size):
            records.append(self._shard(f"{len(records):05d}", part, () if records else self.faults))
            self.health.look(records[-1])
        self.health.refuse()
        return records

    def _shard(self, name: str, items: Sequence[Item], faults: Sequence[BadSample]) -> ShardRecord:
        if (record := self.committed.get(name)) is not None:
            self.progress(len(items))
            return record
        with ShardBuilder(self.target, name) as builder:
            for fault in faults:
                self.tell(fault.detail)
                builder.fail(fault.key, fault.reason, fault.detail)
            for item, data in zip(items, ordered_map(self.read, items, threads=self.threads), strict=True):
                if isinstance(data, BadSample):
                    self.tell(f"{data.detail} ({data.reason})")
                    builder.fail(data.key, data.reason, data.detail)
                else:
                    self.add(builder, item, data)
                self.progress(1)
            return builder.commit()

    @abstractmethod
    def read(self, item: Item) -> bytes | BadSample:
        """The bytes of its image, or what is wrong with it (`bad`). Called by threads."""

    @abstractmethod
    def add(self, builder: ShardBuilder, item: Item, data: bytes) -> None:
        """Write one item with what is said of its image."""

    @abstractmethod
    def place(self, item: Item) -> str:
        """Where the input names the item: file, and line or row."""

    def bad(self, item: Item, reason: str, detail: str) -> BadSample:
        """An item of no use, with its place."""
        return BadSample(key=item.key, reason=reason, detail=f"{self.place(item)}: {detail}"[:300])

    def look(self, file: str) -> bytes | BadImage | None:
        """A file's bytes, if they are an image; else why they are none, or None where there is no file."""
        try:
            data = self.source.read(file)
            decode_image(data)
        except BadImage as error:
            return error
        except StorageError:
            if self.source.exists(file):
                raise
            return None
        return data


def _parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
