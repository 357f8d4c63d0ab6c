"""One at a time on one store, with nothing but writing, listing and reading, on every kind of store alike.

Each taker writes a ticket of its own, `<folder>/<token>.json`, then looks who else has one. Alone, it holds the lock.
Beside a holder, or beside another taker whose token comes first, it withdraws and is refused; beside takers that come
after it, it waits until they have withdrawn. As everybody writes before looking, of two takers at least one sees the
other, whoever is slow; no clock decides that. Writing a ticket twice is writing it once: an answer that was lost does
not matter.

A holder that is gone is not waited for. On this machine its process is looked up. Elsewhere its ticket, which it writes
anew every 20 seconds, must be older than `stale_seconds` by the store's own clock: the looker has just written its own
ticket, and the store dates both. It is then revoked for good by `<token>.revoked`, and passed over once a look *after*
that still finds its ticket old. `Lock.check()` of a holder that wakes up again finds the revocation. A check that
passed leaves at least half of `stale_seconds` for the commit that follows it; whoever stands still for longer between
the two has to rely on commits that cannot hurt (content-named files).
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.common import patience
from components.common.errors import CapfiltError, StorageError
from components.common.lifetime import started
from components.common.storage import ObjectInfo, Store, join_uri

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 300.0
SETTLE_SECONDS = 30.0  # how long takers that came at the same time are waited for
REVOCATIONS_KEPT = 7 * 86400.0  # seconds; a holder that was silent for half of that counts itself as revoked
_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 20.0  # how long a store that is away is waited for at the end
_START_TOLERANCE = 5.0  # seconds; a clock set anew moves all start times a little
_ASKING, _HOLDING = "asking", "holding"


class BusyError(CapfiltError):
    """Someone else works on this store."""


class LockLostError(CapfiltError):
    """The lock was taken over by another: nothing more may be committed."""


@dataclass(frozen=True)
class Ticket:
    """Who wants the lock, or has it."""

    token: str
    key: str
    """of the ticket's object"""
    modified: float
    """when it was last written, seconds since 1970 by the store's clock"""
    revoked: bool = False
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it has the lock; a ticket that cannot be read is taken to have it."""
        return bool(self.content.get("state", _HOLDING) == _HOLDING)

    def is_dead(self) -> bool:
        """Whether it is certain that nobody acts for this ticket any more: its process was on this machine."""
        if not self.is_here():
            return False
        pid = _number(self.content.get("pid"))
        if pid == os.getpid():
            return self.token not in _own_tokens
        if "started" in self.content:
            start, known = started(int(pid)), self.content["started"]
        else:  # a ticket of an earlier release, by the time of day
            start, known = _process_start(int(pid)), self.content.get("process_start")
        return start is None or abs(start - _number(known)) > _START_TOLERANCE

    def is_here(self) -> bool:
        """Whether its process is on this machine, where it is looked up instead of being judged by its silence."""
        return self.content.get("place") == _place()

    def named(self) -> tuple[str, str]:
        """What its owner does, and on which machine."""
        return str(self.content.get("purpose", "someone")), str(self.content.get("host", "an unknown machine"))


class Lock:
    """The lock as its holder has it."""

    def __init__(self, store: Store, key: str, purpose: str, *, stale_seconds: float = STALE_SECONDS) -> None:
        """Nothing is taken yet: see `exclusive`."""
        self._board = _Board(store, key)
        self._stale = stale_seconds
        self.token = secrets.token_hex(8)
        self._key = self._board.ticket_key(self.token)
        self._content = _describe(purpose)
        self._confirmed = _clock()
        self._lost = ""
        self._over = threading.Event()

    @property
    def held(self) -> bool:
        """Whether the lock is ours, as far as is known without asking the store."""
        return not self._lost and not self._over.is_set()

    def take(self) -> None:
        """Take it, or refuse.

        Raises:
            BusyError: who has it.
            LockLostError: this process stood still meanwhile, and another took it.
        """
        _own_tokens.add(self.token)
        try:
            self._await_turn()
            self._write(_HOLDING)
            self.check()
            self._board.forget_old_revocations()
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Make sure of the lock; call it before everything that others will trust.

        Raises:
            LockLostError: another has taken it over, or someone has deleted our ticket.
            StorageError: the store does not answer.
        """
        while True:
            confirmed = self._confirmed  # of a ticket written before the look: whoever revokes later will find it fresh
            self._look_after_ourselves()
            if _clock() - confirmed <= self._stale / 4:
                return
            self._write(_HOLDING)

    def beat(self) -> None:
        """Show that the holder is alive, unless the lock is lost."""
        start = _clock()
        self._look_after_ourselves()
        self._write(_HOLDING, since=start)
        if self._over.is_set():  # let go while this was on its way
            self._board.store.delete(self._key)

    def release(self) -> None:
        """Let go. A store that does not take that is only told of: whatever ended the work is the news."""
        self._over.set()
        try:
            with patience.at_most(_FAREWELL_SECONDS):
                self._board.store.delete(self._key)
        except StorageError as error:
            logger.warning("the lock %s could not be let go (%s); others may wait for it", self._board.where, error)
        _own_tokens.discard(self.token)

    def _look_after_ourselves(self) -> None:
        if self._lost:
            raise LockLostError(self._lost)
        names = {info.key for info in self._board.objects()}
        if self._board.revocation_key(self.token) in names:
            raise self._lost_because("another took it over, as nothing was heard from here for minutes")
        if self._key not in names:
            raise self._lost_because("its ticket was deleted")
        if _clock() - self._confirmed > REVOCATIONS_KEPT / 2:
            raise self._lost_because("nothing was heard from here for days")

    def _lost_because(self, why: str) -> LockLostError:
        self._lost = (
            f"{self._board.where}: the lock of this process is lost: {why}. Nothing more is committed; "
            "run the same command again when the other one has ended: finished work is kept"
        )
        return LockLostError(self._lost)

    def _write(self, state: str, *, since: float | None = None) -> None:
        start = _clock() if since is None else since
        self._board.store.write(self._key, _encode({**self._content, "token": self.token, "state": state}))
        self._confirmed = start

    def _await_turn(self) -> None:
        end = _clock() + SETTLE_SECONDS
        while rivals := self._rivals():
            ahead = next((one for one in rivals if one.holds or one.token < self.token), None)
            if ahead is not None or _clock() > end:
                raise BusyError(self._board.refusal(ahead or rivals[0]))
            _sleep(_POLL_SECONDS)

    def _rivals(self) -> list[Ticket]:
        """The others' tickets that count, after those of the dead are cleared away."""
        while True:
            self._write(_ASKING)
            tickets = self._board.tickets()
            own = next((one for one in tickets if one.token == self.token), None)
            if own is None or own.revoked:
                raise self._lost_because("this process stood still while it was taking it")
            others = [one for one in tickets if one is not own]
            if not self._revoke([one for one in others if not one.revoked and self._is_silent(one, own)]):
                return [one for one in others if not self._cleared(one, own)]

    def _is_silent(self, ticket: Ticket, own: Ticket) -> bool:
        return not ticket.is_here() and own.modified - ticket.modified > self._stale

    def _revoke(self, silent: list[Ticket]) -> bool:
        """Revoke these; whether there were any, so that one has to look again."""
        for one in silent:
            logger.warning("taking over from %s on %s, which is silent", *one.named())
            self._board.revoke(one)
        return bool(silent)

    def _cleared(self, ticket: Ticket, own: Ticket) -> bool:
        """Delete the ticket of one that is gone for good."""
        dead = ticket.is_dead()
        if not dead and not (ticket.revoked and self._is_silent(ticket, own)):
            return False
        if dead:
            logger.warning("taking over from %s on %s, which is gone", *ticket.named())
        self._board.store.delete(ticket.key)
        return True


