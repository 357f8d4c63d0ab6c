"""Starts a training as a process group of its own, listens to it, and ends it whole.

torchrun starts one worker per GPU (or per configured CPU process). Whatever ends the caller's wait - an exception, a
cancelled flow, Ctrl-C - the whole tree of processes is ended: asked first, so that a checkpoint is saved, then killed
(processes.py). No new session is opened: a worker pool that kills by process group reaches torchrun too. If the caller
itself is killed, the workers notice and leave (stopping.py).
"""

import contextlib
import logging
import math
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from components.common.cache import cache_folder
from components.common.environment import without_launcher
from components.common.errors import CapfiltError
from components.common.redact import redact
from components.training.config import LaunchConfig
from components.training.exchange import EXCHANGE_ENV
from components.training.nodes import Membership, Placement, placement
from components.training.outcome import ROOT, Outcome, forget_outcome, read_outcome
from components.training.processes import Family, claim, end_family, forget_marks
from components.training.relay import received
from components.training.stopping import GRACE_ENV, PARENT_ENV, launcher_mark

logger = logging.getLogger(__name__)

OnLine = Callable[[str], None]
OnPoint = Callable[[dict[str, Any]], None]
_TAIL_LINES = 20
_CHECK_SECONDS = 1.0
_HOPELESS_SECONDS = 5.0
_KILLED = re.compile(r"exitcode\s*:\s*-9\b")  # torchrun's report of a worker
_KILLED_HINT = (
    "a process was killed by SIGKILL, as a rule by the system's memory guard or the container's limit: lower "
    "batch_size, cache_decoded_mb, prefetch or launch.processes, or set checkpointed_layers: true"
)
SPEC_FILE = "spec.json"


def run_group(
    module: str,
    arguments: Sequence[str],
    config: LaunchConfig,
    *,
    work_dir: Path,
    on_line: OnLine | None = None,
    on_point: OnPoint | None = None,
    membership: Membership | None = None,
) -> Outcome:
    """Run `python -m module arguments…` in every process of a group and wait for its outcome.

    Args:
        module: what to run; it writes its outcome into `work_dir` (outcome.py).
        arguments: its command line.
        config: processes, threads, machines.
        work_dir: holds `training.log`, the outcome and the marks of running processes.
        on_line: called with every line the group writes.
        on_point: called with every point of the curve (relay.py).
        membership: this machine's part, where there are several.

    Raises:
        CapfiltError: what the group failed of, with its own class and message.
        ConfigError: another training is running in `work_dir`.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    claim(work_dir, config.grace_seconds)
    forget_outcome(work_dir)
    place, parts = (membership.place, membership.parts) if membership else (placement(config), "")
    command = torchrun(place, module, arguments)
    tail: list[str] = []
    killed = False
    with (work_dir / "training.log").open("a") as log, _started(command, config, work_dir, log, parts) as group:
        child, output = group
        for line in output.lines(membership.check if membership else None):
            point = received(line)
            if point is not None:
                if on_point is not None:
                    on_point(point)
                continue
            killed = killed or _KILLED.search(line) is not None
            tail = [*tail[1 - _TAIL_LINES :], line.rstrip("\n")]
            if on_line is not None:
                on_line(line.rstrip("\n"))
        code = child.wait()
    outcome = read_outcome(work_dir)
    if outcome is None and code == 0 and place.node_rank:
        return Outcome(status="finished")  # the result is machine 0's
    # A process that is killed says nothing; the others say that their connection to it broke.
    if outcome is None or (outcome.is_crash and killed):
        raise CapfiltError(_unexplained(code, work_dir, tail, killed=killed or code == -signal.SIGKILL))
    outcome.raise_if_failed()
    return outcome


class _Output:
    """Lines of a group, read and logged by a thread: one that saves while nobody listens must not wait for a full pipe.

    What anybody in the group prints is redacted here: torchrun, libraries, the trace of an error.

    Raises (while iterating): OSError, the log cannot be written.
    """

    def __init__(self, child: "subprocess.Popen[str]", log: TextIO) -> None:
        self._lines: queue.SimpleQueue[str | OSError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, args=(child, log), name="training-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the last lines reach the log."""
        self._thread.join(5.0)

    def lines(self, check: Callable[[], None] | None = None) -> Iterator[str]:
        """All lines as they come; `check` is called now and then meanwhile, and may raise."""
        while True:
            if check is not None:
                check()
            try:
                line = self._lines.get(timeout=_CHECK_SECONDS if check is not None else None)
            except queue.Empty:
                continue
            if line is None:
                return
            if isinstance(line, OSError):
                raise line
            yield line

    def _read(self, child: "subprocess.Popen[str]", log: TextIO) -> None:
        assert child.stdout is not None
        with child.stdout:
            for said in child.stdout:
                point = received(said) is not None
                line = said if point else redact(said)
                try:
                    if not point:
                        log.write(line)
                        log.flush()
                except (OSError, ValueError) as error:  # full, or closed since the group is given up
                    self._lines.put(error if isinstance(error, OSError) else None)
                self._lines.put(line)
        self._lines.put(None)


