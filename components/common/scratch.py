"""Temporary folders that a killed process does not leave behind for good: whoever comes next clears them away.

Fetched models lie there, gigabytes of them; preempted every night, a machine's disk would fill up.
"""

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType

_LOCK = ".in-use"
_YOUNG_SECONDS = 60.0  # a folder this young may belong to a process that has not locked it yet


class ScratchFolder:
    """A folder of its own, gone when it is closed; made after clearing away those that killed processes left.

    A lock on a file in it, which the system gives up with the process, says that it is in use.
    """

    def __init__(self, purpose: str, parent: Path | None = None) -> None:
        """Make `capfilt-<purpose>-…` below `parent`, or where temporary files go."""
        prefix = f"capfilt-{purpose}-"
        place = Path(tempfile.gettempdir()) if parent is None else parent
        for left in place.glob(f"{prefix}*"):
            _remove_if_left(left)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._remove = weakref.finalize(self, _remove, self.path, lock)  # at the latest when the process ends

    def close(self) -> None:
        """Delete it; what cannot be deleted now is left to whoever comes next."""
        self._remove()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _remove_if_left(folder: Path) -> None:
    """Delete a folder whose process is gone."""
    try:
        if time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
            return
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # somebody else's, or gone in between
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # in use
        os.close(lock)
    else:
        _remove(folder, lock)
