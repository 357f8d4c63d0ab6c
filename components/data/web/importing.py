"""Import web data: img2dataset/WebDataset tars in a folder or under an S3 prefix become a dataset, used in place.

The tars are neither copied nor changed: the manifest names them by absolute URI, size and sha256. Every image is
decoded once, so that later stages meet good ones only. A sample whose text is bad but whose image is good stays
among the candidates with its reason (`dropped`, not `failed`): CapFilt can write a caption for it.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from components.common.contracts import DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri, sha256_file
from components.data.candidates import stored_candidates
from components.data.health import Health, Telling
from components.data.manifest import (
    FileRecord,
    Provenance,
    ShardRecord,
    dataset_store,
    find_dataset,
    load_manifest,
    plan_dataset,
    recall,
    seal_dataset,
)
from components.data.parallel import default_threads, ordered_map
from components.data.publish import ShardBuilder
from components.data.shards import SampleIndex, scan_shard
from components.data.web.extending import SOURCES_KEY, Former, find_former, take_over
from components.data.web.listing import WebTar, check_listed, counted_samples, expected_samples, list_tars, origin_of
from components.data.web.repeats import KeysMet, keys_of_record, own_keys
from components.data.web.samples import WebSample, lost_behind_break, read_sample, with_repeats
from components.data.web.texts import unjudged

logger = logging.getLogger(__name__)

REVISION = 2  # counts changes of what the same input becomes


def import_web(
    uri: str,
    *,
    store: Store,
    name: str,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    expect: Callable[[int], object] | None = None,
) -> DatasetRef:
    """Make a dataset of the tars under `uri`, or find it made.

    Where an earlier version of it lies in the store, only tars that are new or changed are read: see `extending`. The
    new version then names the earlier one as a parent.

    Each text of a sample becomes a kept candidate of source `web`; what counts as a sample and as a text says the
    package's table. A tar that is cut or damaged gives its whole samples; what is lost behind counts as failed
    (`broken_shard`), by img2dataset's stats file where there is one.

    Args:
        uri: folder or S3 prefix with `*.tar`, one tar, a brace range of tars, or a list of them in a file.
        store: root of the project's store.
        name: the dataset's name.
        limit: use the first so many samples only. The last shard's tar then has more samples than its counts.
        threads: that decode (default: one per CPU).
        progress: called with the number of samples just done.
        expect: called with about the number of all of them, where there is a way to tell, before the first is done.

    Returns:
        The sealed dataset: `images` and `pairs` with a usable text; the manifest counts the rest.

    Raises:
        DataError: no tars or none that can be read, more than half of the samples are bad, or a tar changed since it
            was imported.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    source, shards = list_tars(uri)
    check_listed(source, shards)
    # Names and sizes, not contents: to hash terabytes only to find a dataset done would cost as much as to read it.
    # That contents are the same is seen by modification time or ETag (`_Tags`), and by sha256 whenever they are read.
    plan = {
        "kind": "web",
        "revision": REVISION,
        "limit": limit,
        "shards": [{"name": shard.key, "bytes": shard.size} for shard in shards],
    }
    target = dataset_store(store, name, digest_of(plan))
    fingerprint = plan_dataset(target, plan)
    tags = _Tags(source, target, shards)
    if (found := find_dataset(target)) is not None:
        for shard, entry in zip(shards, load_manifest(target.uri).shards, strict=False):
            tags.check(shard, entry.tar)
        return found
    config = {"revision": REVISION, "limit": limit}
    # With a limit the last tar is read in part, and which one that is changes with the others.
    former = find_former(store.child("datasets", name), config, shards, target) if limit is None else None
    work = _WebImport(source, target, tags, former, threads or default_threads(), progress or (lambda _: None))
    if expect is not None and (total := expected_samples(source, shards, limit)) is not None:
        expect(total)
    records = work.run(shards, limit)
    work.health.refuse()
    if former is not None:
        logger.info("%s: %d of %d tars were known from %s", name, work.taken_over, len(shards), former.store.uri)
    parents = [] if former is None else former.parents_of(records)
    return seal_dataset(target, Provenance(name, "web", config, fingerprint, parents, origin_of(uri, source)), records)


class _Tags:
    """Modification times or ETags of the tars at import: a cheap sign that a tar may have changed since."""

    def __init__(self, source: Store, target: Store, shards: Sequence[WebTar]) -> None:
        self._source, self._target = source, target
        now = {shard.key: shard.etag for shard in shards}
        target.write(SOURCES_KEY, json.dumps(now, indent=1).encode(), if_absent=True)
        self._then: dict[str, str] = json.loads(target.read(SOURCES_KEY))

    def check(self, shard: WebTar, record: FileRecord) -> None:
        """Raise DataError if the tar holds other bytes than were imported; hashes it only if its tag changed."""
        if self._then.get(shard.key) == shard.etag:
            return
        with _local_copy(self._source, shard) as path:
            digest = sha256_file(path)
        if digest != record.sha256:
            raise DataError(
                f"{join_uri(self._source.uri, shard.key)} changed since it was imported as {self._target.uri}:"
                " bring the old file back, or delete that dataset and import again"
            )
        self._then[shard.key] = shard.etag
        self._target.write(SOURCES_KEY, json.dumps(self._then, indent=1).encode())


