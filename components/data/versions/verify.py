"""Is a dataset whole? Every file against its hash, every count against the content, every image against its row."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import Field

from components.common.contracts import Contract
from components.common.errors import DataError, StorageError
from components.common.storage import open_store, sha256_file, sha256_hex, split_uri
from components.data.candidates import Candidate, read_candidates, stored_candidates
from components.data.commits import commit_of
from components.data.manifest import Manifest, file_uri, load_manifest
from components.data.records import FileRecord, ShardEntry
from components.data.shards import SampleIndex, read_at, scan_shard
from components.data.vectors import read_images

_SHOWN = 5  # samples named per kind of trouble and shard


class Verification(Contract):
    """What was found when a dataset was checked."""

    uri: str
    digest: str
    shards: int = Field(description="shards checked")
    samples: int = Field(description="samples they count: in = kept + dropped + failed")
    bytes: int = Field(description="bytes hashed")
    problems: tuple[str, ...] = Field(description="everything that is not as the manifest says; empty: all is well")


def verify(uri: str) -> Verification:
    """Check a dataset against its manifest: sizes, hashes, commit records, counts, tar trailers, images, captions.

    Raises:
        DataError: there is no readable manifest. Everything else is listed, not raised.
    """
    manifest = load_manifest(uri)
    problems: list[str] = []
    with TemporaryDirectory(prefix="capfilt-verify-") as folder:
        for entry in manifest.shards:
            try:
                problems += [f"shard {entry.name}: {one}" for one in _check_shard(uri, manifest, entry, Path(folder))]
            except (DataError, StorageError) as error:
                problems.append(f"shard {entry.name}: {error}")
    return Verification(
        uri=uri,
        digest=manifest.digest,
        shards=len(manifest.shards),
        samples=manifest.totals.samples,
        bytes=manifest.shards.bytes(),
        problems=tuple(problems),
    )


def shard_rows(uri: str, entry: ShardEntry) -> list[Candidate]:
    """The candidate table of a shard."""
    return stored_candidates(uri, entry.parquet).rows()


def _read(uri: str, record: FileRecord) -> bytes:
    folder, name = split_uri(file_uri(uri, record))
    return open_store(folder).read(name)


@contextlib.contextmanager
def _local(uri: str, record: FileRecord, folder: Path) -> Iterator[Path]:
    """A file of a dataset on this machine: itself, or a copy that is deleted afterwards."""
    where, name = split_uri(file_uri(uri, record))
    store = open_store(where)
    path = store.local_path(name)
    if path is not None:
        if not path.is_file():
            raise DataError(f"{path} is missing")
        yield path
        return
    copy = folder / "copy"
    try:
        store.download(name, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _check_shard(uri: str, manifest: Manifest, entry: ShardEntry, folder: Path) -> Iterator[str]:
    record = commit_of(open_store(uri), entry)
    if record is None or record.entry() != entry:
        yield f"the commit record is {'missing' if record is None else 'not the sealed one'}"
    table = _read(uri, entry.parquet)
    if len(table) != entry.parquet.bytes or sha256_hex(table) != entry.parquet.sha256:
        yield "the candidate table has other bytes than were committed"
        return
    rows = read_candidates(table)
    yield from _check_counts(entry, rows)
    yield from _check_vectors(uri, entry, rows)
    with _local(uri, entry.tar, folder) as tar:
        if tar.stat().st_size != entry.tar.bytes or sha256_file(tar) != entry.tar.sha256:
            yield "the tar has other bytes than were committed"
            return
        yield from _check_tar(manifest, entry, rows, tar)


def _check_vectors(uri: str, entry: ShardEntry, rows: list[Candidate]) -> Iterator[str]:
    """The vectors and the images behind them are those of the table's good images."""
    if entry.vectors is None:
        return
    data = _read(uri, entry.vectors)
    if sha256_hex(data) != entry.vectors.sha256:
        yield "the vectors have other bytes than were committed"
        return
    images = read_images(uri, entry)
    vectors = np.load(io.BytesIO(data), allow_pickle=False)
    if len(vectors) != len(images) or len(images) != entry.counts.kept + entry.counts.dropped:
        good = entry.counts.kept + entry.counts.dropped
        yield f"there are {len(vectors)} vectors of {len(images)} images, and {good} good images"
    digests = {(row.key, row.image_sha256) for row in rows}
    if strange := [one.key for one in images if (one.key, one.image_sha256) not in digests]:
        yield f"{strange[0]}: there is a vector of this image, but no caption"


def _check_counts(entry: ShardEntry, rows: list[Candidate]) -> Iterator[str]:
    pairs = sum(row.kept for row in rows)
    images = len({row.key for row in rows if row.kept})
    if (pairs, images) != (entry.counts.kept_pairs, entry.counts.kept):
        yield (
            f"the candidate table keeps {pairs} pairs of {images} images, counted are {entry.counts.kept_pairs} pairs "
            f"of {entry.counts.kept}"
        )
    for row in rows:
        if row.kept != (row.reason == ""):
            yield f"{row.key}: kept is {row.kept}, but its reason is {row.reason!r}"
            return


def _check_tar(manifest: Manifest, entry: ShardEntry, rows: list[Candidate], tar: Path) -> Iterator[str]:
    """Every kept image is in the tar with the hash of its row; a tar of CapFilt's own holds nothing else."""
    scan = scan_shard(tar, name=entry.name)
    own = not entry.tar.in_place and manifest.kind in ("capfilt", "recut")
    if scan.broken is not None and (own or "broken_shard" not in entry.counts.failed):
        yield f"the tar is broken: {scan.broken}"
    kept: dict[str, list[Candidate]] = {}
    for row in rows:
        if row.kept:
            kept.setdefault(row.key, []).append(row)
    samples = {sample.key: sample for sample in reversed(scan.samples) if sample.problem is None}
    if own and [sample.key for sample in scan.samples] != list(kept):
        yield f"the tar has {len(scan.samples)} samples, not exactly the {len(kept)} that are kept, in their order"
    troubles = (
        f"{key}: {one}" for key, found in kept.items() if (one := _check_sample(tar, samples.get(key), found, own))
    )
    for index, trouble in enumerate(troubles):
        yield trouble
        if index + 1 == _SHOWN:
            yield "… and perhaps more"
            return


def _check_sample(tar: Path, sample: SampleIndex | None, rows: list[Candidate], own: bool) -> str | None:
    """What is wrong with a kept sample, or None."""
    if sample is None or sample.image is None:
        return "it is kept, but the tar has no such image"
    if hashlib.sha256(read_at(tar, *sample.members[sample.image])).hexdigest() != rows[0].image_sha256:
        return "the image is not the one of its row"
    if own and "json" in sample.members:
        captions = json.loads(read_at(tar, *sample.members["json"])).get("captions", [])
        if [one.get("text") for one in captions] != [row.text for row in rows]:
            return "the captions in its json are not the kept ones"
    return None
