"""Processes of a training: marks of who runs, and the end of all of them, with time to save a checkpoint."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from components.common.errors import ConfigError
from components.training.stopping import is_alive, launcher_mark

logger = logging.getLogger(__name__)

_TELL_SECONDS = 5.0
_EMPTY_SECONDS = 10.0  # for a group of which no process trains: there is nothing to save


@dataclass(frozen=True)
class Family:
    """A group's processes: the workers, which can save, and all around them."""

    workers: Sequence[psutil.Process]
    others: Sequence[psutil.Process]

    @classmethod
    def of(cls, work_dir: Path, launched: int | None = None) -> "Family":
        """Those that left their mark in `work_dir` and all below; the process `launched` and all below.

        Marks find workers that outlive a killed torchrun in sessions of their own.
        """
        workers, others = [], list[psutil.Process]()
        for mark in (work_dir / "processes").glob("*:*"):
            if is_alive(mark.name):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(int(mark.name.split(":")[0]))
                    workers.append(process)
                    others += process.children(recursive=True)
        if launched is not None:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(launched)
                others += [root, *root.children(recursive=True)]
        return cls(workers, sorted(set(others) - set(workers), key=lambda process: process.pid))


def claim(work_dir: Path, grace: float) -> None:
    """Make this process the only launcher in `work_dir`, and end what a killed one left behind.

    Raises:
        ConfigError: another one is at work there.
    """
    owner = work_dir / "launcher.mark"
    if owner.is_file():
        mark = owner.read_text().strip()
        if mark != launcher_mark() and is_alive(mark):
            raise ConfigError(
                f"a training is running in {work_dir} already, started by process {mark.split(':')[0]}; wait for it, "
                "stop it, or use another folder"
            )
    leftovers = Family.of(work_dir)
    if leftovers.workers:
        logger.warning("ending %d training processes that a killed run left behind", len(leftovers.workers))
        end_family(leftovers, grace)
    forget_marks(work_dir)
    owner.write_text(launcher_mark())


def leave_mark(work_dir: Path) -> None:
    """Called by a worker at its start: lets the launcher, or the next one, find it."""
    folder = work_dir / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / launcher_mark()).touch()


def forget_marks(work_dir: Path) -> None:
    """Remove the marks of processes that are gone."""
    for mark in (work_dir / "processes").glob("*:*"):
        mark.unlink(missing_ok=True)


def end_family(family: Family, grace: float) -> None:
    """Ask processes to end, wait and tell for how long, and kill those that stay; a second Ctrl-C kills at once.

    The workers alone are asked while there are any: torchrun leaves once they have, and asked itself it would kill
    them by a limit of its own.
    """
    everybody = [*family.workers, *family.others]
    if not family.workers:
        grace = min(grace, _EMPTY_SECONDS)
    for process in family.workers or family.others:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    try:
        with _deaf_to_sigterm():
            _await_end(everybody, grace, saving=len(family.workers))
    finally:
        _, alive = psutil.wait_procs(everybody, timeout=0)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=5.0)


def _await_end(processes: Sequence[psutil.Process], grace: float, *, saving: int) -> None:
    end = time.monotonic() + grace
    _, alive = psutil.wait_procs(list(processes), timeout=min(_TELL_SECONDS, grace))
    while alive and (left := end - time.monotonic()) > 0:
        if saving:
            logger.warning(
                "saving and stopping %d training processes, %.0f s left (launch.grace_seconds); Ctrl-C stops them at "
                "once",
                saving,
                left,
            )
        _, alive = psutil.wait_procs(alive, timeout=min(_TELL_SECONDS, left))
    if alive and saving:
        logger.warning(
            "%d processes did not stop within %.0f s and are killed; what was trained since the last checkpoint is "
            "lost. If saving takes longer, raise launch.grace_seconds",
            len(alive),
            grace,
        )


@contextlib.contextmanager
def _deaf_to_sigterm() -> Iterator[None]:
    """A second SIGTERM, which Slurm sends at the end of a job's time, must not cut the saving short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
