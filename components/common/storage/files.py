"""Files of this machine: written whole or not at all, and what is said where that fails."""

import contextlib
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from components.common.errors import StorageError

READ_CHUNK = 4 << 20  # docs/facts.md 17: boto3 behind a 4 MiB buffer costs least CPU per byte
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}  # exFAT, SMB, FUSE …
_CLAIM_SECONDS = 60.0  # age from which the claim of a writer counts as left behind


def sha256_hex(data: bytes) -> str:
    """sha256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a local file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that is gone afterwards, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, if_absent: bool) -> bool:
    """Sync, then give the file its name in one step. Returns False if `if_absent` and it was there."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    with contextlib.suppress(PermissionError):  # file systems without permissions
        temporary.chmod(0o644)
    if not if_absent:
        temporary.replace(path)
        return True
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _publish_claimed(temporary, path)
    return True


def _publish_claimed(temporary: Path, path: Path) -> bool:
    """`publish` with `if_absent` where there are no hard links: whoever creates the claim beside it may rename."""
    claim = path.with_name(f".{path.name}.claim")
    while not path.exists():
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            _await_claim(claim)
            continue
        try:
            if path.exists():
                return False
            temporary.replace(path)
            return True
        finally:
            claim.unlink(missing_ok=True)
    return False


def _await_claim(claim: Path) -> None:
    """Wait a little for another writer; delete the claim of one that is gone."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - claim.stat().st_mtime > _CLAIM_SECONDS:
            claim.unlink()
    time.sleep(0.02)


def copy_bytes(source: Path, target: Path) -> None:
    """Copy what is in a file, and nothing about it."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(READ_CHUNK):
            writer.write(chunk)


@contextlib.contextmanager
def folder_errors(action: str, path: Path) -> Iterator[None]:
    """Turn the system's errors about a local file into StorageError: what, where, how to mend it."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"cannot {action} {path}: it does not exist") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"cannot {action} {path}: a part of this path is a file, not a folder; choose another place"
        ) from error
    except PermissionError as error:
        raise StorageError(f"cannot {action} {path}: permission denied; check the owner of the folder") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"cannot {action} {path}: the disk is full; free space and run again (finished work is kept)"
            ) from error
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}") from error
