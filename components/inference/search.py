"""Words and images as vectors to search with, by the filter that made the stored ones; vectors where there are none."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.common.errors import DataError, ModelError
from components.common.precision import AnyPrecision
from components.common.storage import open_store, sha256_hex
from components.data.candidates import stored_candidates
from components.data.decoding import BadImage, Pixels, decode_image, resize_square
from components.data.fetch import ShardCache
from components.data.manifest import MANIFEST_KEY, load_manifest
from components.data.phash import perceptual_hash
from components.data.pictures import OpenTar, image_files, pictures_of, tars_of
from components.data.records import BadSample, Parent
from components.data.search import INDEX_FOLDER, Floats, IndexPart, IndexRecord, VectorIndex, write_index
from components.data.vectors import ImageRow, write_vectors
from components.data.web.named import is_named
from components.inference.arithmetic import Arithmetic, pick_device
from components.inference.filter import Filter
from components.model.checkpoints.publishing import fetch_model, reference_model
from components.model.checkpoints.weights import load_filter

_IMAGES_PER_PART = 4096
_DECISIVE = ("image_size", "position_zero", "max_words", "max_tokens")
"""Settings of a filter that decide what it says of a text or an image."""


class Encoder:
    """A filter as a maker of vectors for words and images, of length 1 each.

    Args:
        filter: the model.
    """

    def __init__(self, filter: Filter) -> None:
        self.filter = filter

    def words(self, text: str) -> Floats:
        """The vector `[d]` of a text."""
        found: Floats = self.filter.embed_texts([text])[0].numpy()
        return found

    def image(self, data: bytes) -> Floats:
        """The vector `[d]` of an image, given as a file's bytes.

        Raises:
            BadImage: it is none.
        """
        found: Floats = self.filter.embed_images(self.squares([data]))[0].numpy()
        return found

    def match(self, text: str, images: Sequence[bytes]) -> list[float]:
        """The ITM head's probability that a text fits each of some images."""
        scores = self.filter.score(self.squares(images), [[text]] * len(images))
        return [row[0].probability for row in scores]

    def squares(self, images: Sequence[bytes]) -> Pixels:
        """Images as the filter sees them `[B, S, S, 3]`."""
        return np.stack([resize_square(decode_image(data), self.filter.size) for data in images])


def open_encoder(
    index: VectorIndex, cache_dir: Path, *, model: str | None = None, precision: AnyPrecision = "auto"
) -> Encoder:
    """The filter that made an index's vectors, ready to work: of another one, nothing would be near anything.

    Args:
        index: what is searched in.
        cache_dir: for a model that is not on this machine.
        model: where the model lies, if not where it lay when the vectors were made.
        precision: of its arithmetic.

    Raises:
        ModelError: it is not there, or another model is; says what to do.
    """
    wanted, place = index.model, model or index.model.uri
    try:
        found = reference_model(place, "filter")
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(
            f"the filter that made the vectors of {index.root} (version {wanted.digest[:12]}) is not at {place} any "
            "more: name its folder with --model"
        ) from error
    if found.digest != wanted.digest:
        raise ModelError(
            f"{place} is model {found.digest[:12]}, the vectors of {index.root} were made by {wanted.digest[:12]}: "
            f"give that one with --model{f' (it was at {wanted.uri})' if model else ''}, or regenerate the dataset with"
            " yours"
        )
    return Encoder(_open_filter(fetch_model(found.uri, cache_dir), index.config, precision))


def _open_filter(folder: Path, config: Mapping[str, Any], precision: AnyPrecision) -> Filter:
    settings = {name: config[name] for name in _DECISIVE if config.get(name) is not None}
    reading = {name: settings.pop(name) for name in ("max_words", "max_tokens") if name in settings}
    return Filter(load_filter(folder, **settings), Arithmetic(pick_device(), precision), **reading)


class NamedImage(NamedTuple):
    """An image to be indexed."""

    key: str
    data: bytes


