"""How a training process is stopped from outside: by a signal, or by the death of who started it."""

import logging
import os
import signal
import threading
import time
from types import FrameType

from components.common.lifetime import started
from components.training.config import LaunchConfig

logger = logging.getLogger(__name__)

EXIT_PREEMPTED = 75
"""Exit code after SIGTERM with a checkpoint saved (EX_TEMPFAIL: start again and it goes on)."""
EXIT_ORPHANED = 76
"""Exit code when the launcher has died: nobody is left to read the result."""
PARENT_ENV = "CAPFILT_LAUNCHER"
GRACE_ENV = "CAPFILT_GRACE_SECONDS"
"""Seconds to finish a step and save in: `launch.grace_seconds`, as the launcher tells its processes."""
_LOOK_SECONDS = 0.5


class StopSignal:
    """Remembers SIGTERM and SIGINT, so that the loop can save and leave between two steps.

    A process that hangs elsewhere (a collective whose peer is gone) is ended after a grace period.
    """

    def __init__(self, grace_seconds: float | None = None) -> None:
        """`grace_seconds`: by default what the launcher tells."""
        self.requested = False
        given = os.environ.get(GRACE_ENV) or LaunchConfig().grace_seconds
        self._grace = float(given) if grace_seconds is None else grace_seconds
        self._end = time.monotonic()
        self._timer: threading.Timer | None = None

    def install(self) -> "StopSignal":
        """Take over the two signals; call it in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        return self

    def acknowledge(self) -> None:
        """The loop has heard and is saving: whoever asked decides from now on how long that may take."""
        if self._timer is not None:
            self._timer.cancel()

    def is_saving(self) -> bool:
        """Whether a stop was asked for and there is time left to save in."""
        return self.requested and time.monotonic() < self._end

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self._end = time.monotonic() + self._grace
            self.requested = True
            self._timer = threading.Timer(self._grace, os._exit, args=(128 + number,))
            self._timer.daemon = True
            self._timer.start()


def launcher_mark() -> str:
    """What identifies this process to the ones it starts: `pid:start`, safe against reused pids."""
    return f"{os.getpid()}:{started(os.getpid())}"


def is_alive(mark: str) -> bool:
    """Whether the process of a mark still runs."""
    pid, start = mark.split(":")
    found = started(int(pid))
    return found is not None and abs(found - float(start)) < 1.0


def leave_with_parents(stop: StopSignal | None = None) -> None:
    """Watch, in a thread, the parent process and the launcher: when one dies, so does this process.

    SIGKILL of the launcher runs no cleanup there, and torchrun starts its workers in sessions of their own: without
    this they would train on, unseen. One that was asked to stop before may finish saving: whoever preempts us often
    kills the launcher first.

    Args:
        stop: what this process was asked.
    """
    parent, launcher = os.getppid(), os.environ.get(PARENT_ENV)

    def look() -> None:
        while os.getppid() == parent and (launcher is None or is_alive(launcher)):
            time.sleep(_LOOK_SECONDS)
        while stop is not None and stop.is_saving():
            time.sleep(_LOOK_SECONDS)
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=look, name="parent-watch", daemon=True).start()
