"""Which folder in use is full: looked at before anything that went wrong is called a defect.

A full disk speaks in many tongues: sqlite's in a server's answer 500, torch's writer's, a bus error in shared memory.
"""

import shutil
import tempfile
from pathlib import Path

FULL_BYTES = 8 << 20  # what a database, a log line or a record still fits in as a rule
_SHARED_MEMORY = Path("/dev/shm")
_in_use: dict[Path, None] = {}


def note_in_use(folder: Path) -> None:
    """Remember a folder that this process, or one that it starts, writes into."""
    _in_use[folder] = None


def free_space(folder: Path) -> tuple[Path, int]:
    """The folder, or the nearest one above that exists, and the bytes free there."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing, shutil.disk_usage(existing).free


def full_folder() -> tuple[Path, int] | None:
    """The first full one of the folders in use, temporary files and shared memory among them, and its free bytes."""
    places = [*_in_use, Path(tempfile.gettempdir()), *filter(Path.is_dir, [_SHARED_MEMORY])]
    return next(((path, free) for path, free in map(free_space, places) if free < FULL_BYTES), None)


def disk_advice() -> str | None:
    """What to say beside an error if a disk is full; None if none is."""
    if (full := full_folder()) is None:
        return None
    folder, free = full
    return (
        f"the disk is full: {free >> 10} KiB are free at {folder}; free space and run the same command again: it goes "
        "on where it was"
    )
