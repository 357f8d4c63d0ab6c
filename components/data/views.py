"""A dataset's shard opened for reading: its kept pairs, and the bytes of its images."""

import json
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.common.contracts import DatasetRef
from components.common.errors import DataError
from components.common.storage import sha256_hex
from components.data.candidates import stored_candidates
from components.data.fetch import ShardCache
from components.data.manifest import Manifest, file_uri, load_manifest
from components.data.records import KEPT_WEIGHT, ShardEntry
from components.data.shards import SampleIndex, scan_shard


@dataclass(frozen=True)
class ImagePlace:
    """An image in an open tar."""

    key: str
    sha256: str
    offset: int
    size: int
    fields: tuple[int, int] | None = None
    """Offset and size of the sample's json, if it has one."""

    @property
    def image_id(self) -> int:
        """A number of 63 bits that the image's bytes decide: the same image in two datasets has one id."""
        return int(self.sha256[:16], 16) >> 1


class ShardView:
    """The kept pairs of one shard, in the order of its candidate table.

    Attributes:
        images: the images that have a kept caption.
        pairs: per kept caption the number of its image in `images`, its number among that image's, and its text.
        weights: their weights; None where all weigh 1.
    """

    def __init__(self, root: str, entry: ShardEntry, cache: ShardCache) -> None:
        self.where = file_uri(root, entry.tar)
        with cache.opened(self.where, entry.tar) as handle:
            self._handle = handle
            places = _image_places(f"/proc/self/fd/{handle}", self.where)
            self.images: list[ImagePlace] = []
            self.pairs: list[tuple[int, int, str]] = []
            table = stored_candidates(root, entry.parquet)
            self._collect(table.kept(), places)
        weights = np.asarray(table.kept_weights(), dtype=np.float64)
        self.weights = None if (weights == 1).all() else weights
        self._reach = None if self.weights is None else self.weights.cumsum()
        weakref.finalize(self, os.close, handle)
        if len(self.pairs) != entry.counts.kept_pairs:
            raise DataError(f"{self.where}: {len(self.pairs)} kept captions, the manifest says {entry.counts}")

    def _collect(self, rows: Iterator[tuple[str, str, str]], places: dict[str, SampleIndex]) -> None:
        at: dict[str, int] = {}
        captions: list[int] = []
        for key, digest, text in rows:
            number = at.get(key)
            if number is None:
                sample = places.get(key)
                if sample is None or sample.image is None:
                    raise DataError(f"{self.where} has no image {key!r}: tar and candidate table do not fit")
                number = at[key] = len(self.images)
                place = sample.members[sample.image]
                self.images.append(ImagePlace(key, digest, *place, sample.members.get("json")))
                captions.append(0)
            self.pairs.append((number, captions[number], text))
            captions[number] += 1

    def pick(self, slot: int, slots: int, offset: float) -> int:
        """Which pair one of a shard's `slots` has in an epoch: by weight, each as often as its share of them is long.

        Args:
            slot: 0 … slots - 1.
            slots: as many as pairs, where all weigh the same; then slot and pair are one.
            offset: 0 … 1, the same for all slots of an epoch: which pairs have the remainders.
        """
        if self._reach is None:
            return slot
        at = int(np.searchsorted(self._reach, (slot + offset) / slots * self._reach[-1], side="right"))
        return min(at, len(self.pairs) - 1)

    def read(self, image: ImagePlace) -> bytes:
        """An image's bytes.

        Raises:
            DataError: they are not the ones that were imported.
        """
        data = os.pread(self._handle, image.size, image.offset)
        if sha256_hex(data) != image.sha256:
            raise DataError(f"{self.where}: image {image.key!r} changed since it was imported; import the data again")
        return data

    def fields(self, image: ImagePlace) -> dict[str, Any]:
        """The json of an image's sample.

        Raises:
            DataError: there is none, or it is no JSON object.
        """
        data = os.pread(self._handle, image.fields[1], image.fields[0]) if image.fields is not None else b""
        try:
            fields = json.loads(data)
        except ValueError as error:
            raise DataError(f"{self.where}: no json of {image.key!r} ({error}); import the data again") from error
        if not isinstance(fields, dict):
            raise DataError(f"{self.where}: the json of {image.key!r} is no object; import the data again")
        return fields


def slots_of(entry: ShardEntry) -> int:
    """How often an epoch comes to a shard: once for each pair, or as often as its pairs weigh together."""
    weight = entry.metrics.get(KEPT_WEIGHT)
    if weight is None or not entry.counts.kept_pairs:
        return entry.counts.kept_pairs
    return max(1, round(weight))


def _image_places(path: str, where: str) -> dict[str, SampleIndex]:
    """The tar's usable samples. A break behind them was counted when the dataset was made."""
    samples = scan_shard(path, name=where).samples
    return {sample.key: sample for sample in samples if sample.problem is None}


def checked_manifest(ref: DatasetRef) -> Manifest:
    """The manifest of a dataset, if it is the version the reference names.

    Raises:
        DataError: another version lies there.
    """
    manifest = load_manifest(ref.uri)
    if manifest.digest != ref.digest:
        raise DataError(
            f"{ref.uri} holds version {manifest.digest[:12]} of {ref.name}, not {ref.digest[:12]}: it was made again;"
            " start the run again so that it takes the new one"
        )
    return manifest


@dataclass(frozen=True)
class EvalImage:
    """An image, as a file's bytes, with all its kept captions."""

    key: str
    image: bytes
    captions: tuple[str, ...]


def iterate_images(ref: DatasetRef, *, cache_dir: Path | None = None) -> Iterator[EvalImage]:
    """All pictures of a dataset that have a kept caption, in its order."""
    cache = ShardCache(cache_dir)
    for entry in checked_manifest(ref).shards:
        view = ShardView(ref.uri, entry, cache)
        captions: list[list[str]] = [[] for _ in view.images]
        for number, _, text in view.pairs:
            captions[number].append(text)
        for image, texts in zip(view.images, captions, strict=True):
            yield EvalImage(image.key, view.read(image), tuple(texts))


def load_eval_set(ref: DatasetRef, cache_dir: Path | None = None) -> list[EvalImage]:
    """All pictures of a dataset in memory, for evaluation: the encoded files, some 20 kB each."""
    return list(iterate_images(ref, cache_dir=cache_dir))