@contextlib.contextmanager
def exclusive(store: Store, key: str, purpose: str, *, stale_seconds: float = STALE_SECONDS) -> Iterator[Lock]:
    """Hold the lock `key` while the block runs; its handle's `check()` belongs before every commit.

    Args:
        store: where the tickets lie.
        key: names the lock: `locks/NAME.json` has its tickets in `locks/NAME/`.
        purpose: what the holder does, for the message to whoever comes second.
        stale_seconds: silence after which a holder on another machine counts as gone.

    Raises:
        BusyError: who holds it, since when, and what to do.
    """
    lock = Lock(store, key, purpose, stale_seconds=stale_seconds)
    lock.take()
    done = threading.Event()
    beat = threading.Thread(target=_keep, args=(lock, done), name="lock-heartbeat", daemon=True)
    beat.start()
    try:
        yield lock
    finally:
        done.set()
        lock.release()
        beat.join(_FAREWELL_SECONDS)


def _keep(lock: Lock, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            with patience.at_most(HEARTBEAT_SECONDS):
                lock.beat()
        except LockLostError as error:
            if not done.is_set():
                logger.error("%s", error)
            return
        except StorageError as error:
            logger.warning("the lock's heartbeat failed, it is tried again: %s", error)


def who_holds(store: Store, key: str, *, stale_seconds: float = STALE_SECONDS) -> Ticket | None:
    """The ticket that stands in the way of `exclusive` now, None if there is none. Takes and changes nothing."""
    board = _Board(store, key)
    tickets = [one for one in board.tickets() if not one.is_dead()]
    if not tickets:
        return None
    now = board.now() if any(not one.is_here() for one in tickets) else 0.0
    living = [one for one in tickets if one.is_here() or now - one.modified <= stale_seconds]
    return min(living, key=lambda one: (not one.holds, one.token), default=None)


def refuse_if_busy(store: Store, key: str, *, stale_seconds: float = STALE_SECONDS) -> None:
    """Look without taking: refuse early what `exclusive` would refuse later.

    Raises:
        BusyError: as `exclusive`.
    """
    if (ticket := who_holds(store, key, stale_seconds=stale_seconds)) is not None:
        raise BusyError(_Board(store, key).refusal(ticket))


def sign_of_life(store: Store, key: str) -> tuple[str, float] | None:
    """Who stands in the way, and when its ticket was last written: that stands still when the holder is gone."""
    ticket = who_holds(store, key)
    return None if ticket is None else (ticket.token, ticket.modified)


class _Board:
    """Where the tickets of one lock lie."""

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self._single = key  # an earlier release kept one object here instead of a ticket for each
        self._folder = key.removesuffix(".json") + "/"
        self.where = join_uri(store.uri, self._folder)

    def ticket_key(self, token: str) -> str:
        return f"{self._folder}{token}.json"

    def revocation_key(self, token: str) -> str:
        return f"{self._folder}{token}.revoked"

    def objects(self) -> list[ObjectInfo]:
        prefix = self._folder.rstrip("/")
        return [one for one in self.store.list(prefix) if one.key == self._single or one.key.startswith(self._folder)]

    def tickets(self) -> list[Ticket]:
        """All tickets. One that is gone between listing and reading has been withdrawn."""
        found = self.objects()
        names = {one.key for one in found}
        tickets = []
        for one in found:
            if one.key.endswith(".json") and (content := self._read(one.key)) is not None:
                token = Path(one.key).stem if one.key != self._single else ""
                revoked = self.revocation_key(token) in names
                tickets.append(Ticket(token, one.key, self._modified(one.key, one.modified), revoked, content))
        return tickets

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self.store.read(key))
        except ValueError:
            return {}
        except StorageError:
            if self.store.exists(key):
                raise
            return None
        return content if isinstance(content, dict) else {}

    def _modified(self, key: str, listed: float) -> float:
        """The date after reading: NFS clients keep an older one until a file is opened."""
        info = self.store.info(key)
        return listed if info is None else info.modified

    def forget_old_revocations(self) -> None:
        """Delete those that nobody can need any more."""
        found = self.objects()
        newest = max((one.modified for one in found), default=0.0)
        for one in found:
            if one.key.endswith(".revoked") and newest - one.modified > REVOCATIONS_KEPT:
                self.store.delete(one.key)

    def revoke(self, ticket: Ticket) -> None:
        if ticket.key == self._single:
            self.store.delete(ticket.key)  # its owner knows no revocations, and stops when it is gone
        else:
            self.store.write(self.revocation_key(ticket.token), _encode({"revoked": ticket.token}))

    def now(self) -> float:
        """What time it is by the store's clock: when it says a fresh object was written."""
        key = f"{self._folder}{secrets.token_hex(8)}.now"
        self.store.write(key, b"")
        try:
            info = self.store.info(key)
        finally:
            self.store.delete(key)
        if info is None:
            raise StorageError(f"{join_uri(self.store.uri, key)} is gone as soon as it was written; check the store")
        return info.modified

    def refusal(self, ticket: Ticket) -> str:
        purpose, host = ticket.named()
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_number(ticket.content.get("since"))))
        return (
            f"{self.store.uri}: {purpose} works here since {since} (process {ticket.content.get('pid')} on {host}); "
            "wait for it, end it, or choose another store with --set store=… "
            f"(if it is certainly gone, delete {join_uri(self.store.uri, ticket.key)})"
        )


_own_tokens: set[str] = set()
"""tickets this process acts for"""
_sleep = time.sleep


def _clock() -> float:
    """Seconds that go on while the machine sleeps, which `time.monotonic` does not count."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def _describe(purpose: str) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "host": socket.gethostname(),
        "place": _place(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),  # for earlier releases
        "started": started(os.getpid()),
        "since": time.time(),
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


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
