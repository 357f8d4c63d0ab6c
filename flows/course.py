"""The course of a run, as it is told while it goes on: which stage it is at, since when, and how long it will take.

A run keeps it in memory for the terminal, and as a note in the store (`status/bootstrap.json`) for `capfilt status`,
on whichever machine that is called. The note decides nothing: results are found by their records, with or without it.
"""

import contextlib
import logging
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from components.common import patience, progress, screen
from components.common.contracts import Contract, StageReport
from components.common.diskspace import free_space
from components.common.errors import PreemptedError, StorageError
from components.common.lock import Lock
from components.common.programs import program
from components.common.progress import clock
from components.common.redact import redact
from components.common.storage import Store

logger = logging.getLogger(__name__)

NOTE_KEY = "status/bootstrap.json"
NOTE_SECONDS = 10.0  # between two notes while nothing happens but progress
_WRITE_SECONDS = 5.0  # for a note, where the store is slow; the next one may do

State = Literal["running", "ended", "failed", "interrupted"]


class Trouble(Contract):
    """What went wrong."""

    stage: str | None = Field(description="where; null: between two stages")
    kind: str = Field(description="class of the error")
    message: str
    when: float = Field(description="seconds since 1970")


class Note(Contract):
    """What a run says of itself. Times are seconds since 1970 by the clock of its machine."""

    name: str = Field(description="of the bootstrap")
    bootstrap: str = Field(description="its id")
    token: str = Field(description="of its ticket in the store's lock, by which the note is known to be of that run")
    state: State
    command: str | None = Field(description="what was typed to start it; null where it was started otherwise")
    host: str
    started: float
    written: float
    rounds: int = Field(description="rounds it was asked for, beside round 0")
    stages_done: int = Field(description="stages behind it, found done or worked")
    stage: str | None = Field(description="the one it works on")
    stage_started: float | None
    progress: str | None = Field(description="how far the work in hand is, e.g. `3,840/12,800 (30%) pairs, 162/s`")
    stage_seconds_left: float | None = Field(description="estimate for the work in hand")
    seconds_left: float | None = Field(description="estimate for the run; null before the second round has begun")
    error: Trouble | None = Field(description="the last thing that went wrong, also if it was overcome by a retry")
    free_bytes: int = Field(description="on the disk of its work folder")
    work_folder: str


@dataclass
class Course:
    """Where a run is. It is written by the run's thread and read by others, a plain value at a time."""

    name: str = ""
    rounds: int = 0
    started: float = field(default_factory=time.time)
    stage: str | None = None
    stage_started: float | None = None
    reports: list[StageReport] = field(default_factory=list)
    error: Trouble | None = None
    changed: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """A stage is worked on while the block runs; an error that leaves it is remembered."""
        self.stage, self.stage_started = stage, time.time()
        self.changed.set()
        try:
            yield
        except BaseException as error:
            if _is_trouble(error):
                self.error = _trouble(stage, error)
            raise
        self.stage = self.stage_started = None

    def seconds_left(self, stage_left: float | None) -> float | None:
        """Estimated seconds to the end of the run: the stages of a round take as long as in the round before.

        Args:
            stage_left: what the stage in hand is estimated to need still, if anything is known.

        Returns:
            The estimate; None in round 0, of which nobody knows how long it takes.
        """
        number, now = _place(self.stage or (self.reports[-1].stage if self.reports else ""))
        if not number:
            return None
        elapsed = 0.0 if self.stage_started is None else time.time() - self.stage_started
        times = {name: seconds for at, name, seconds in self._rounds() if at == number - 1}
        done = {name: seconds for at, name, seconds in self._rounds() if at == number}
        times |= done
        if self.stage is not None:
            times[now] = max(elapsed + (stage_left or 0.0), times.get(now, 0.0) if stage_left is None else 0.0)
        ahead = sum(seconds for name, seconds in times.items() if name not in done)
        return max(ahead - elapsed, 0.0) + (self.rounds - number) * sum(times.values())

    def headline(self) -> str:
        """One line: name, round, stage, time so far, time left."""
        number, _ = _place(self.stage or "")
        work = progress.current()
        left = self.seconds_left(None if work is None else work.seconds_left)
        done = len(self.reports)
        parts = [
            self.name,
            "" if number is None else f"round {number} of {self.rounds}",
            self.stage or ("between stages" if self.reports else "starting"),
            f"{done} stage{'s' * (done != 1)} done" if done else "",
            f"{clock(time.time() - self.started)} so far" + ("" if left is None else f", about {clock(left)} left"),
        ]
        return " · ".join(filter(None, parts))

    def _rounds(self) -> Iterator[tuple[int, str, float]]:
        """Finished stages of rounds: round, stage within it, seconds."""
        for report in list(self.reports):
            number, name = _place(report.stage)
            if number is not None:
                yield number, name, report.seconds


