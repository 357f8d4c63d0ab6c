"""A machine that takes part in trainings which machine 0 announces in the store, one after the other (gathering.py)."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from components.common.cache import cache_folder
from components.common.errors import CapfiltError, ConfigError
from components.common.storage import Store, join_uri, open_store
from components.training.gathering import (
    ANNOUNCEMENT,
    BEAT_SECONDS,
    END_KEY,
    LOST_SECONDS,
    Announcement,
    LostMachineError,
    Member,
    Watch,
    beating,
    is_broken_connection,
    member_key,
    process_id,
)
from components.training.group import SPEC_FILE, run_group
from components.training.nodes import Membership, Placement, devices, told_rank

logger = logging.getLogger(__name__)

_TELL_SECONDS = 60.0


def end_joined(uri: str) -> None:
    """Tell all machines that have joined a store to leave after the training they are in."""
    open_store(uri).write(END_KEY, process_id().encode())


def join(uri: str, *, minutes: float | None = None, work_dir: Path | None = None) -> int:
    """Take part in every training that is announced in a store, until told to end.

    Args:
        uri: the store that machine 0 works on.
        minutes: how long to wait for the next training; None: without end.
        work_dir: for this machine's files; by default in the user's cache folder.

    Returns:
        in how many it took part.

    Raises:
        StorageError: the store refuses us.
        CapfiltError: no training was announced in time.
    """
    store = open_store(uri)
    store.check()
    folder = work_dir or cache_folder() / "joined"
    end_mark, done, board = _end_mark(store), 0, _Board(store)
    waiting = time.monotonic()
    told = -_TELL_SECONDS
    while _end_mark(store) == end_mark:
        if time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            logger.info("waiting for a training to be announced in %s; Ctrl-C or `capfilt join … --end` ends", uri)
        part = board.claim()
        if part is not None:
            part.take(folder)
            done, waiting, told = done + 1, time.monotonic(), -_TELL_SECONDS
        elif minutes is not None and time.monotonic() - waiting > 60 * minutes:
            if not done:
                raise CapfiltError(
                    f"no training was announced in {uri} within {minutes:g} minutes: start one on machine 0 with the "
                    "same store and launch.nodes of 2 at least"
                )
            break
        else:
            time.sleep(1.0)
    return done


class _Board:
    """What is announced in a store, as one machine sees it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: dict[str, Watch] = {}
        self._taken: set[str] = set()
        self._first_beats: dict[str, int] = {}

    def claim(self) -> "_Part | None":
        """A place in a training that waits for machines, if there is one."""
        for found in self._store.list("trainings/"):
            name = found.key.split("/")[1]
            if found.key != f"trainings/{name}/{ANNOUNCEMENT}":
                continue
            announced = read_announcement(self._store, found.key)
            if announced is None or announced.token in self._taken or announced.state != "waiting":
                continue
            # one that a killed machine 0 left behind does not change any more
            if announced.beat == self._first_beats.setdefault(announced.token, announced.beat):
                continue
            part = self._claim(name, announced)
            if part is not None:
                self._taken.add(announced.token)
                return part
        return None

    def _claim(self, name: str, announced: Announcement) -> "_Part | None":
        told = told_rank(os.environ)
        for number in range(1, announced.nodes) if told is None else [told]:
            if not 0 < number < announced.nodes:
                raise ConfigError(f"NODE_RANK is {number}: a machine that joins is one of 1 … {announced.nodes - 1}")
            member = Member(machine=socket.gethostname(), id=process_id())
            key = member_key(name, announced.token, number)
            if self._store.write(key, member.model_dump_json().encode(), if_absent=True):
                return _Part(self._store, name, announced, number, member)
        return None


class _Part:
    """This machine's part in one training."""

    def __init__(self, store: Store, name: str, announced: Announcement, number: int, member: Member) -> None:
        self._store, self._name, self._announced, self._number = store, name, announced, number
        self._member = member
        self._watch = Watch()
        self._looked = -LOST_SECONDS

    def take(self, folder: Path) -> None:
        """Take part to the end; what goes wrong is told to machine 0, which decides."""
        spec = self._announced.spec
        logger.info("%s: joined %s as machine %d", spec.label, self._announced.machine, self._number)
        try:
            with beating(self._beat):
                self._wait()
                self._train(folder / f"{self._name}-{self._number}")
            self._leave("")
            logger.info("%s: done", spec.label)
        except CapfiltError as error:
            level = logging.INFO if isinstance(error, LostMachineError) else logging.WARNING
            logger.log(level, "%s: %s", spec.label, error)
            is_told = isinstance(error, LostMachineError) or is_broken_connection(error)  # machine 0 knows better
            self._leave("" if is_told else str(error))
        except BaseException:
            self._leave("it was stopped")
            raise

    def _train(self, work_dir: Path) -> None:
        spec, announced = self._announced.spec, self._announced
        work_dir.mkdir(parents=True, exist_ok=True)
        path = work_dir / SPEC_FILE
        path.write_text(spec.model_dump_json(indent=1))
        launch = spec.config.launch.model_copy(update={"grace_seconds": announced.grace_seconds})
        processes = launch.processes or devices()
        place = Placement(announced.nodes, self._number, announced.host, announced.port, processes)
        parts = join_uri(self._store.uri, "trainings", self._name, announced.token, "parts")
        run_group(
            "components.training",
            ["--spec", str(path.resolve())],
            launch,
            work_dir=work_dir,
            on_line=logger.info,
            membership=Membership(place, parts, self._check),
        )

    def _wait(self) -> None:
        """Until all machines are there and machine 0 starts."""
        while self._look().state == "waiting":
            time.sleep(1.0)

    def _check(self) -> None:
        if time.monotonic() - self._looked >= BEAT_SECONDS:
            self._look()

    def _look(self) -> Announcement:
        """What machine 0 says; LostMachineError if it says nothing any more, or something else."""
        self._looked = time.monotonic()
        found = read_announcement(self._store, f"trainings/{self._name}/{ANNOUNCEMENT}")
        silent = self._watch.silent(found)
        if found is None or found.token != self._announced.token or found.state == "over":
            raise LostMachineError("machine 0 has ended this training")
        if silent >= LOST_SECONDS:
            raise LostMachineError(f"machine 0 ({found.machine}) is lost: no sign of life for {silent:.0f} s")
        return found

    def _beat(self) -> None:
        self._tell({"beat": self._member.beat + 1})

    def _leave(self, message: str) -> None:
        with contextlib.suppress(CapfiltError):
            self._tell({"left": True, "message": message})

    def _tell(self, changes: Mapping[str, object]) -> None:
        self._member = self._member.model_copy(update=dict(changes))
        key = member_key(self._name, self._announced.token, self._number)
        self._store.write(key, self._member.model_dump_json().encode())


def read_announcement(store: Store, key: str) -> Announcement | None:
    """What is announced; None if nothing is, or something of another release."""
    try:
        return Announcement.model_validate_json(store.read(key)) if store.exists(key) else None
    except ValidationError:
        return None


def _end_mark(store: Store) -> bytes | None:
    return store.read(END_KEY) if store.exists(END_KEY) else None
