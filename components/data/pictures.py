"""Images by shard and key, read by offset from the tars where they lie: a few tars are open at a time.

A dataset's own tars lack the images of which no text was kept; those are in the tars that it was made from. A tar on S3
comes into the cache once (fetch.py), since its headers lie between its images.
"""

import io
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from components.common.errors import DataError, StorageError
from components.common.storage import Store, join_uri, open_store, split_uri
from components.data.fetch import ShardCache
from components.data.manifest import MANIFEST_KEY, Manifest, file_uri, load_manifest
from components.data.records import FileRecord
from components.data.search import INDEX_FOLDER
from components.data.shards import IMAGE_EXTENSIONS, scan_shard
from components.data.web.listing import list_tars
from components.data.web.named import is_named

Place = tuple[int, int]
"""Byte offset and size of an image in its tar."""


class TarPlace(NamedTuple):
    """A tar and, where a dataset vouches for it, what it must be."""

    uri: str
    record: FileRecord | None


def tars_of(uri: str, manifest: Manifest | None = None) -> dict[str, TarPlace]:
    """The tars of a sealed dataset, or of any folder or prefix, by the names of their shards.

    Args:
        uri: its root.
        manifest: the dataset's, if it was read before.

    Raises:
        DataError: there are none.
    """
    if manifest is None and not is_named(uri) and open_store(uri).exists(MANIFEST_KEY):
        manifest = load_manifest(uri)
    if manifest is not None:
        return {entry.name: TarPlace(file_uri(uri, entry.tar), entry.tar) for entry in manifest.shards}
    store, tars = list_tars(uri)
    return {tar.name: TarPlace(join_uri(store.uri, tar.key), None) for tar in tars}


class OpenTar:
    """A tar at hand, and where the images of its usable samples lie."""

    def __init__(self, place: TarPlace, cache: ShardCache) -> None:
        self.uri = place.uri
        self._handle = _opened(place, cache)
        try:
            samples = scan_shard(f"/proc/self/fd/{self._handle}", name=place.uri).samples
        except BaseException:
            self.close()
            raise
        self.places: dict[str, Place] = {
            one.key: one.members[one.image] for one in samples if one.image and not one.problem
        }

    def read(self, key: str) -> bytes | None:
        """An image's bytes; None if there is no such one."""
        if key not in self.places:
            return None
        offset, size = self.places[key]
        return os.pread(self._handle, size, offset)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


def _opened(place: TarPlace, cache: ShardCache) -> int:
    if place.record is not None:
        with cache.opened(place.uri, place.record) as handle:
            return handle
    folder, name = split_uri(place.uri)
    store = open_store(folder)
    if (path := store.local_path(name)) is not None:
        if not path.is_file():
            raise DataError(f"{path} is gone: bring it back")
        return os.open(path, os.O_RDONLY)
    with tempfile.TemporaryDirectory(prefix="capfilt-tar-") as temporary:  # the open file outlives its name
        copy = Path(temporary) / "tar"
        store.download(name, copy)
        return os.open(copy, os.O_RDONLY)


class Images(Protocol):
    """Where images are read from."""

    def read(self, shard: str, key: str) -> bytes | None:
        """An image's bytes; None if it is not there."""

    def close(self) -> None:
        """Let go of what is open."""


class Files:
    """Images that lie as files below a URI: their keys are their names."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, shard: str, key: str) -> bytes | None:
        """An image's bytes."""
        return self._store.read(key) if self._store.exists(key) else None

    def close(self) -> None:
        """Nothing is open."""


def image_files(store: Store) -> list[str]:
    """Keys of the image files in a store, hidden ones left out, in order."""
    keys = (info.key for info in store.list())
    return [
        key
        for key in keys
        if key.rpartition(".")[2].lower() in IMAGE_EXTENSIONS
        and not key.startswith(f"{INDEX_FOLDER}/")
        and not any(part.startswith(".") for part in key.split("/"))
    ]


class Pictures:
    """Images of a dataset, whichever of several places has them. Threads may share it.

    Args:
        sources: tars by the names of their shards, looked at in order; functions are called when first needed.
        cache: for tars that are not on this machine.
        most: tars that are open at a time.
    """

    def __init__(
        self,
        *sources: Mapping[str, TarPlace] | Callable[[], Mapping[str, TarPlace]],
        cache: ShardCache | None = None,
        most: int = 16,
    ) -> None:
        self._given = sources
        self._cache = cache or ShardCache()
        self._most = most
        self._open: OrderedDict[str, OpenTar] = OrderedDict()
        self._turn = threading.Lock()

    @cached_property
    def _sources(self) -> list[Mapping[str, TarPlace]]:
        return [one() if callable(one) else one for one in self._given]

    def read(self, shard: str, key: str) -> bytes | None:
        """An image's bytes; None if no tar has it.

        Raises:
            DataError: a tar is gone, or not the one that was committed.
            StorageError: a store refuses.
        """
        with self._turn:
            for tar in self._tars(shard):
                if (data := tar.read(key)) is not None:
                    return data
        return None

    def _tars(self, shard: str) -> Iterator[OpenTar]:
        for source in self._sources:
            if shard in source:
                yield self._tar(source[shard])

    def _tar(self, place: TarPlace) -> OpenTar:
        """The tar, opened if it is not open; the one that was asked for longest ago makes room."""
        if place.uri not in self._open:
            self._open[place.uri] = OpenTar(place, self._cache)
            while len(self._open) > self._most:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(place.uri)
        return self._open[place.uri]

    def close(self) -> None:
        """Let go of all tars."""
        with self._turn:
            while self._open:
                self._open.popitem()[1].close()


def pictures_of(uri: str, manifest: Manifest, cache: ShardCache | None = None) -> Pictures:
    """The images of a dataset: from its own tars, or else from what it was made from, as far as that is still there."""

    def origin() -> Mapping[str, TarPlace]:
        try:
            return tars_of(manifest.origin) if manifest.origin and manifest.kind in ("capfilt", "recut") else {}
        except (DataError, StorageError):  # its own tars still have what was kept
            return {}

    return Pictures(tars_of(uri, manifest), origin, cache=cache)


def images_at(uri: str, manifest: Manifest | None, cache: ShardCache | None = None) -> Images:
    """The images of a dataset, or of a folder or prefix of image files or tars."""
    if manifest is not None:
        return pictures_of(uri, manifest, cache)
    store = open_store(uri)
    return Files(store) if image_files(store) else Pictures(tars_of(uri), cache=cache)


def small_jpeg(data: bytes, side: int) -> bytes:
    """An image as a JPEG whose sides are at most `side` pixels.

    Raises:
        BadImage: it does not decode.
    """
    from PIL import Image

    from components.data.decoding import decode_image

    image = Image.fromarray(decode_image(data))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
