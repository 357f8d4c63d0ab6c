"""A store that is a folder of this machine, or of a disk mounted here."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import BinaryIO

from components.common.errors import StorageError
from components.common.storage.base import ObjectInfo, Store
from components.common.storage.files import NO_LINKS, copy_bytes, folder_errors, publish, replacing
from components.common.storage.uris import join_uri, normalise_uri


class FolderStore(Store):
    """Objects as files below a folder; writes go to a temporary name, are synced, then renamed.

    Keys are checked as text, and links are followed: shards may be links to another disk, and the files of a model in
    the Hugging Face cache are. A write replaces a link, not what it points to.
    """

    _lacking = (
        "no hard links here: what must be written only once is claimed first by a file beside it; "
        "two writers at once are told apart unless one of them stands still for a minute in between"
    )

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.root = Path(uri)

    def _path(self, key: str) -> Path:
        if ".." in PurePosixPath(key).parts or key.startswith("/") or "\0" in key:
            raise StorageError(f"key {key!r} leaves the store {self.uri}")
        return self.root / key

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        with self.open(key) as file, folder_errors("read", self._path(key)):
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        path = self._path(key)
        with folder_errors("write", path), replacing(path) as temporary:
            temporary.write_bytes(data)
            return publish(temporary, path, if_absent=if_absent)

    def upload(self, path: Path, key: str) -> None:
        target = self._path(key)
        with folder_errors("write", target), replacing(target) as temporary:
            copy_bytes(path, temporary)
            publish(temporary, target, if_absent=False)

    def download(self, key: str, path: Path) -> None:
        with folder_errors("read", self._path(key)), replacing(path) as temporary:
            copy_bytes(self._path(key), temporary)
            publish(temporary, path, if_absent=False)

    def copy(self, source: "Store", key: str, to: str) -> None:
        original, target = source.local_path(key), self._path(to)
        if original is None:
            source.download(key, target)
            return
        with folder_errors("read", original):
            original.stat()
        with folder_errors("write", target), replacing(target) as temporary:
            temporary.unlink()
            try:
                os.link(original, temporary)
            except OSError:  # another file system, or one without hard links
                copy_bytes(original, temporary)
            temporary.replace(target)  # leaves the temporary name, to be removed, where both are one file already

    def open(self, key: str) -> BinaryIO:
        with folder_errors("read", self._path(key)):
            return self._path(key).open("rb")

    def info(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with folder_errors("read", path):
            try:
                stat = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not S_ISREG(stat.st_mode):
            return None
        return ObjectInfo(key, stat.st_size, f"{stat.st_size:x}-{stat.st_mtime_ns:x}", stat.st_mtime)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        above = prefix.rpartition("/")[0]
        folder = self._path(above)
        with folder_errors("list", folder):
            keys = sorted(key for key in _files_below(folder, above and f"{above}/", ()) if key.startswith(prefix))
        for key in keys:
            if (info := self.info(key)) is not None:
                yield info

    def delete(self, key: str) -> None:
        with folder_errors("delete", self._path(key)):
            self._path(key).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def child(self, *parts: str) -> Store:
        return FolderStore(normalise_uri(join_uri(self.uri, *parts)))

    def _creates_once(self, key: str) -> bool:
        path = self._path(key)
        with folder_errors("write", path), replacing(path) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return True
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
        return False


def _files_below(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Keys of all files below a folder, links followed, except to a folder that holds the link. None if it is gone."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(folder / entry.name, f"{prefix}{entry.name}/", (*above, real))
        elif entry.is_file() and not (entry.name.startswith(".") and entry.name.endswith((".tmp", ".claim"))):
            yield f"{prefix}{entry.name}"
