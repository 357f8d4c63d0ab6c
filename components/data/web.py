"""Import web data: img2dataset/WebDataset tars in a folder or under an S3 prefix become a dataset, used in place.

The tars are neither copied nor changed: the manifest names them by absolute URI, size and sha256. Every image is
decoded once, so that later stages meet good ones only. A sample whose text is bad but whose image is good stays
among the candidates with its reason (`dropped`, not `failed`): CapFilt can write a caption for it.
"""

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from components.common.contracts import DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.seeding import digest_of
from components.common.storage import (
    ObjectInfo,
    Store,
    join_uri,
    normalise_uri,
    open_store,
    sha256_file,
    sha256_hex,
    split_uri,
)
from components.data.candidates import Candidate, read_candidate_table, text_problem
from components.data.decoding import BadImage, decode_image
from components.data.manifest import (
    FileRecord,
    ShardRecord,
    dataset_store,
    find_dataset,
    load_manifest,
    plan_dataset,
    recall,
    seal_dataset,
)
from components.data.parallel import default_threads, ordered_map
from components.data.publish import ShardBuilder, refuse_mostly_bad
from components.data.shards import DUPLICATE_KEY, EARLIER_SHARD, BrokenShard, ShardSample, read_shard
from components.data.tarwalk import walk

logger = logging.getLogger(__name__)

REVISION = 1  # counts changes of what the same input becomes
_SOURCES_KEY = "sources.json"


