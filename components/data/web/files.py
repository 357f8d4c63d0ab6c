"""Import a folder of images with their texts beside them, as img2dataset's `--output_format files` leaves it.

    00000/000000000.jpg, .txt, .json    a sample, as the members of one name in a tar are
    00000.parquet, 00000_stats.json     img2dataset's own, not needed

Samples are found by the rules of tars (the package's table), and so are their texts; all members are copied bit by bit
into shards. A key is the file's name, or its whole path where two folders have files of one name.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from components.common.contracts import DatasetRef
from components.common.errors import DataError
from components.common.seeding import digest_of
from components.common.storage import ObjectInfo, Store, join_uri, open_store, sha256_hex
from components.data.decoding import BadImage
from components.data.imports import ImageImport, imported_once
from components.data.manifest import BadSample, ShardRecord
from components.data.publish import ShardBuilder, check_sizes
from components.data.records import storable
from components.data.search import INDEX_FOLDER
from components.data.shards import images_among, only_image, split_name
from components.data.web.texts import text_members, unjudged, web_texts

logger = logging.getLogger(__name__)

REVISION = 1  # counts changes of what the same input becomes


@dataclass(frozen=True)
class FileSample:
    """Files of one name.

    Attributes:
        key: the sample's.
        place: the files' path without their extensions.
        members: files by their extensions, with their sizes.
    """

    key: str
    place: str
    members: dict[str, ObjectInfo] = field(default_factory=dict)


def import_files(
    uri: str,
    *,
    store: Store,
    name: str,
    shard_size: int = 1000,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    expect: Callable[[int], object] | None = None,
) -> DatasetRef:
    """Make a dataset of a folder's images and texts, or find it made; interrupted, it goes on with the next shard.

    Args:
        uri: folder or S3 prefix.
        store: root of the project's store.
        name: the dataset's name.
        shard_size: images per shard.
        limit: use the first so many images only.
        threads: that read and decode (default: one per CPU).
        progress: called with the number of images just done.
        expect: called with the number of all of them, before the first is done.

    Raises:
        DataError: there are no images, or more than half of them cannot be used.
    """
    check_sizes(shard_size, limit)
    source = open_store(uri)
    samples = list_samples(source)[:limit]
    sizes = [
        [one.place, [[extension, one.members[extension].size] for extension in sorted(one.members)]] for one in samples
    ]
    plan = {"kind": "files", "revision": REVISION, "files": digest_of(sizes), "shard_size": shard_size, "limit": limit}

    def work(target: Store) -> list[ShardRecord]:
        if expect is not None:
            expect(len(samples))
        return _FilesImport(source.uri, source, target, threads=threads, progress=progress).run(samples, shard_size)

    return imported_once(store, name, "web", plan, source.uri, work)


def list_samples(source: Store) -> list[FileSample]:
    """The images below a folder with what lies beside them, in the order of their paths.

    Raises:
        DataError: there are none.
    """
    root = source.local_path("")
    if root is not None and not root.is_dir():
        raise DataError(f"there is no folder {source.uri}")
    found: dict[str, FileSample] = {}
    for place, extension, info in _members(source):
        found.setdefault(place, FileSample("", place)).members[extension] = info
    samples = [one for one in found.values() if images_among(one.members)]
    if not samples:
        raise DataError(f"{source.uri} holds no images; tars are imported with `capfilt dataset import-web`")
    if alone := len(found) - len(samples):
        logger.warning("%s: %d names have texts but no image; they are no samples", source.uri, alone)
    short = [one.place.rpartition("/")[2] for one in samples]
    keys = short if len(set(short)) == len(short) else [one.place for one in samples]
    return [FileSample(storable(key), one.place, one.members) for key, one in zip(keys, samples, strict=True)]


def _members(source: Store) -> Iterator[tuple[str, str, ObjectInfo]]:
    """Files that may belong to samples: path, extension, size."""
    for info in source.list():
        hidden = any(part.startswith(".") for part in info.key.split("/"))
        named = None if hidden or info.key.startswith(f"{INDEX_FOLDER}/") else split_name(info.key)
        if named is None or named[0].endswith("_stats") or not _is_wanted(named[1]):
            continue
        yield *named, info


def _is_wanted(extension: str) -> bool:
    return bool(images_among([extension])) or text_members([extension], None) != (None, ())


class _FilesImport(ImageImport[FileSample]):
    """The work of one import."""

    def place(self, item: FileSample) -> str:
        return join_uri(self.source.uri, item.place)

    def read(self, item: FileSample) -> bytes | BadSample:
        image = only_image(item.members)
        if image is None:
            names = ", ".join(sorted(item.members))
            return self.bad(item, "several_images", f"extensions: {names}")
        found = self.look(item.members[image].key)
        if found is None:
            return self.bad(item, "missing_image", "it was removed while the import ran")
        return self.bad(item, found.reason, str(found)) if isinstance(found, BadImage) else found

    def add(self, builder: ShardBuilder, item: FileSample, data: bytes) -> None:
        image = str(only_image(item.members))
        members = {image: data} | self._texts(item, image)
        texts, digest = web_texts(members, image), sha256_hex(data)
        if texts[0].problem is not None:
            self.tell(f"{self.place(item)}: text is {texts[0].text!r} ({texts[0].problem})")
        rows = unjudged(item.key, digest, texts)
        builder.add(item.key, rows, members)

    def _texts(self, item: FileSample, image: str) -> dict[str, bytes]:
        json_name, names = text_members(item.members, image)
        wanted: Sequence[str] = [name for name in (json_name, *names) if name is not None]
        return {name: self.source.read(item.members[name].key) for name in wanted}
