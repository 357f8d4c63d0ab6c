"""A checkpoint of several machines travels through the store: each machine writes and reads its own disk alone."""

import os
from pathlib import Path

from components.common import distributed
from components.common.storage import open_store

EXCHANGE_ENV = "CAPFILT_EXCHANGE"
"""URI of the folder in the store for files on their way; without it all processes are on one machine."""


class Exchange:
    """Collects the machines' files on machine 0, and hands them out again."""

    def __init__(self, uri: str) -> None:
        self._store = open_store(uri)
        self._is_first = os.environ.get("GROUP_RANK", "0") == "0"
        self._speaks = os.environ.get("LOCAL_RANK", "0") == "0"

    @classmethod
    def of_environment(cls) -> "Exchange | None":
        """As the launcher tells; None on one machine."""
        uri = os.environ.get(EXCHANGE_ENV)
        return cls(uri) if uri else None

    @property
    def writes(self) -> bool:
        """Whether this process makes and removes folders for its machine."""
        return self._speaks

    def collect(self, folder: Path) -> None:
        """Bring the files of all machines into machine 0's folder; every process calls this."""
        if self._speaks and not self._is_first:
            self._send(folder)
        distributed.barrier()
        if distributed.is_main():
            self._fetch(folder)
            self._clear()
        distributed.barrier()

    def hand_out(self, folder: Path) -> None:
        """Bring the files of machine 0's folder to all others; every process calls this."""
        if distributed.is_main():
            self._send(folder)
        distributed.barrier()
        if self._speaks and not self._is_first:
            self._fetch(folder)
        distributed.barrier()
        if distributed.is_main():
            self._clear()

    def _send(self, folder: Path) -> None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self._store.upload(path, path.relative_to(folder).as_posix())

    def _fetch(self, folder: Path) -> None:
        for found in list(self._store.list()):
            target = folder / found.key
            target.parent.mkdir(parents=True, exist_ok=True)
            self._store.download(found.key, target)

    def _clear(self) -> None:
        for found in list(self._store.list()):
            self._store.delete(found.key)