def _unexplained(code: int, work_dir: Path, tail: Sequence[str], *, killed: bool) -> str:
    hint = _KILLED_HINT if killed else ""
    lines = "\n  ".join(tail)
    return f"the training processes ended with code {code} and no result{f' ({hint})' if hint else ''}; " + (
        f"full log: {work_dir / 'training.log'}; its last lines:\n  {lines}"
    )


@contextlib.contextmanager
def _started(
    command: Sequence[str], config: LaunchConfig, work_dir: Path, log: TextIO, parts: str
) -> Iterator["tuple[subprocess.Popen[str], _Output]"]:
    """The running group and what it says; on the way out, whichever it is, nothing of it is left."""
    child = subprocess.Popen(
        command,
        env=environment(config, work_dir) | {EXCHANGE_ENV: parts},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
    )
    output, grace = _Output(child, log), config.grace_seconds
    try:
        yield child, output
    except CapfiltError:
        grace = min(grace, _HOPELESS_SECONDS)  # of a machine that is gone: no checkpoint can be saved without it
        raise
    finally:
        end_family(Family.of(work_dir, child.pid), grace)
        child.wait()
        output.close()
        forget_marks(work_dir)


def torchrun(place: Placement, module: str, arguments: Sequence[str]) -> list[str]:
    """The command that starts this machine's part of a group."""
    # no folder of logs: it would stay empty, and be left among the temporary files after every training
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *place.arguments(),
        "--log-dir",
        os.devnull,
        "-m",
        module,
        *arguments,
    ]


def threads(config: LaunchConfig) -> int:
    """CPU threads of each process: as configured, else the cores shared out."""
    return config.threads or max(1, len(os.sched_getaffinity(0)) // placement(config).processes)


def environment(config: LaunchConfig, work_dir: Path) -> dict[str, str]:
    """Environment of the group: ours, with our packages, our tools and a cache for compiled ops in reach."""
    import torch

    cache = cache_folder() / "torch_extensions"
    ours = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # A thread that waits may spin for a moment only: on 2 cores endless spinning makes a step 10 x slower as soon
        # as anybody else wants a core, and none at all makes it 1.6 x slower on a quiet machine.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "20000"),
        "OMP_NUM_THREADS": str(threads(config)),
        "MKL_NUM_THREADS": str(threads(config)),
        "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR") or str(cache / torch.__version__),
        "CAPFILT_TRAINING_DIR": str(work_dir.resolve()),
        PARENT_ENV: launcher_mark(),
        GRACE_ENV: str(config.grace_seconds),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(config.grace_seconds)),  # for a torchrun that is asked itself
    }
    if not torch.cuda.is_available():
        ours["DS_ACCELERATOR"] = "cpu"
    return without_launcher() | ours
