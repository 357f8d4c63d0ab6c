"""One at a time on one store: a lock object with its owner and a heartbeat, created only where there is none.

A holder that is gone is not waited for: on this machine its process is looked up; elsewhere its heartbeat must be
older than `stale_seconds`. No lock service is needed: a conditional write where the store has it, and reading back
one's own token where it has not.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common.errors import CapfiltError, StorageError
from components.common.storage import Store, join_uri

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 300.0
_START_TOLERANCE = 5.0  # seconds; a clock set anew moves all start times a little


class BusyError(CapfiltError):
    """Someone else works on this store."""


@contextlib.contextmanager
def exclusive(store: Store, key: str, purpose: str, *, stale_seconds: float = STALE_SECONDS) -> Iterator[None]:
    """Hold the lock `key` while the block runs.

    Args:
        store: where the lock object lies.
        key: its key.
        purpose: what the holder does, for the message to whoever comes second.
        stale_seconds: age of the last heartbeat after which a holder on another machine counts as gone.

    Raises:
        BusyError: who holds it, since when, and what to do.
    """
    token = _take(store, key, purpose, stale_seconds)
    done = threading.Event()
    beat = threading.Thread(target=_keep, args=(store, key, token, done), name="lock-heartbeat", daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join(HEARTBEAT_SECONDS)
        if (holder := _holder(store, key)) is not None and holder.get("token") == token["token"]:
            store.delete(key)


def refuse_if_busy(store: Store, key: str, *, stale_seconds: float = STALE_SECONDS) -> None:
    """Look without taking: refuse early what `exclusive` would refuse later.

    Raises:
        BusyError: as `exclusive`.
    """
    holder = _holder(store, key)
    if holder is not None and not _is_gone(holder, stale_seconds):
        raise BusyError(_refusal(store, key, holder))


def sign_of_life(store: Store, key: str) -> tuple[str, float] | None:
    """Who holds the lock, and its last heartbeat: it stands still when the holder is gone."""
    holder = _holder(store, key)
    return None if holder is None else (str(holder.get("token")), float(holder.get("heartbeat", 0)))


def _take(store: Store, key: str, purpose: str, stale_seconds: float) -> dict[str, Any]:
    token = _token(purpose)
    for _ in range(3):
        if store.write(key, _encode(token), if_absent=True):
            if (_holder(store, key) or {}).get("token") == token["token"]:
                return token
            continue  # a store without conditional writes let two in: the last one stays
        holder = _holder(store, key)
        if holder is not None and not _is_gone(holder, stale_seconds):
            raise BusyError(_refusal(store, key, holder))
        if holder is not None:
            logger.warning("taking over from %s on %s, which is gone", holder.get("purpose"), holder.get("host"))
        store.delete(key)
    raise BusyError(f"{join_uri(store.uri, key)}: cannot get the lock, others are taking it too; try again in a minute")


def _token(purpose: str) -> dict[str, Any]:
    now = time.time()
    return {
        "token": secrets.token_hex(8),
        "purpose": purpose,
        "host": socket.gethostname(),
        "place": _place(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "since": now,
        "heartbeat": now,
    }


def _keep(store: Store, key: str, token: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            holder = _holder(store, key)
            if holder is not None and holder.get("token") != token["token"]:
                logger.error("%s was taken by %s on %s", key, holder.get("purpose"), holder.get("host"))
                return
            store.write(key, _encode({**token, "heartbeat": time.time()}))
        except StorageError as error:
            logger.warning("the lock's heartbeat failed, it is tried again: %s", error)


def _holder(store: Store, key: str) -> dict[str, Any] | None:
    if not store.exists(key):
        return None
    try:
        holder = json.loads(store.read(key))
    except StorageError:  # let go between the two calls
        return None
    except ValueError:
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _is_gone(holder: dict[str, Any], stale_seconds: float) -> bool:
    if holder.get("place") == _place():
        start = _process_start(int(holder.get("pid", 0)))
        return start is None or abs(start - float(holder.get("process_start") or 0)) > _START_TOLERANCE
    return time.time() - float(holder.get("heartbeat", 0)) > stale_seconds


def _refusal(store: Store, key: str, holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder.get("since", 0))))
    return (
        f"{store.uri}: {holder.get('purpose')} works here since {since} (process {holder.get('pid')} on "
        f"{holder.get('host')}); wait for it, end it, or choose another store with --set store=… "
        f"(if it is certainly gone, delete {join_uri(store.uri, key)})"
    )


def _encode(token: dict[str, Any]) -> bytes:
    return json.dumps(token, indent=1).encode()


def _place() -> str:
    """Where pids mean the same: host, boot and pid namespace (containers may share a host's name)."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _process_start(pid: int) -> float | None:
    """When the process started (its identity beside the recycled pid), None if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.Error, ValueError):
        return None
