"""Local files for a dataset's shards: in place where they are local, else from a cache of bounded size."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from components.common.cache import cache_folder
from components.common.errors import DataError
from components.common.storage import folder_errors, open_store, sha256_file, split_uri
from components.data.records import FileRecord

logger = logging.getLogger(__name__)


class ShardCache:
    """Remote files, fetched once per machine and checked against their sha256.

    Names are content hashes, so runs and datasets can share a folder. When it grows beyond its size, what was asked for
    longest ago goes; readers that have it open do not notice.

    Args:
        folder: where they lie (default: `capfilt/shards` in the user's cache folder, as XDG_CACHE_HOME has it).
        max_bytes: size of the folder. The file just fetched stays in any case.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = 50 << 30) -> None:
        self.folder = folder or cache_folder() / "shards"
        self.max_bytes = max_bytes

    @contextlib.contextmanager
    def opened(self, uri: str, record: FileRecord) -> Iterator[int]:
        """A read-only file descriptor of the file's bytes; the caller owns it if the block ends well.

        Raises:
            DataError: the file is missing, or not what the manifest says.
        """
        try:
            handle = os.open(self._path(uri, record), os.O_RDONLY)
        except FileNotFoundError:  # another process made room between the fetch and the open
            handle = os.open(self._path(uri, record), os.O_RDONLY)
        try:
            if os.fstat(handle).st_size != record.bytes:
                found = os.fstat(handle).st_size
                raise DataError(f"{uri} has {found} bytes, {record.bytes} when imported: it changed; import it again")
            yield handle
        except BaseException:
            os.close(handle)
            raise

    def _path(self, uri: str, record: FileRecord) -> Path:
        folder, key = split_uri(uri)
        store = open_store(folder)
        local = store.local_path(key)
        if local is None:
            return self._cached(uri, record)
        if not local.is_file():
            raise DataError(f"{local} is gone: bring it back, or import the data again")
        return local

    def _cached(self, uri: str, record: FileRecord) -> Path:
        path = self.folder / record.sha256
        with folder_errors("write", path), self._locked(record.sha256):
            if not path.is_file() or path.stat().st_size != record.bytes:
                _fetch(uri, record, path)
                self._shrink(keep=path)
            os.utime(path)
        return path

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process per machine fetches, the others wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _shrink(self, keep: Path) -> None:
        files = [path for path in self.folder.iterdir() if len(path.name) == 64]
        aged = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in files if path != keep)
        excess = sum(size for _, size, _ in aged) + keep.stat().st_size - self.max_bytes
        for _, size, path in aged:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
            excess -= size


def _fetch(uri: str, record: FileRecord, path: Path) -> None:
    """Download and check; a bad transfer gets one more try."""
    folder, key = split_uri(uri)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        for last in (False, True):
            open_store(folder).download(key, partial)
            digest = sha256_file(partial)
            if digest == record.sha256:
                partial.replace(path)
                return
            if last:
                raise DataError(f"{uri} changed: its sha256 is {digest[:12]}…, was {record.sha256[:12]}…; import again")
            logger.warning("%s arrived with another sha256; fetching it once more", uri)
    finally:
        partial.unlink(missing_ok=True)
