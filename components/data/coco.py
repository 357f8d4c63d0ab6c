"""Import human captions: a COCO captions JSON or a Karpathy JSON with its images becomes a sharded dataset.

Known by their shape (docs/facts.md 10):

    COCO            {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    Karpathy train  [{"image": path, "caption": text, "image_id"}], a row per caption
    Karpathy test   [{"image": path, "caption": [texts]}], a row per image

All captions are kept, as candidates of source `human`. Images are copied bit by bit. A sample's key is its file's
name without extension (dots and letters beyond ASCII become `_`), so that the COCO and the Karpathy form of a split
give the same keys; names that would become one key get 8 digits of a hash behind it. One file is one image: entries
that name it again add their captions to the first.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from components.common.contracts import DatasetRef
from components.common.errors import DataError, StorageError
from components.common.seeding import canonical_json, digest_of
from components.common.storage import Store, join_uri, open_store, sha256_hex, split_uri
from components.data.candidates import Candidate, text_problem
from components.data.decoding import BadImage, decode_image
from components.data.health import Health
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
from components.data.publish import ShardBuilder, check_sizes
from components.data.shards import IMAGE_EXTENSIONS

REVISION = 2  # counts changes of what the same input becomes


@dataclass(frozen=True)
class Annotations:
    """An annotation file as read: where it lies, its sha256, and its images in order."""

    where: str
    sha256: str
    images: tuple["HumanImage", ...]


@dataclass(frozen=True)
class HumanImage:
    """An annotated image: where its file is below the image folder, its id in the annotations, what is said of it."""

    key: str
    file_name: str
    image_id: int | str
    captions: tuple[Any, ...]


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
) -> DatasetRef:
    """Make a dataset of annotations and images, or find it made.

    Args:
        annotations_uri: the JSON file.
        images_uri: folder or S3 prefix that the annotations' file names are relative to.
        store: root of the project's store.
        name: the dataset's name.
        shard_size: images per shard.
        limit: use the first so many images only.
        threads: that read and decode (default: one per CPU).
        progress: called with the number of images just done.

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
    target = dataset_store(store, name, digest_of(plan))
    fingerprint = plan_dataset(target, plan)
    if (found := find_dataset(target)) is not None:
        return found
    health = Health(f"{where} with {source.uri}")
    work = FolderImport(source, target, sizes, health, threads or default_threads(), progress or (lambda _: None))
    records = work.run(images, shard_size)
    config = {"revision": REVISION, "shard_size": shard_size, "limit": limit}
    return seal_dataset(target, Provenance(name, "human", config, fingerprint, origin=where), records)


def read_annotations(uri: str, limit: int | None = None) -> Annotations:
    """Read an annotation file, and keep its first `limit` images.

    Raises:
        DataError: it is missing, or not what it must be.
    """
    folder, key = split_uri(uri)
    source = open_store(folder)
    where = join_uri(source.uri, key)
    if not source.exists(key):
        raise DataError(f"{where} is no file: give a COCO captions JSON or a Karpathy JSON")
    data = source.read(key)
    return Annotations(where, sha256_hex(data), tuple(parse_annotations(data, where)[:limit]))