def index_images(
    uri: str,
    model: str,
    cache_dir: Path,
    *,
    batch_size: int = 64,
    precision: AnyPrecision = "auto",
    progress: Callable[[int], None] = lambda done: None,
) -> IndexRecord:
    """Vectors for images that have none, written beside them; an older index is replaced when this one is whole.

    Args:
        uri: a folder or prefix of image files or of tars, or a sealed dataset.
        model: the filter.
        cache_dir: for a model that is not on this machine.
        batch_size: images that go through the model at a time.
        precision: of its arithmetic.
        progress: called with the number of images that were done.

    Raises:
        DataError: there is no image that can be used, or single tars are named.
        ModelError: there is no such model.
    """
    if is_named(uri):
        raise DataError(
            f"an index lies beside its images, and {uri} names single tars: index the folder they lie in, or import "
            "them and index that dataset"
        )
    maker = reference_model(model, "filter")
    encoder = Encoder(_open_filter(fetch_model(maker.uri, cache_dir), {}, precision))
    store = open_store(uri).child(INDEX_FOLDER)
    parts, failed = [], list[BadSample]()
    for name, images in _image_sources(uri):
        rows, vectors = _embedded(encoder, images, batch_size, failed, progress)
        if rows:
            written = write_vectors(store, name, rows, np.concatenate(vectors).astype(np.float16))
            parts.append(IndexPart(name=name, vectors=written[0], images=written[1]))
    if not parts:
        raise DataError(f"{uri} has no image that can be used: {len(failed)} were looked at")
    made_by = Parent(role="filter", digest=maker.digest, uri=maker.uri)
    record = IndexRecord(model=made_by, config={}, parts=tuple(parts), failed=tuple(failed))
    write_index(store, record)
    return record


def _embedded(
    encoder: Encoder,
    images: Iterator[NamedImage],
    batch_size: int,
    failed: list[BadSample],
    progress: Callable[[int], None],
) -> tuple[list[ImageRow], list[Floats]]:
    """What is known of the images of a part, and their vectors in batches `[B, d]`; bad ones are noted."""
    rows, vectors = list[ImageRow](), list[Floats]()
    batch = list[Pixels]()

    def embed() -> None:
        if batch:
            vectors.append(_finite(encoder.filter.embed_images(np.stack(batch)).numpy()))
            progress(len(batch))
            batch.clear()

    for image in images:
        try:
            square = resize_square(decode_image(image.data), encoder.filter.size)
        except BadImage as error:
            failed.append(BadSample(key=image.key, reason=error.reason, detail=str(error)))
            progress(1)
            continue
        rows.append(ImageRow(image.key, sha256_hex(image.data), perceptual_hash(square)))
        batch.append(square)
        if len(batch) == batch_size:
            embed()
    embed()
    return rows, vectors


def _finite(vectors: Floats) -> Floats:
    if not np.isfinite(vectors).all():
        raise ModelError("the filter's vectors are not finite: its weights are damaged, or its training diverged")
    return vectors


def _image_sources(uri: str) -> Iterator[tuple[str, Iterator[NamedImage]]]:
    """The images at a URI, part by part: a part is a shard, a tar, or some thousand files."""
    store = open_store(uri)
    if store.exists(MANIFEST_KEY):
        yield from _dataset_images(uri)
        return
    if files := image_files(store):
        for number, start in enumerate(range(0, len(files), _IMAGES_PER_PART)):
            keys = files[start : start + _IMAGES_PER_PART]
            yield f"{number:05d}", (NamedImage(key, store.read(key)) for key in keys)
        return
    cache = ShardCache()
    for name, place in tars_of(uri).items():
        tar = OpenTar(place, cache)
        try:
            yield name, (NamedImage(key, tar.read(key) or b"") for key in tar.places)
        finally:
            tar.close()


def _dataset_images(uri: str) -> Iterator[tuple[str, Iterator[NamedImage]]]:
    """All images of a sealed dataset that have a candidate, kept or not; a dropped one lies where it came from."""
    manifest = load_manifest(uri)
    with contextlib.closing(pictures_of(uri, manifest)) as pictures:
        for entry in manifest.shards:
            keys = dict.fromkeys(stored_candidates(uri, entry.parquet).keys)
            yield entry.name, (NamedImage(key, pictures.read(entry.name, key) or b"") for key in keys)
