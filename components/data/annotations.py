"""The images that a captions file names, by its shape: COCO's, Karpathy's for BLIP, or Karpathy's raw one."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from components.common.errors import DataError
from components.common.seeding import canonical_json


@dataclass(frozen=True)
class HumanImage:
    """An annotated image: where its file is below the image folder, its id in the annotations, what is said of it."""

    key: str
    file_name: str
    image_id: int | str
    captions: tuple[Any, ...]
    place: str = field(default="", compare=False)
    """Where the annotations name it first, e.g. `images[17]`."""


class BadRow(NamedTuple):
    """An entry that is of no use: where, e.g. `annotations[3]`, and why."""

    place: str
    why: str

    def __str__(self) -> str:
        return f"{self.place} {self.why}"


def read_json(data: bytes, where: str) -> Any:
    """What an annotation file holds.

    Raises:
        DataError: it is not JSON, or not UTF-8; says in which line.
    """
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where} is not UTF-8: line {line}: {error.reason}; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error


Read: TypeAlias = "tuple[list[HumanImage], list[BadRow]]"


def read_document(document: Any, where: str, splits: str = "") -> Read:
    """The images of a captions file in its order, without keys yet, and the entries that are of no use.

    Args:
        document: the file's JSON.
        where: what to call it.
        splits: of a raw Karpathy file, the splits to take, with `+` between them.

    Raises:
        DataError: it has none of the known shapes, or no such split.
    """
    images = document.get("images") if isinstance(document, dict) else None
    if isinstance(images, list) and any(isinstance(row, dict) and "sentences" in row for row in images):
        return _raw_karpathy(_of_splits(images, where, splits))
    if splits:
        raise DataError(f"{where} has no splits to choose from: only Karpathy's raw files have (dataset_coco.json …)")
    if isinstance(images, list):
        return _coco(document, where)
    if isinstance(document, list):
        return _karpathy(document)
    raise DataError(
        f"{where} is neither COCO captions ({{images: […], annotations: […]}}) nor Karpathy ([{{image, caption}}])"
    )


def _coco(document: dict[str, Any], where: str) -> Read:
    annotations, faults = document.get("annotations"), list[BadRow]()
    if not isinstance(annotations, list):
        raise DataError(f"{where} has images but no `annotations` list: is it a captions file?")
    files, places = _coco_files(document["images"], where, faults)
    captions: dict[str, list[Any]] = {}
    for at, row in enumerate(annotations):
        place = f"annotations[{at}]"
        if not isinstance(row, dict) or "image_id" not in row or "caption" not in row:
            faults.append(BadRow(place, "lacks image_id or caption; instances and keypoints won't do"))
        elif (one := canonical_json(row["image_id"])) not in files:
            faults.append(BadRow(place, f"is about image {one}, which has no entry in `images`"))
        else:
            captions.setdefault(one, []).append(row["caption"])
    found = _Gathered()
    for one, name in files.items():
        found.add(name, json.loads(one), captions.get(one, []), places[one])
    return list(found.images.values()), faults


def _coco_files(rows: list[Any], where: str, faults: list[BadRow]) -> tuple[dict[str, str], dict[str, str]]:
    """Files of images by their ids, and where those stand."""
    files, places = dict[str, str](), dict[str, str]()
    for at, row in enumerate(rows):
        place = f"images[{at}]"
        if not isinstance(row, dict) or not _is_name(row.get("file_name")) or "id" not in row:
            faults.append(BadRow(place, "lacks id or file_name"))
            continue
        one = canonical_json(row["id"])
        if files.setdefault(one, row["file_name"]) != row["file_name"]:
            raise DataError(
                f"{where}: image id {one} stands for two files, {files[one]!r} and {row['file_name']!r}: its captions "
                "could belong to either; give each file an id of its own"
            )
        places.setdefault(one, place)
    return files, places


class _Gathered:
    """Captions of images by their files, in the order of the first entry that names each."""

    def __init__(self) -> None:
        self.images: dict[str, HumanImage] = {}

    def add(self, name: str, one: Any, texts: list[Any], place: str) -> None:
        image = self.images.get(name) or HumanImage("", name, _plain_id(one), (), place)
        self.images[name] = replace(image, captions=(*image.captions, *texts))


def _karpathy(document: list[Any]) -> Read:
    found, faults = _Gathered(), list[BadRow]()
    for at, row in enumerate(document):
        if not isinstance(row, dict) or not _is_name(row.get("image")) or "caption" not in row:
            faults.append(BadRow(f"row {at}", "lacks image or caption"))
            continue
        texts = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        found.add(row["image"], row.get("image_id", row["image"]), texts, f"row {at}")
    return list(found.images.values()), faults


def _raw_karpathy(rows: Iterator[tuple[int, Any]]) -> Read:
    found, faults = _Gathered(), list[BadRow]()
    for at, row in rows:
        sentences = row.get("sentences") if isinstance(row, dict) else None
        if not isinstance(sentences, list) or not _is_name(row.get("filename")):
            faults.append(BadRow(f"images[{at}]", "lacks filename or sentences"))
            continue
        folder = row.get("filepath")
        name = f"{folder.rstrip('/')}/{row['filename']}" if isinstance(folder, str) and folder else row["filename"]
        texts = [one.get("raw") if isinstance(one, dict) else one for one in sentences]
        found.add(name, row.get("cocoid", row.get("imgid", name)), texts, f"images[{at}]")
    return list(found.images.values()), faults


def _of_splits(rows: list[Any], where: str, splits: str) -> Iterator[tuple[int, Any]]:
    """The entries of the wanted splits with their numbers; those that belong to none are handed out to be told."""
    there = Counter(filter(None, map(_split_of, rows)))
    listed = ", ".join(f"{name} ({count:,})" for name, count in there.items())
    wanted = splits.split("+") if splits else list(there)
    if len(there) > 1 and not splits:
        raise DataError(
            f"{where} holds several splits, {listed}: say which with FILE#SPLIT+SPLIT, e.g. {where}#train+restval, so "
            "that none is trained on that shall test"
        )
    if unknown := [name for name in wanted if name not in there]:
        raise DataError(f"{where} has no split {', '.join(map(repr, unknown))}: it has {listed}")
    return ((at, row) for at, row in enumerate(rows) if _split_of(row) in ("", *wanted))


def _split_of(row: Any) -> str:
    return str(row.get("split", "")) if isinstance(row, dict) else ""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _plain_id(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)
