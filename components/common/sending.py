"""What is said to a server that may hang, on a thread of its own: nobody waits for it longer than they choose to.

Jobs are done in the order in which they came. While the server does not answer they wait, and are tried again after
pauses that grow; what it refuses for good is warned of and left out.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from components.common.progress import clock

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE = 60.0  # seconds that a job may take before the server counts as hung
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds between tries while nobody answers
MOST_JOBS = 10_000
_LOOK_SECONDS = 1.0


@dataclass(eq=False)
class _Job:
    what: str
    action: Callable[[], Any]
    not_before: float = 0.0
    asked: bool = False
    """somebody waits for the answer: it is tried once"""
    done: bool = False
    answer: Any = None


class Sender:
    """A thread that does jobs against one server.

    Args:
        server: what it is called in warnings.
        is_away: whether an error means that the server does not answer, so that it may later.
    """

    def __init__(self, server: str, is_away: Callable[[Exception], bool]) -> None:
        self._server, self._means_away = server, is_away
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._began: float | None = None  # the job in hand
        self._away_since: float | None = None
        self._pause, self._paused_until = FIRST_PAUSE, 0.0
        self._finished = 0

    def tell(self, what: str, action: Callable[[], object], *, after: float = 0.0) -> None:
        """Do it when its turn comes, `after` seconds from now at the earliest."""
        self._put(_Job(what, action, time.monotonic() + after if after else 0.0))

    def ask(self, what: str, action: Callable[[], T], patience: float | None = None) -> T | None:
        """Its answer; None with a warning where it fails, and soon where nobody answers.

        What came before is waited for as long as it goes on.

        Args:
            patience: seconds that any one job may take meanwhile; by default PATIENCE.
        """
        job = _Job(what, action, asked=True)
        with self._changed:
            if not self._is_away(patience):
                self._put(job)
                while not job.done and not self._is_away(patience):
                    self._changed.wait(_LOOK_SECONDS)
                if job in self._jobs:
                    self._jobs.remove(job)
        if not job.done:
            logger.warning("%s: could not %s: it does not answer", self._server, what)
        answer: T | None = job.answer
        return answer

    def _is_away(self, patience: float | None = None) -> bool:
        """Whether it did not answer the last time, or lets somebody wait for long now."""
        began, most = self._began, PATIENCE if patience is None else patience
        return self._away_since is not None or (began is not None and time.monotonic() - began > most)

    def hurry(self) -> None:
        """Do now what was put off."""
        with self._changed:
            for job in self._jobs:
                job.not_before = 0.0
            self._changed.notify_all()

    def drain(self, seconds: float) -> int:
        """Wait until all is done, as long as something is done within so many seconds; the number of jobs left."""
        self.hurry()
        with self._changed:
            self._paused_until, self._pause = 0.0, FIRST_PAUSE  # more tries, soon
            self._changed.notify_all()
            finished, deadline = self._finished, time.monotonic() + seconds
            while (self._jobs or self._began is not None) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
                if self._finished > finished:
                    finished, deadline = self._finished, time.monotonic() + seconds
            return len(self._jobs) + (self._began is not None)

    def _put(self, job: _Job) -> None:
        with self._changed:
            if len(self._jobs) >= MOST_JOBS:
                dropped = self._jobs.popleft()
                dropped.done = True
                logger.warning("%s: %s is left out: too much waits", self._server, dropped.what)
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"sender-{self._server}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            job = self._next()
            error = self._do(job)
            with self._changed:
                self._began = None
                if error is not None and self._means_away(error):
                    self._went_away(job, error)
                else:
                    self._answered(job, error)
                self._changed.notify_all()

    def _next(self) -> _Job:
        """The first job whose time has come; waits for one."""
        with self._changed:
            while True:
                now = time.monotonic()
                ready = next((job for job in self._jobs if job.not_before <= now), None)
                if ready is not None and now >= self._paused_until:
                    self._jobs.remove(ready)
                    self._began = now
                    return ready
                times = [max(job.not_before, self._paused_until) for job in self._jobs]
                self._changed.wait(min(times) - now if times else None)

    def _do(self, job: _Job) -> Exception | None:
        try:
            job.answer = job.action()
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            return error
        return None

    def _went_away(self, job: _Job, error: Exception) -> None:
        if self._away_since is None:
            self._away_since, self._pause = time.monotonic(), FIRST_PAUSE
            logger.warning(
                "%s: could not %s: %s; what is to be sent waits, the work goes on",
                self._server,
                job.what,
                first_line(error),
            )
        self._paused_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if not job.asked:
            self._jobs.appendleft(job)

    def _answered(self, job: _Job, error: Exception | None) -> None:
        if self._away_since is not None:
            logger.info("%s answers again, after %s", self._server, clock(time.monotonic() - self._away_since))
        self._away_since, self._paused_until = None, 0.0
        if error is not None:
            logger.warning("%s: could not %s: %s", self._server, job.what, first_line(error))
        job.done = True
        self._finished += 1


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return str(error).splitlines()[0] if str(error) else repr(error)
