"""Several machines find each other in the store that all of them reach, and tell each other there that they live.

    trainings/<name>/announcement.json        what machine 0 trains and where it listens; written anew while it lives
    trainings/<name>/<token>/machine-1.json   a machine that takes part, and how it ended; written anew likewise
    trainings/<name>/<token>/parts/…          a checkpoint's files on their way between machines (exchange.py)
    trainings/end.json                        written by `capfilt join STORE --end`: joined machines leave

Machine 0 announces each of its trainings (`Gathering`); the others wait for the next one (joining.py). Whether one
lives is judged by the reader's own clock: by how long ago its object was seen to change.
"""

import contextlib
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field, ValidationError

from components.common.contracts import Contract
from components.common.errors import CapfiltError, ConfigError, StorageError
from components.common.programs import program
from components.common.storage import Store, join_uri, open_store
from components.training.nodes import Membership, Placement
from components.training.spec import TrainSpec

logger = logging.getLogger(__name__)

BEAT_SECONDS = 3.0
LOST_SECONDS = 60.0
_CRASH_SECONDS = 5 * BEAT_SECONDS  # within which a machine that still lives is heard of after a connection broke
_TELL_SECONDS = 30.0
_BROKEN = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|read error|timed out", re.IGNORECASE)
ANNOUNCEMENT = "announcement.json"
END_KEY = "trainings/end.json"


class LostMachineError(CapfiltError):
    """A machine of a training is gone; started again, the training goes on from its last checkpoint."""


class Announcement(Contract):
    """A training that waits for machines, runs on them, or is over."""

    token: str = Field(description="of this start of the training")
    state: Literal["waiting", "running", "over"]
    beat: int = Field(default=0, description="counts up while machine 0 lives")
    machine: str = Field(description="name of machine 0")
    nodes: int
    host: str
    port: int
    grace_seconds: float
    spec: TrainSpec


class Member(Contract):
    """A machine that takes part."""

    machine: str = Field(description="its name")
    id: str = Field(description="of the process that takes part there")
    beat: int = 0
    left: bool = Field(default=False, description="its part has ended")
    message: str = Field(default="", description="what its part failed of; empty: it did not fail")


class Watch:
    """When something was last seen to change, by our own clock."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since = time.monotonic()

    def silent(self, now: object) -> float:
        """Seconds since what is looked at changed."""
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since


@contextlib.contextmanager
def beating(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` every few seconds; a store that is away for a while is no reason to stop."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                beat()
            except StorageError as error:
                logger.warning("other machines cannot be told that this one lives: %s", error)

    thread = threading.Thread(target=go_on, name="machine-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(BEAT_SECONDS * 5)


def is_broken_connection(error: CapfiltError) -> bool:
    """Whether a group's error tells no more than that it could not reach another process."""
    return type(error) is CapfiltError and _BROKEN.search(str(error).partition("\n")[0]) is not None


def member_key(name: str, token: str, number: int) -> str:
    """Where a machine says that it takes part."""
    return f"trainings/{name}/{token}/machine-{number}.json"


def read_member(store: Store, key: str) -> Member | None:
    """What a machine says; None: nothing yet."""
    try:
        return Member.model_validate_json(store.read(key)) if store.exists(key) else None
    except ValidationError:
        return None


