"""Several `capfilt regenerate` at one prefix, stopped, continued and killed at random: what comes out must be whole.

    python -m tests.benchmarks.storm [--rounds 30] [--seed 0] [--kinds folder s3 conditional]

In every round two or three runs with different batch sizes and numbers of threads make one dataset at one place: in a
folder, on a real S3 server that knows no conditional writes (rclone's), or on the same behind a proxy that honours
them. Each is paused (SIGSTOP) for up to a few seconds or killed (SIGKILL) and started again. In the end every run must
have ended well, the dataset must verify, also after `store gc`, and each of its shards must be, file by file, that of
an undisturbed run of one of the settings.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from components.data.manifest import load_manifest
from components.data.records import ShardEntry
from components.data.versions.leftovers import collect_leftovers
from components.data.versions.verify import verify
from tests.helpers.chaos import Job
from tests.helpers.faults import serve_faults
from tests.helpers.s3 import BUCKET, S3Server, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

SHARDS, SAMPLES = 8, 5
KINDS = ("folder", "s3", "conditional")
SETTINGS = ((2, 1), (3, 2), (5, 1))  # batch size, threads
Files = tuple[str, ...]


class Storm:
    """Shards, models, servers, and what undisturbed runs make of them."""

    def __init__(self, root: Path, servers: dict[str, S3Server]) -> None:
        self.root, self.servers = root, servers
        self.models = save_tiny_models(root / "models")
        write_web(root / "web", SHARDS, SAMPLES)
        self.expected: dict[str, set[Files]] = {}
        for number in range(len(SETTINGS)):
            job = self.job("folder", f"whole-{number}", number)
            job.finish()
            for entry in load_manifest(job.out).shards:
                self.expected.setdefault(entry.name, set()).add(files_of(entry))
        several = sum(len(found) > 1 for found in self.expected.values())
        say(f"undisturbed: {several} of {SHARDS} shards differ between the settings")

    def job(self, kind: str, name: str, setting: int) -> Job:
        """A run with these settings at the place of that name."""
        batch, threads = SETTINGS[setting]
        server = self.servers.get(kind)
        place = self.root if server is None else server.folder / BUCKET
        return Job(
            web=str(self.root / "web"),
            out=str(self.root / name) if server is None else f"s3://{BUCKET}/{name}",
            folder=place / name,
            models=self.models,
            scratch=self.root / "scratch" / f"{name}-{setting}",
            environment={"OMP_NUM_THREADS": str(threads)} | ({} if server is None else server.environment()),
            options=(f"--batch-size={batch}",),
        )

    def round(self, number: int, kind: str, seed: int) -> bool:
        """One dataset, made by several runs against all odds; whether it is what it must be."""
        rng, started = random.Random(f"{seed} {number}"), time.monotonic()
        settings = rng.sample(range(len(SETTINGS)), rng.choice((2, 3)))
        jobs = [self.job(kind, f"{kind}-{number}", setting) for setting in settings]
        stops, kills = weather(jobs, rng)
        if (server := self.servers.get(kind)) is not None:
            os.environ |= server.environment()
        storage_anew()
        problems = [*verify(jobs[0].out).problems]
        left = collect_leftovers(jobs[0].out, delete=True)
        problems += [f"after gc: {one}" for one in verify(jobs[0].out).problems]
        for entry in load_manifest(jobs[0].out).shards:
            if files_of(entry) not in self.expected[entry.name]:
                problems.append(f"shard {entry.name} is that of no undisturbed run")
        told = f"{len(jobs)} runs, {stops} stops, {kills} kills, {len(left.keys)} leftovers"
        say(f"round {number:2d}  {kind:11s}  {told}: {problems or 'whole'}  ({time.monotonic() - started:.0f} s)")
        return not problems


def weather(jobs: list[Job], rng: random.Random) -> tuple[int, int]:
    """Run all jobs to their ends, with stops and kills on the way; how many of each there were."""
    stops, kills = 0, 0
    running: list[BaseProcess] = [job.start() for job in jobs]
    strikes = rng.randint(2, 5)
    while any(process.is_alive() for process in running):
        time.sleep(rng.uniform(0.1, 1.5))
        at = rng.randrange(len(jobs))
        if strikes and running[at].is_alive() and jobs[at].workplaces():
            strikes -= 1
            if rng.random() < 0.4:
                running[at].kill()
                running[at].join()
                kills += running[at].exitcode == -signal.SIGKILL
                running[at] = jobs[at].start()
            else:
                stops += stopped(running[at], rng.uniform(0.2, 4.0))
    for job, process in zip(jobs, running, strict=True):
        job.ended(process)
    return stops, kills


def stopped(process: BaseProcess, seconds: float) -> bool:
    """Pause a process for so long; False if it had ended."""
    if process.pid is None:
        return False
    try:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


def files_of(entry: ShardEntry) -> Files:
    """Hashes of a shard's files."""
    return tuple(file.sha256 for file in entry.own_files)


def storage_anew() -> None:
    """Forget S3 clients: they were made for another server."""
    from components.common.storage import s3_client

    s3_client._clients.clear()


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def servers(root: Path) -> Iterator[dict[str, S3Server]]:
    """A server without conditional writes, and one with."""
    for name in KINDS[1:]:
        (root / name).mkdir()
    with (
        serve_s3(root / "s3") as plain,
        serve_s3(root / "conditional") as behind,
        serve_faults(behind.endpoint, conditional=True) as proxy,
    ):
        yield {"s3": plain, "conditional": S3Server(proxy.endpoint, behind.folder)}


def main() -> None:
    """Print a line per round; exit code 1 if a dataset is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder, servers(Path(folder)) as running:
        storm = Storm(Path(folder), running)
        kinds = [options.kinds[number % len(options.kinds)] for number in range(options.rounds)]
        whole = sum(storm.round(number, kind, options.seed) for number, kind in enumerate(kinds))
    say(f"{whole} of {options.rounds} datasets are whole")
    sys.exit(whole != options.rounds)


if __name__ == "__main__":
    main()