@contextlib.contextmanager
def told(course: Course, lock: Lock, store: Store, *, bootstrap: str, scratch: Path) -> Iterator[None]:
    """Keep the note of a run in its store while the block runs, and the screen, if there is one, on its course.

    Args:
        course: what is told.
        lock: of the store; nothing is written once it is lost, for another run has the store then.
        store: gets the note.
        bootstrap: its id.
        scratch: work folder, whose disk is looked at.
    """
    notes = _Notes(course, lock, store, bootstrap, scratch)
    notes.write("running")
    thread = threading.Thread(target=notes.keep, name="status-note", daemon=True)
    thread.start()
    state: State = "ended"
    try:
        with screen.following(course.headline):
            yield
    except BaseException as error:
        state = "failed" if _is_trouble(error) else "interrupted"
        if state == "failed" and (course.error is None or course.error.message != _words(error)):
            course.error = _trouble(course.stage, error)
        raise
    finally:
        notes.stop(thread)
        notes.write(state)


def read_note(store: Store) -> Note | None:
    """The note of the last run that kept one; None where there is none, or one of another release."""
    if not store.exists(NOTE_KEY):
        return None
    try:
        return Note.model_validate_json(store.read(NOTE_KEY))
    except ValidationError as error:
        logger.debug("%s: %s", NOTE_KEY, error)
        return None


class _Notes:
    """Writes the note of a run. A store that does not take it is only told of: the work goes on."""

    def __init__(self, course: Course, lock: Lock, store: Store, bootstrap: str, scratch: Path) -> None:
        self._course, self._lock, self._store, self._scratch = course, lock, store, scratch
        self._fixed = {
            "bootstrap": bootstrap,
            "token": lock.token,
            "command": _command(),
            "host": socket.gethostname(),
        }
        self._over = threading.Event()

    def keep(self) -> None:
        """Write at every new stage, and now and then."""
        while not self._over.is_set():
            self._course.changed.wait(NOTE_SECONDS)
            self._course.changed.clear()
            if not self._over.is_set():
                self.write("running")

    def stop(self, thread: threading.Thread) -> None:
        """No note is written by the thread any more."""
        self._over.set()
        self._course.changed.set()
        thread.join(_WRITE_SECONDS)

    def write(self, state: State) -> None:
        """Write the note as of now."""
        if not self._lock.held:
            return
        try:
            with patience.at_most(_WRITE_SECONDS):
                self._store.write(NOTE_KEY, self._note(state).model_dump_json(indent=1).encode())
        except (StorageError, OSError) as error:
            logger.debug("the note of this run could not be written: %s", error)

    def _note(self, state: State) -> Note:
        course, work = self._course, progress.current() if state == "running" else None
        left = None if work is None else work.seconds_left
        folder, free = free_space(self._scratch)
        return Note(
            **self._fixed,
            name=course.name,
            state=state,
            started=course.started,
            written=time.time(),
            rounds=course.rounds,
            stages_done=len(course.reports),
            stage=course.stage,
            stage_started=course.stage_started,
            progress=None if work is None else work.count(),
            stage_seconds_left=left,
            seconds_left=course.seconds_left(left) if state == "running" else None,
            error=course.error,
            free_bytes=free,
            work_folder=str(folder),
        )


def _place(stage: str) -> tuple[int | None, str]:
    """Round and name within it: `round-1/pretrain` is (1, pretrain); a stage of no round has None."""
    first, _, name = stage.partition("/")
    number = first.removeprefix("round-")
    return (int(number), name) if first != number and number.isdigit() else (None, stage)


def _is_trouble(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, PreemptedError)


def _trouble(stage: str | None, error: BaseException) -> Trouble:
    return Trouble(stage=stage, kind=type(error).__name__, message=_words(error), when=time.time())


def _words(error: BaseException) -> str:
    return redact(str(error) or repr(error))


def _command() -> str | None:
    """What was typed, where it was `capfilt run …`."""
    name, *arguments = sys.argv
    if Path(name).name not in ("capfilt", "main.py") or arguments[:1] != ["run"]:
        return None
    return redact(shlex.join([program("capfilt"), *arguments]))
