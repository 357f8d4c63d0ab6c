"""Where what can be made again is kept on this machine: compiled ops, shards fetched from S3."""

import errno
import os
import tempfile
from pathlib import Path

from components.common.errors import StorageError


def cache_folder() -> Path:
    """`capfilt` in the user's cache folder: XDG_CACHE_HOME, else ~/.cache.

    Raises:
        StorageError: there is no home folder, and XDG_CACHE_HOME is not set.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "capfilt"
    except RuntimeError as error:
        raise StorageError("this user has no home folder: set XDG_CACHE_HOME to a folder for caches") from error


def check_cache_folder() -> None:
    """Prove that the cache folder can be written.

    Raises:
        StorageError: it cannot; names XDG_CACHE_HOME. Call it before any long work starts.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(4096))  # an empty file has room on a full disk, too
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"the cache folder {folder} cannot be written ({'the disk is full' if full else error.strerror}): "
            f"{'free space there, or ' if full else ''}set XDG_CACHE_HOME to one that can be, "
            "e.g. XDG_CACHE_HOME=/tmp/cache"
        ) from error