def own_address() -> str:
    """This machine's address as others on its network see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # a documentation address: nothing is sent, the route alone is looked up
        return str(probe.getsockname()[0])
    return socket.gethostname()


class Gathering:
    """Machine 0's side: the machines of one training, from its announcement to its end."""

    def __init__(self, spec: TrainSpec, place: Placement) -> None:
        """Nothing is announced yet: see `gathered`."""
        if place.node_rank != 0:
            raise ConfigError(
                f"this is machine {place.node_rank} of {place.nodes} (NODE_RANK or launch.node_rank): machine 0 "
                f"launches the training, and here belongs `{_join_command(spec.store)}`"
            )
        self._store = open_store(_root(spec.store))
        self._spec = spec
        self._name = spec.fingerprint[:16]
        self._lock = threading.Lock()
        self._now = Announcement(
            token=secrets.token_hex(4), state="waiting", machine=socket.gethostname(), nodes=place.nodes,
            host=place.host or own_address(), port=place.port or _free_port(),
            grace_seconds=spec.config.launch.grace_seconds, spec=spec,
        )  # fmt: skip
        self._place = Placement(place.nodes, 0, self._now.host, self._now.port, place.processes)
        self._watches = {number: Watch() for number in range(1, place.nodes)}
        self._looked = time.monotonic()

    @property
    def membership(self) -> Membership:
        """This machine's part."""
        uri = join_uri(self._store.uri, "trainings", self._name, self._now.token, "parts")
        return Membership(self._place, uri, self.check)

    def tell(self, state: Literal["waiting", "running", "over"] | None = None) -> None:
        """Write the announcement anew."""
        with self._lock:
            changes = {"beat": self._now.beat + 1, "state": state or self._now.state}
            self._now = self._now.model_copy(update=changes)
            key = f"trainings/{self._name}/{ANNOUNCEMENT}"
            self._store.write(key, self._now.model_dump_json().encode())

    def wait(self) -> None:
        """Wait until every machine has joined, and say what is waited for.

        Raises:
            LostMachineError: not all came in time.
        """
        limit = self._spec.config.launch.timeout_minutes * 60
        end, told = time.monotonic() + limit, -_TELL_SECONDS
        while missing := [number for number in self._watches if self._member(number) is None]:
            left = end - time.monotonic()
            if left <= 0:
                raise LostMachineError(
                    f"{self._spec.label}: {_machines(missing)} of {self._now.nodes} did not join within "
                    f"{limit / 60:g} minutes (launch.timeout_minutes); run `{self._join_command}` there, and the same "
                    "command again here"
                )
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                logger.info(
                    "%s: waiting for %s of %d, %.0f s left; run there: %s",
                    self._spec.label, _machines(missing), self._now.nodes, left, self._join_command,
                )  # fmt: skip
            time.sleep(1.0)

    def check(self) -> None:
        """Raise LostMachineError if a machine is gone or has failed; looks only every few seconds."""
        if time.monotonic() - self._looked < BEAT_SECONDS:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(StorageError):  # nobody can tell; the machines' own connections will
            self._raise_if_lost(LOST_SECONDS)

    def explain(self) -> None:
        """After a crash: raise LostMachineError if it came of a machine that is gone or has failed."""
        end = time.monotonic() + _CRASH_SECONDS
        with contextlib.suppress(StorageError):
            for watch in self._watches.values():
                watch.silent(object())  # from now on: what was seen last may be as old as the last look
            while time.monotonic() < end:
                self._raise_if_lost(_CRASH_SECONDS)
                time.sleep(1.0)
            self._raise_if_lost(_CRASH_SECONDS - BEAT_SECONDS)

    def end(self) -> None:
        """Tell the others that this training is over, and clear up."""
        with contextlib.suppress(StorageError):
            self.tell("over")
            for found in list(self._store.list(f"trainings/{self._name}/{self._now.token}/parts/")):
                self._store.delete(found.key)

    def _raise_if_lost(self, seconds: float) -> None:
        for number, watch in self._watches.items():
            member = self._member(number)
            silent = watch.silent(member)
            who = f"machine {number} ({member.machine if member else 'gone from the store'})"
            again = (
                f"run `{self._join_command}` there and the same command again here: training goes on from the last "
                "checkpoint"
            )
            if member is not None and member.message:
                raise LostMachineError(f"{self._spec.label}: {who} failed: {member.message}; then {again}")
            if (member is None or not member.left) and silent >= seconds:
                raise LostMachineError(
                    f"{self._spec.label}: {who} is lost: no sign of life for {silent:.0f} s; look after it, "
                    f"then {again}"
                )

    def _member(self, number: int) -> Member | None:
        return read_member(self._store, member_key(self._name, self._now.token, number))

    @property
    def _join_command(self) -> str:
        return _join_command(self._spec.store)


@contextlib.contextmanager
def gathered(spec: TrainSpec, place: Placement) -> Iterator[Membership | None]:
    """Announce a training and wait for its other machines; None where there is but one.

    Raises:
        LostMachineError: a machine did not come, is gone or has failed.
    """
    if place.nodes == 1:
        yield None
        return
    gathering = Gathering(spec, place)
    gathering.tell("waiting")
    try:
        with beating(gathering.tell):
            gathering.wait()
            gathering.tell("running")
            try:
                yield gathering.membership
            except CapfiltError as error:
                if is_broken_connection(error):
                    gathering.explain()
                raise
    finally:
        gathering.end()


def _root(store: str) -> str:
    """The store's root: a stage's model goes into a folder of its own below."""
    head, mark, _ = store.rpartition("/models/")
    return head if mark else store


def _join_command(store: str) -> str:
    return f"{program('capfilt')} join {_root(store)}"


def _machines(numbers: list[int]) -> str:
    return ("machine " if len(numbers) == 1 else "machines ") + ", ".join(map(str, numbers))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def process_id() -> str:
    """What tells this process from all others that may join."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
