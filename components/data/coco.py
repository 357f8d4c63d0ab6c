"""Import human captions: a COCO captions JSON or a Karpathy JSON with its images becomes a sharded dataset.

Known by their shape (docs/facts.md 10):

    COCO            {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    Karpathy train  [{"image": path, "caption": text, "image_id"}], a row per caption
    Karpathy test   [{"image": path, "caption": [texts]}], a row per image
    Karpathy raw    {"dataset", "images": [{"filename", "filepath", "split", "sentences": [{"raw"}]}]}, as
                    dataset_coco.json; which splits are meant says `dataset_coco.json#train+restval`

All captions are kept, as candidates of source `human`. Images are copied bit by bit. A sample's key is its file's
name without extension (dots and letters beyond ASCII become `_`), so that the COCO and the Karpathy form of a split
give the same keys; names that would become one key get 8 digits of a hash behind it. One file is one image: entries
that name it again add their captions to the first. An entry that is of no use does not end the import: it is told with
file and place, and listed among the dataset's failed samples.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from components.common.contracts import DatasetRef
from components.common.errors import DataError
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri, open_store, sha256_hex, split_uri
from components.data.annotations import HumanImage, read_document, read_json
from components.data.candidates import Candidate, text_problem
from components.data.decoding import BadImage
from components.data.imports import ImageImport, imported_once
from components.data.manifest import BadSample, ShardRecord
from components.data.publish import ShardBuilder, check_sizes
from components.data.shards import IMAGE_EXTENSIONS

REVISION = 2  # counts changes of what the same input becomes


@dataclass(frozen=True)
class Annotations:
    """An annotation file as read: where it lies, a digest of it and of the splits taken, its images in order."""

    where: str
    sha256: str
    images: tuple[HumanImage, ...]
    faults: tuple[BadSample, ...] = ()
    """Entries that are of no use."""


def import_coco(
    annotations_uri: str,
    images_uri: str,
    *,
    store: Store,
    name: str,
    shard_size: int = 1000,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    expect: Callable[[int], object] | None = None,
) -> DatasetRef:
    """Make a dataset of annotations and images, or find it made.

    Args:
        annotations_uri: the JSON file; of a raw Karpathy file some splits, `FILE#train+restval`.
        images_uri: folder or S3 prefix that the annotations' file names are relative to.
        store: root of the project's store.
        name: the dataset's name.
        shard_size: images per shard.
        limit: use the first so many images only.
        threads: that read and decode (default: one per CPU).
        progress: called with the number of images just done.
        expect: called with the number of all of them, before the first is done.

    Raises:
        DataError: before any work, if the JSON or the image folder is missing or of no use; afterwards, if more than
            half of the images cannot be used.
    """
    check_sizes(shard_size, limit)
    annotations = read_annotations(annotations_uri, limit)
    images, where, source = annotations.images, annotations.where, open_store(images_uri)
    sizes = image_sizes(source, annotations)
    # Sizes stand for the images' contents: to hash every image only to find a dataset done would cost as much as the
    # import, and the tars' own sha256 say what was imported.
    plan = {
        "kind": "human",
        "revision": REVISION,
        "annotations_sha256": annotations.sha256,
        "images": sizes_digest(sizes),
        "shard_size": shard_size,
        "limit": limit,
    }

    def work(target: Store) -> list[ShardRecord]:
        if expect is not None:
            expect(len(images))
        found = FolderImport(annotations, source, target, sizes, threads=threads, progress=progress)
        return found.run(images, shard_size)

    return imported_once(store, name, "human", plan, where, work)


def read_annotations(uri: str, limit: int | None = None) -> Annotations:
    """Read an annotation file, and keep its first `limit` images.

    Args:
        uri: the file; of a raw Karpathy file `FILE#train+restval` are the images of these splits.
        limit: images to keep.

    Raises:
        DataError: it is missing, or not what it must be.
    """
    (folder, key), splits = split_uri(uri), ""
    source = open_store(folder)
    if not source.exists(key) and "#" in key:
        key, _, splits = key.rpartition("#")
    if not source.exists(key):
        raise DataError(f"{join_uri(source.uri, key)} is no file: give a COCO captions JSON or a Karpathy JSON")
    found = parse_annotations(source.read(key), join_uri(source.uri, key), splits)
    return replace(found, images=found.images[:limit])


def parse_annotations(data: bytes, where: str = "annotations", splits: str = "") -> Annotations:
    """The images of an annotation file in its order, each with all its captions, and the entries that are of no use.

    Args:
        data: the file.
        where: what to call it.
        splits: of a raw Karpathy file, the splits to take, with `+` between them.

    Raises:
        DataError: it is not JSON or has none of the known shapes; says where.
    """
    rows, faults = read_document(read_json(data, where), where, splits)
    if not rows:
        raise DataError(f"{where} names no images{f'; for example {faults[0]}' if faults else ''}")
    if not any(text_problem(text) is None for row in rows for text in row.captions):
        example = f"; for example {faults[0]}" if faults else ""
        raise DataError(
            f"{where}: not one of its {len(rows)} images has a usable caption: is it a captions file?{example}"
        )
    name, sha256 = where.rpartition("/")[2], sha256_hex(data)
    bad = (
        BadSample(key=f"{name} {fault.place}", reason="bad_row", detail=f"{where}: {fault}"[:300]) for fault in faults
    )
    place = f"{where}#{splits}" if splits else where
    return Annotations(place, digest_of([sha256, splits]) if splits else sha256, tuple(with_keys(rows)), tuple(bad))


def with_keys(rows: Sequence[HumanImage]) -> list[HumanImage]:
    """Give every image its key: the file's name, or its whole path where two folders have files of one name."""
    short = [_key_of(PurePosixPath(row.file_name).name) for row in rows]
    keys = short if len(set(short)) == len(short) else [_key_of(row.file_name) for row in rows]
    times = Counter(keys)
    return [
        replace(row, key=key if times[key] == 1 else f"{key}-{_tag(row.file_name)}")
        for row, key in zip(rows, keys, strict=True)
    ]