def import_web(
    uri: str,
    *,
    store: Store,
    name: str,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> DatasetRef:
    """Make a dataset of the tars directly under `uri`, or find it made.

    Each text of a sample (`caption` of its json, else its txt) becomes a kept candidate of source `web`. A tar that is
    cut or damaged gives its whole samples; what is lost behind counts as failed (`broken_shard`), by img2dataset's
    stats file where there is one. The first sample of a key counts, later ones are failed (`duplicate_key`).

    Args:
        uri: folder or S3 prefix with `*.tar`, or one tar.
        store: root of the project's store.
        name: the dataset's name.
        limit: use the first so many samples only. The last shard's tar then has more samples than its counts.
        threads: that decode (default: one per CPU).
        progress: called with the number of samples just done.

    Returns:
        The sealed dataset: `images` and `pairs` with a usable text; the manifest counts the rest.

    Raises:
        DataError: no tars, or more than half of the samples are bad, or a tar changed since it was imported.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    source, shards = list_tars(uri)
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
    work = _WebImport(source, target, tags, threads or default_threads(), progress or (lambda _: None))
    records = work.run(shards, limit)
    refuse_mostly_bad(source.uri, records)
    return seal_dataset(
        target,
        name=name,
        kind="web",
        config={"revision": REVISION, "limit": limit},
        fingerprint=fingerprint,
        records=records,
        origin=source.uri,
    )


def list_tars(uri: str) -> tuple[Store, list[ObjectInfo]]:
    """The store that holds the tars of `uri` (a folder, a prefix or one tar), and the tars in order of name.

    Raises:
        DataError: there is none; says what was found instead.
    """
    uri = normalise_uri(uri)
    if uri.endswith(".tar"):
        folder, key = split_uri(uri)
        source = open_store(folder)
        info = source.info(key)
        if info is None:
            raise DataError(f"{join_uri(source.uri, key)} does not exist; give a .tar or the folder that holds them")
        return source, [info]
    source = open_store(uri)
    local = source.local_path("")
    if local is not None and not local.is_dir():
        raise DataError(f"{source.uri} is no folder; give the folder with img2dataset's .tar files")
    tars = [info for info in source.list() if info.key.endswith(".tar")]
    if top := [info for info in tars if "/" not in info.key]:
        return source, top
    if tars:
        folders = sorted({info.key.rpartition("/")[0] for info in tars})
        raise DataError(f"{source.uri} has tars only in subfolders ({', '.join(folders[:5])}): give one of those")
    raise DataError(
        f"{source.uri} holds no .tar: give the folder that img2dataset wrote with --output_format webdataset"
    )


def expected_samples(uri: str, limit: int | None = None) -> int | None:
    """About how many samples an import will see: the first tar's, by its stats file, in proportion to the tars' sizes.

    None where there is no stats file and no limit.
    """
    source, shards = list_tars(uri)
    first = _successes(source, shards[0])
    if not first or not shards[0].size:
        return limit
    total = round(first * sum(shard.size for shard in shards) / shards[0].size)
    return total if limit is None else min(limit, total)


def check_tars(uri: str) -> None:
    """Look before any work: one of the tars at least must begin as a tar with something in it. Reads a few blocks.

    Raises:
        DataError: there is no tar, or none that can be read.
    """
    source, shards = list_tars(uri)
    faults = []
    for shard in shards:
        tar = _StoredTar(source, shard)
        try:
            if next(walk(tar), None) is not None:
                return
            faults.append(f"{tar.name} is an empty tar")
        except BrokenShard as error:
            faults.append(str(error))
    raise DataError(f"{source.uri}: none of its {len(faults)} tars can be read; {faults[0]}")


class _StoredTar:
    """Positioned reads over a tar where it lies."""

    def __init__(self, source: Store, shard: ObjectInfo) -> None:
        self.name, self.size, self._source, self._key = join_uri(source.uri, shard.key), shard.size, source, shard.key

    def read(self, offset: int, size: int) -> bytes:
        data = self._source.read(self._key, start=offset, stop=offset + size)
        if len(data) != size:
            raise BrokenShard(self.name, offset, "it became shorter while it was read")
        return data


def web_texts(members: Mapping[str, bytes]) -> tuple[list[str], str | None]:
    """A web sample's texts, and why there is none.

    `caption` of the json (a text or a list of texts) counts first, then the txt; a bad one gives way to a good other.
    """
    texts, problem = _json_texts(members.get("json"))
    if texts:
        return texts, None
    if "txt" not in members:
        return [], problem
    try:
        text = members["txt"].decode()
    except UnicodeDecodeError:
        return [], "text_not_utf8"
    trouble = text_problem(text)
    return ([], trouble) if trouble else ([text.strip()], None)


def _json_texts(data: bytes | None) -> tuple[list[str], str]:
    if data is None:
        return [], "missing_text"
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return [], "bad_json"
    value = document.get("caption") if isinstance(document, dict) else None
    values: list[Any] = value if isinstance(value, list) else [value]
    good = [text.strip() for text in values if text_problem(text) is None]
    return list(dict.fromkeys(good)), (text_problem(values[0]) or "") if values else "missing_text"


@dataclass(frozen=True)
class _Inspection:
    """What a look at a sample found: a reason not to use it, or its image's hash and its texts."""

    key: str
    reason: str | None = None
    detail: str = ""
    image_sha256: str = ""
    texts: Sequence[str] = ()
    text_trouble: str | None = None


def inspect_sample(sample: ShardSample) -> _Inspection:
    """Decode a sample's image and read its texts."""
    if sample.problem is not None:
        return _Inspection(sample.key, sample.problem, f"at byte {sample.offset} of the tar")
    if (extension := sample.image) is None:
        found = ", ".join(sorted(sample.members))
        several = sum(name.rpartition(".")[2] in ("jpg", "jpeg", "png", "webp") for name in sample.members) > 1
        hint = "; keys must not contain dots" if several else ""
        return _Inspection(sample.key, "several_images" if several else "no_image", f"members: {found[:200]}{hint}")
    data = sample.members[extension]
    try:
        decode_image(data)
    except BadImage as error:
        return _Inspection(sample.key, error.reason, str(error))
    texts, trouble = web_texts(sample.members)
    return _Inspection(sample.key, image_sha256=sha256_hex(data), texts=texts, text_trouble=trouble)


class _Tags:
    """Modification times or ETags of the tars at import: a cheap sign that a tar may have changed since."""

    def __init__(self, source: Store, target: Store, shards: Sequence[ObjectInfo]) -> None:
        self._source, self._target = source, target
        now = {shard.key: shard.etag for shard in shards}
        target.write(_SOURCES_KEY, json.dumps(now, indent=1).encode(), if_absent=True)
        self._then: dict[str, str] = json.loads(target.read(_SOURCES_KEY))

    def check(self, shard: ObjectInfo, record: FileRecord) -> None:
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
        self._target.write(_SOURCES_KEY, json.dumps(self._then, indent=1).encode())


@contextmanager
def _local_copy(source: Store, shard: ObjectInfo) -> Iterator[Path]:
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
        self, source: Store, target: Store, tags: _Tags, threads: int, progress: Callable[[int], object]
    ) -> None:
        self.source, self.target, self.tags, self.threads, self.progress = source, target, tags, threads, progress
        self.committed = recall(target)
        self.seen: set[int] = set()  # hashes of keys: keys themselves would take four times the memory

    def run(self, shards: Sequence[ObjectInfo], limit: int | None) -> list[ShardRecord]:
        records: list[ShardRecord] = []
        left = limit
        for index, shard in enumerate(shards):
            if left is not None and left <= 0:
                break
            record = self._committed(shard, index) or self._import(shard, index, left)
            records.append(record)
            left = None if left is None else left - record.counts.samples
        return records

    def _committed(self, shard: ObjectInfo, index: int) -> ShardRecord | None:
        record = self.committed.get(_shard_name(shard.key, index))
        if record is None:
            return None
        self.tags.check(shard, record.tar)
        table = read_candidate_table(self.target.read(record.parquet.uri), name=record.parquet.uri)
        self.seen.update(hash(key) for key in table["key"].to_pylist())
        self.progress(record.counts.samples)
        return record

    def _import(self, shard: ObjectInfo, index: int, limit: int | None) -> ShardRecord:
        uri = join_uri(self.source.uri, shard.key)
        with _local_copy(self.source, shard) as path:
            tar = FileRecord(uri=uri, bytes=path.stat().st_size, sha256=sha256_file(path))
            if tar.bytes != shard.size:
                raise DataError(f"{uri} changed from {shard.size} to {tar.bytes} bytes while it was read; try again")
            with ShardBuilder(self.target, _shard_name(shard.key, index), tar=tar) as builder:
                breaks: list[BrokenShard] = []
                samples = islice(_until_break(path, uri, breaks), limit)
                for found in ordered_map(inspect_sample, samples, threads=self.threads):
                    self._count(found, builder)
                    self.progress(1)
                for broken in breaks:
                    lost = self._lost(shard, builder.counts().samples)
                    builder.fail(f"{shard.key}@{broken.offset}", "broken_shard", str(broken), count=lost)
                    logger.warning("%s; about %d samples behind that are lost", broken, lost)
                return builder.commit()

    def _count(self, found: _Inspection, builder: ShardBuilder) -> None:
        key = found.key
        if found.reason is None and hash(key) in self.seen:
            found = _Inspection(key, DUPLICATE_KEY, EARLIER_SHARD)
        if found.reason is not None:
            builder.fail(key, found.reason, found.detail)
            return
        self.seen.add(hash(key))
        kept = [Candidate(key, found.image_sha256, "web", text, None, None, True) for text in found.texts]
        reason = found.text_trouble or ""
        builder.add(key, kept or [Candidate(key, found.image_sha256, "web", "", None, None, False, reason)])

    def _lost(self, shard: ObjectInfo, found: int) -> int:
        """How many samples lie behind a break, by img2dataset's stats; at least the one that was cut."""
        return max(1, (_successes(self.source, shard) or 0) - found)


def _successes(source: Store, shard: ObjectInfo) -> int | None:
    """A tar's samples by the stats file that img2dataset writes beside it; None without a readable one."""
    key = f"{shard.key[:-4]}_stats.json"
    if not source.exists(key):
        return None
    try:
        return int(json.loads(source.read(key))["successes"])
    except (ValueError, KeyError, TypeError):
        return None


def _until_break(path: Path, uri: str, breaks: list[BrokenShard]) -> Iterator[ShardSample]:
    """The whole samples of a tar; a break ends them and is put into `breaks`."""
    try:
        yield from read_shard(path, name=uri)
    except BrokenShard as error:
        breaks.append(error)


def _shard_name(key: str, index: int) -> str:
    """`00000` for `00000.tar`; a name that would not do as a commit's gets its number instead."""
    stem = key[: -len(".tar")]
    return stem if re.fullmatch(r"[A-Za-z0-9_-]+", stem) else f"shard-{index:05d}"