def parse_annotations(data: bytes, where: str = "annotations") -> list[HumanImage]:
    """The images of an annotation file in its order, each with all its captions.

    Raises:
        DataError: it is not JSON or has none of the known shapes; says where.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("images"), list):
        rows = _coco_rows(document, where)
    elif isinstance(document, list):
        rows = _karpathy_rows(document, where)
    else:
        raise DataError(
            f"{where} is neither COCO captions ({{images: […], annotations: […]}}) nor Karpathy ([{{image, caption}}])"
        )
    if not rows:
        raise DataError(f"{where} names no images")
    if not any(text_problem(text) is None for row in rows for text in row.captions):
        raise DataError(f"{where}: not one of its {len(rows)} images has a usable caption: is it a captions file?")
    return with_keys(rows)


def _coco_rows(document: dict[str, Any], where: str) -> list[HumanImage]:
    annotations = document.get("annotations")
    if not isinstance(annotations, list):
        hint = (
            "this is the raw Karpathy file, give the one for BLIP"
            if "dataset" in document
            else "is it a captions file?"
        )
        raise DataError(f"{where} has images but no `annotations` list: {hint}")
    captions: dict[Any, list[Any]] = {}
    for at, row in enumerate(annotations):
        if not isinstance(row, dict) or "image_id" not in row or "caption" not in row:
            raise DataError(f"{where}: annotations[{at}] lacks image_id or caption; instances and keypoints won't do")
        captions.setdefault(canonical_json(row["image_id"]), []).append(row["caption"])
    files: dict[str, str] = {}
    for at, row in enumerate(document["images"]):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or "id" not in row:
            raise DataError(f"{where}: images[{at}] lacks id or file_name")
        one = canonical_json(row["id"])
        if files.setdefault(one, row["file_name"]) != row["file_name"]:
            raise DataError(
                f"{where}: image id {one} stands for two files, {files[one]!r} and {row['file_name']!r}: its captions "
                "could belong to either; give each file an id of its own"
            )
    if missing := [one for one in captions if one not in files]:
        raise DataError(f"{where}: {len(missing)} image ids have captions but no entry in `images`: {missing[:3]}")
    images: dict[str, HumanImage] = {}
    for one, name in files.items():
        image = images.get(name) or HumanImage("", name, _plain_id(json.loads(one)), ())
        images[name] = replace(image, captions=(*image.captions, *captions.get(one, ())))
    return list(images.values())


def _karpathy_rows(document: list[Any], where: str) -> list[HumanImage]:
    captions: dict[str, list[Any]] = {}
    ids: dict[str, int | str] = {}
    for at, row in enumerate(document):
        if not isinstance(row, dict) or not isinstance(row.get("image"), str) or "caption" not in row:
            raise DataError(f"{where}: row {at} lacks image or caption")
        texts = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        captions.setdefault(row["image"], []).extend(texts)
        ids.setdefault(row["image"], _plain_id(row.get("image_id", row["image"])))
    return [HumanImage("", name, ids[name], tuple(texts)) for name, texts in captions.items()]


def _plain_id(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)


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


Add = Callable[[ShardBuilder, HumanImage, bytes], None]
"""Writes one image with what is said of it."""


class FolderImport:
    """The work of one import of annotated images: shard after shard, finished ones found by their commit.

    Args:
        source: the image folder.
        target: the dataset.
        sizes: of the image files, None where one is missing.
        health: adds up what could be used.
        threads: that read and decode.
        progress: called with the number of images just done.
        add: writes an image with what is said of it; its captions by default.
        faults: entries of the annotations that are of no use, listed by the first shard.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        sizes: dict[str, int | None],
        health: Health,
        threads: int,
        progress: Callable[[int], object],
        *,
        add: Add | None = None,
        faults: Sequence[BadSample] = (),
    ) -> None:
        self.source, self.target, self.sizes, self.threads, self.progress = source, target, sizes, threads, progress
        self.committed = recall(target)
        self.health = health
        self._add, self._faults = add or _add, faults

    def run(self, images: Sequence[HumanImage], shard_size: int) -> list[ShardRecord]:
        """Make all shards.

        Raises:
            DataError: more than half of the images cannot be used.
        """
        parts = [images[start : start + shard_size] for start in range(0, len(images), shard_size)]
        records = [self.shard(f"{index:05d}", part, first=index == 0) for index, part in enumerate(parts)]
        self.health.refuse()
        return records

    def shard(self, name: str, images: Sequence[HumanImage], *, first: bool = False) -> ShardRecord:
        """Make one shard, or find it committed."""
        record = self._shard(name, images, self._faults if first else ())
        self.health.look(record)
        return record

    def _shard(self, name: str, images: Sequence[HumanImage], faults: Sequence[BadSample]) -> ShardRecord:
        if (record := self.committed.get(name)) is not None:
            self.progress(len(images))
            return record
        with ShardBuilder(self.target, name) as builder:
            for fault in faults:
                builder.fail(fault.key, fault.reason, fault.detail)
            for image, data in zip(images, ordered_map(self._read, images, threads=self.threads), strict=True):
                if isinstance(data, tuple):
                    builder.fail(image.key, *data)
                else:
                    self._add(builder, image, data)
                self.progress(1)
            return builder.commit()

    def _read(self, image: HumanImage) -> bytes | tuple[str, str]:
        """The file's bytes, if they are an image; else the reason and what was found."""
        if not _is_safe(image.file_name):
            return "unsafe_name", image.file_name
        where = join_uri(self.source.uri, image.file_name)
        if self.sizes[image.file_name] is None:
            return "missing_image", f"{where} does not exist"
        try:
            data = self.source.read(image.file_name)
            decode_image(data)
        except BadImage as error:
            return error.reason, f"{where}: {error}"
        except StorageError:
            if self.source.exists(image.file_name):
                raise
            return "missing_image", f"{where} was removed while the import ran"
        return data


def _add(builder: ShardBuilder, image: HumanImage, data: bytes) -> None:
    """Write one image with its captions."""
    digest = sha256_hex(data)
    rows = []
    for caption in image.captions or (None,):
        trouble = text_problem(caption)
        text = "" if trouble else str(caption).strip()
        rows.append(Candidate(image.key, digest, "human", text, None, None, trouble is None, trouble or ""))
    kept = [row.text for row in rows if row.kept]
    document = {
        "key": image.key,
        "image_id": image.image_id,
        "file_name": image.file_name,
        "sha256": digest,
        "captions": [{"text": text, "source": "human"} for text in kept],
    }
    members = {
        extension_of(image.file_name): data,
        "json": json.dumps(document, ensure_ascii=False).encode(),
        "txt": kept[0].encode() if kept else b"",
    }
    builder.add(image.key, rows, members)


def extension_of(file_name: str) -> str:
    """What an image's member is called in a shard."""
    extension = PurePosixPath(file_name).suffix[1:].lower()
    return extension if extension in IMAGE_EXTENSIONS else "jpg"
