"""`capfilt regenerate` in processes of its own, killed at random moments of its work: SIGKILL, nothing less."""

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from capfilt.cli.main import app
from components.common.contracts import ModelRef
from components.data.manifest import load_manifest
from components.data.versions.verify import verify

# Forks of a process that has done the imports, so that a run is mostly work, and the kills meet that.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "capfilt.cli.main",
        "components.regeneration.run",
        "components.model.checkpoints.weights",
        "components.common.storage",
        "boto3",
        __name__,
    ]
)
PATIENCE = 300.0  # seconds after which a process that shows no sign of work is taken for stuck


def _regenerate(options: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """`capfilt regenerate` in this process, its words into the log."""
    os.environ.update(environment)
    tempfile.tempdir = None
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    app(["regenerate", *options])


@dataclass(frozen=True)
class Job:
    """One dataset to be made.

    Args:
        web: folder or prefix with the shards.
        out: root of the dataset, a folder or a prefix.
        folder: where the files of `out` lie on this machine (behind the S3 server, if it is a prefix).
        models: captioner and filter.
        scratch: temporary folder of its processes.
        environment: variables beside this process's own.
        options: further ones of `capfilt regenerate`.
    """

    web: str
    out: str
    folder: Path
    models: tuple[ModelRef, ModelRef]
    scratch: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def start(self) -> BaseProcess:
        """Begin, or go on."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        options = [f"--{name}={value}" for name, value in (("web", self.web), ("out", self.out))]
        options += [f"--{ref.role}={ref.uri}" for ref in self.models] + ["--batch-size=2", *self.options]
        environment = {**os.environ, "TMPDIR": str(self.scratch), **self.environment}
        process = _FORKS.Process(target=_regenerate, args=(options, environment, self.scratch / "log"))
        process.start()
        return process

    def finish(self) -> str:
        """Run to the end; the dataset's digest, after every file of it was checked."""
        self.ended(self.start())
        problems = verify(self.out).problems
        if problems:
            raise AssertionError(f"{self.out}: {problems}")
        return load_manifest(self.out).digest

    def ended(self, process: BaseProcess) -> None:
        """Wait for the end of a run that must be good."""
        process.join()
        if process.exitcode != 0:
            raise AssertionError(f"{self.out}: ended with {process.exitcode}\n{(self.scratch / 'log').read_text()}")

    def commits(self) -> int:
        """Shards committed by now."""
        return len(list(self.folder.glob("commits/[0-9]*.json")))

    def sealed(self) -> bool:
        """Whether the dataset is finished."""
        return (self.folder / "manifest.json").exists()

    def unfinished_files(self) -> int:
        """Files that were being written, here and in the scratch folder."""
        return len(list(self.folder.rglob(".*.tmp"))) + len(list(self.scratch.rglob("*.partial")))

    def workplaces(self) -> set[Path]:
        """The scratch folders of runs that have their plan and begin to work."""
        return set(self.scratch.glob("capfilt-*/capfilt-*"))


@dataclass(frozen=True)
class Pace:
    """Seconds from the plan to the first commit, and from one commit to the next."""

    first: float
    shard: float

    @classmethod
    def of(cls, folder: Path) -> "Pace":
        """As an undisturbed run left it."""
        times = sorted(path.stat().st_mtime for path in folder.glob("commits/*.json"))
        begun = (folder / "plan.json").stat().st_mtime
        return cls(times[0] - begun, (times[-1] - times[0]) / (len(times) - 1))


@dataclass(frozen=True)
class Kill:
    """A kill that met its victim: shards committed before the start and at the kill, files it left half-written."""

    victim: str
    before: int
    commits: int
    unfinished: int

    def __str__(self) -> str:
        left = f", {self.unfinished} files half-written" if self.unfinished else ""
        return f"{self.victim} at {self.commits}{left}"


class Killer:
    """Kills at random moments of the work: while models are loaded, within the next write, or at any time after.

    Most of a short run is imports, so a moment drawn over its whole time would hardly ever meet work.
    """

    def __init__(self, job: Job, rng: random.Random, shards: int, pace: Pace) -> None:
        self.job, self.rng, self.shards, self.pace = job, rng, shards, pace

    def moments(self, kills: int) -> list[int]:
        """Commits to wait for, in order."""
        return sorted(self.rng.randrange(self.shards) for _ in range(kills))

    def kill_run(self, commits: int) -> Kill | None:
        """Start a run and kill it; None if it was finished before."""
        known = self.job.workplaces()
        process = self.job.start()
        kill = self.kill(process, commits, lambda: psutil.Process(process.pid), known=known)
        process.join()
        return kill

    def kill(
        self,
        process: BaseProcess,
        commits: int,
        victim: Callable[[], psutil.Process | None],
        *,
        name: str = "run",
        known: AbstractSet[Path] = frozenset(),
    ) -> Kill | None:
        """Kill the process that `victim` names once so many shards are committed and work goes on.

        Args:
            process: the run.
            commits: shards to wait for; one more than before the start, unless loading is the moment drawn.
            victim: called when the moment has come.
            name: what the victim is.
            known: workplaces of earlier starts, which the killed ones have left behind.

        Returns:
            None if the run was finished before, or there was no victim.
        """
        job, before, unfinished = self.job, self.job.commits(), self.job.unfinished_files()
        moment = self.rng.choices(["loading", "writing", "any"], [1, 2, 3])[0]
        commits = before if moment == "loading" else max(commits, before + 1)
        signs: dict[str, Callable[[], bool]] = {
            "work": lambda: bool(job.workplaces() - known) and job.commits() >= commits,
            "write": lambda: moment != "writing" or job.unfinished_files() > unfinished,
        }
        met = all(_seen(sign, process, job.out) for sign in signs.values())
        time.sleep({"loading": self.pace.first, "writing": 0.0, "any": 2 * self.pace.shard}[moment] * self.rng.random())
        if not met or not process.is_alive() or job.sealed() or (target := victim()) is None:
            return None
        target.kill()
        target.wait(PATIENCE)
        return Kill(name, before, job.commits(), job.unfinished_files() - unfinished)


def _seen(sign: Callable[[], bool], process: BaseProcess, out: str) -> bool:
    """Wait for a sign; False if the process ends without."""
    deadline = time.monotonic() + PATIENCE
    while not sign():
        if not process.is_alive():
            return False
        if time.monotonic() > deadline:
            raise AssertionError(f"{out}: no sign of work within {PATIENCE} s")
        time.sleep(0.001)
    return True
