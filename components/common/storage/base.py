"""What a store is, wherever it lies."""

import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from components.common.errors import StorageError
from components.common.storage.uris import join_uri


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: key relative to the store's root, size in bytes, and the store's version tag.

    `modified` is when it was last written, seconds since 1970 by the store's own clock (S3: whole seconds).
    """

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True)
class Capabilities:
    """What a store was found to be able to do."""

    creates_once: bool
    """an object can be created only where there is none, in one step"""
    note: str = ""
    """what is missing, and what serves instead"""


class Store(ABC):
    """Objects under one URI. All methods raise StorageError with the full URI in the message."""

    uri: str
    _lacking: str
    """what to say of a store of this kind that cannot create an object only where there is none"""

    @abstractmethod
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `[start, stop)` of an object; StorageError if it is missing."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object whole. With `if_absent`, leave an existing one alone and return False."""

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to `key` (multipart where large)."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy an object to a local file, atomically."""

    def copy(self, source: "Store", key: str, to: str) -> None:
        """Take over an object of another store as `to`, whole, without reading it where the stores can do so.

        On folders the copy may share its bytes with the original (a hard link): for files that nobody changes.
        """
        with tempfile.TemporaryDirectory(prefix="capfilt-copy-") as folder:
            path = Path(folder) / "object"
            source.download(key, path)
            self.upload(path, to)

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """A buffered stream over the object."""

    @abstractmethod
    def info(self, key: str) -> ObjectInfo | None:
        """Size and etag of an object, or None if there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in key order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; removing a missing one is no error."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """The object's path if it is a file of this machine, else None."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self.info(key) is not None

    @abstractmethod
    def child(self, *parts: str) -> "Store":
        """The store rooted further down."""

    @abstractmethod
    def _creates_once(self, key: str) -> bool:
        """Try to create the object `key`, which is there, and tell whether the store itself refuses that."""

    def check(self) -> Capabilities:
        """Prove that this store takes, gives back and deletes an object, and find out what else it can do.

        Raises:
            StorageError: what was refused and how to mend it. Call it before any long work starts.
        """
        key = f".capfilt-probe-{os.getpid()}-{threading.get_ident()}"
        self.write(key, b"probe")
        try:
            if self.read(key) != b"probe":
                raise StorageError(f"{join_uri(self.uri, key)}: read back other bytes than were written")
            able = self._creates_once(key)
        finally:
            self.delete(key)
        return Capabilities(able, "" if able else self._lacking)