def _tag(file_name: str) -> str:
    return sha256_hex(file_name.encode("utf-8", "surrogatepass"))[:8]


def _key_of(file_name: str) -> str:
    stem = file_name.rpartition(".")[0] or file_name
    return re.sub(r"[^A-Za-z0-9_-]", "_", stem)


def image_sizes(source: Store, annotations: Annotations) -> dict[str, int | None]:
    """Size of every image's file by its name, None where it is missing.

    Raises:
        DataError: the folder is missing, or lacks more than half of the files.
    """
    images = annotations.images
    root = source.local_path("")
    if root is None:
        listed: dict[str, int | None] = {info.key: info.size for info in source.list()}
        sizes = {image.file_name: listed.get(image.file_name) for image in images}
    else:
        if not root.is_dir():
            raise DataError(f"there is no image folder {source.uri}")
        sizes = {}
        for image in images:
            path = root / image.file_name
            sizes[image.file_name] = path.stat().st_size if _is_safe(image.file_name) and path.is_file() else None
    missing = [name for name, size in sizes.items() if size is None]
    if 2 * len(missing) > len(sizes):
        what = "none" if len(missing) == len(sizes) else f"only {len(sizes) - len(missing)} of {len(sizes)}"
        raise DataError(
            f"{source.uri} has {what} of the images that {annotations.where} names ({missing[0]!r}, for example, "
            "is not there): is it the right folder?"
        )
    return sizes


def sizes_digest(sizes: Mapping[str, int | None]) -> str:
    """Digest of which image files are there, and how large they are."""
    return digest_of([[name, size] for name, size in sizes.items()])


def _is_safe(file_name: str) -> bool:
    return not file_name.startswith("/") and ".." not in file_name.split("/") and "\0" not in file_name


class FolderImport(ImageImport[HumanImage]):
    """The work of one import of annotated images.

    Args:
        annotations: what is said of the images.
        source: the image folder.
        target: the dataset.
        sizes: of the image files, None where one is missing.
        threads, progress: as of every import.
    """

    def __init__(
        self,
        annotations: Annotations,
        source: Store,
        target: Store,
        sizes: dict[str, int | None],
        *,
        threads: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        where = f"{annotations.where} with {source.uri}"
        super().__init__(where, source, target, threads=threads, progress=progress, faults=annotations.faults)
        self.annotations, self.sizes = annotations, sizes

    def place(self, item: HumanImage) -> str:
        return f"{self.annotations.where}: {item.place}"

    def read(self, item: HumanImage) -> bytes | BadSample:
        if not _is_safe(item.file_name):
            return self.bad(item, "unsafe_name", f"{item.file_name!r} lies outside of the image folder")
        where = join_uri(self.source.uri, item.file_name)
        if self.sizes[item.file_name] is None:
            return self.bad(item, "missing_image", f"{where} does not exist")
        found = self.look(item.file_name)
        if found is None:
            return self.bad(item, "missing_image", f"{where} was removed while the import ran")
        if isinstance(found, BadImage):
            return self.bad(item, found.reason, f"{where}: {found}")
        return found

    def add(self, builder: ShardBuilder, item: HumanImage, data: bytes) -> None:
        digest = sha256_hex(data)
        rows = []
        for caption in item.captions or (None,):
            trouble = text_problem(caption)
            if trouble is not None:
                self.tell(f"{self.place(item)}: caption of {item.file_name} is {caption!r:.60} ({trouble})")
            text = "" if trouble else str(caption).strip()
            rows.append(Candidate(item.key, digest, "human", text, None, None, trouble is None, trouble or ""))
        kept = [row.text for row in rows if row.kept]
        document = {
            "key": item.key,
            "image_id": item.image_id,
            "file_name": item.file_name,
            "sha256": digest,
            "captions": [{"text": text, "source": "human"} for text in kept],
        }
        members = {
            extension_of(item.file_name): data,
            "json": json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace"),
            "txt": kept[0].encode() if kept else b"",
        }
        builder.add(item.key, rows, members)


def extension_of(file_name: str) -> str:
    """What an image's member is called in a shard."""
    extension = PurePosixPath(file_name).suffix[1:].lower()
    return extension if extension in IMAGE_EXTENSIONS else "jpg"