@contextmanager
def _local_copy(source: Store, shard: WebTar) -> Iterator[Path]:
    """The tar as a local file: itself, or a temporary download."""
    if (path := source.local_path(shard.key)) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="capfilt-web-") as folder:
        path = Path(folder) / "shard.tar"
        source.download(shard.key, path)
        yield path


class _WebImport:
    """The work of one import: shard after shard, finished ones found by their commit."""

    def __init__(
        self,
        source: Store,
        target: Store,
        tags: _Tags,
        former: Former | None,
        threads: int,
        progress: Callable[[int], object],
    ) -> None:
        self.source, self.target, self.tags, self.threads, self.progress = source, target, tags, threads, progress
        self.former, self.taken_over = former, 0
        self.committed = recall(target)
        self.met = KeysMet()
        self.health, self.telling = Health(source.uri), Telling(source.uri)

    def run(self, shards: Sequence[WebTar], limit: int | None) -> list[ShardRecord]:
        records: list[ShardRecord] = []
        left = limit
        for shard in shards:
            if left is not None and left <= 0:
                break
            record = self._committed(shard) or self._taken_over(shard) or self._import(shard, left)
            self.health.look(record)
            records.append(record)
            left = None if left is None else left - record.counts.samples
        return records

    def _committed(self, shard: WebTar) -> ShardRecord | None:
        record = self.committed.get(shard.name)
        if record is None:
            return None
        self.tags.check(shard, record.tar)
        self.met.again(keys_of_record(record, stored_candidates(self.target.uri, record.parquet).keys))
        self.progress(record.counts.samples)
        return record

    def _taken_over(self, shard: WebTar) -> ShardRecord | None:
        """What the earlier version has of this tar, if it is the same."""
        if self.former is None or (entry := self.former.candidate(shard)) is None:
            return None
        if not self.former.is_unread(shard, join_uri(self.source.uri, shard.key), entry):
            with _local_copy(self.source, shard) as path:
                if sha256_file(path) != entry.tar.sha256:
                    return None
        record = take_over(self.former, entry, shard, self.source, self.target, self.met)
        if record is not None:
            self.taken_over += 1
            self.progress(record.counts.samples)
        return record

    def _import(self, shard: WebTar, limit: int | None) -> ShardRecord:
        uri = join_uri(self.source.uri, shard.key)
        with _local_copy(self.source, shard) as path:
            tar = FileRecord(uri=uri, bytes=path.stat().st_size, sha256=sha256_file(path))
            if tar.bytes != shard.size:
                raise DataError(f"{uri} changed from {shard.size} to {tar.bytes} bytes while it was read; try again")
            with ShardBuilder(self.target, shard.name, tar=tar) as builder:
                self._collect(shard, path, limit, builder)
                return builder.commit()

    def _collect(self, shard: WebTar, path: Path, limit: int | None, builder: ShardBuilder) -> None:
        """Everything that a tar's first `limit` samples give, and what it has lost."""
        uri = join_uri(self.source.uri, shard.key)
        scan = scan_shard(path, name=uri)
        taken = scan.samples[:limit]
        repeated = self.met.again(own_keys(taken))

        def look(sample: SampleIndex) -> WebSample:
            return replace(read_sample(path, sample, repeated), image=None)  # decoded to know that it is good

        for found in ordered_map(look, with_repeats(taken, repeated), threads=self.threads):
            self._count(found, uri, builder)
            self.progress(1)
        if limit is not None and limit <= len(scan.samples):
            return  # nobody asked for what is behind the break
        if (lost := lost_behind_break(shard.key, scan, counted_samples(self.source, shard))) is not None:
            builder.fail(lost.key, lost.reason, lost.detail, count=lost.count)

    def _count(self, found: WebSample, tar: str, builder: ShardBuilder) -> None:
        key = found.sample.key
        if found.reason:
            self.telling.tell(f"{tar}: {key}: {found.detail} ({found.reason})")
            builder.fail(key, found.reason, found.detail)
            return
        if (text := found.texts[0]).problem is not None:
            self.telling.tell(f"{tar}: {key}: text is {text.text!r:.60} ({text.problem})")
        builder.add(key, unjudged(key, found.sha256, found.texts))
