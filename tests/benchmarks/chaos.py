"""CapFilt under SIGKILL: datasets made by runs that are killed at random moments, compared with undisturbed ones.

    python -m tests.benchmarks.chaos [--runs 30] [--seed 0] [--kinds folder s3 ray twins]

Every run makes a dataset of 10 small shards with `capfilt regenerate` in processes of its own. It is killed one to
three times: the process itself on a folder and on a real S3 server (shards read from there too); on a local Ray cluster
one of the actors, or the driver; `twins` are two runs at one prefix at once, on the folder and on S3 by turns, of which
one is killed. What comes out must verify, and have the digest of the undisturbed dataset. Moments are drawn by the
seed; what they meet depends on the machine and is printed.
"""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.chaos import Job, Kill, Killer, Pace
from tests.helpers.s3 import BUCKET, S3Server, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

SHARDS, SAMPLES = 10, 5
KINDS = ("folder", "s3", "twins", "ray", "s3", "folder", "s3", "twins")


def main() -> None:
    """Print a line per run and the sums; exit code 1 if a digest differs."""
    options = _options()
    kinds = [options.kinds[index % len(options.kinds)] for index in range(options.runs)]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, _world(Path(folder), kinds) as world:
        results = [world.run(index, kind, options.seed) for index, kind in enumerate(kinds)]
    kills = [kill for found, _ in results for kill in found]
    equal = sum(same for _, same in results)
    _say(
        f"{len(results)} runs, {len(kills)} kills, {sum(kill.unfinished > 0 for kill in kills)} of them within a write"
    )
    _say(f"kills by shards committed: {dict(sorted(Counter(kill.commits for kill in kills).items()))}")
    _say(f"victims: {dict(Counter(kill.victim for kill in kills))}; digests equal: {equal} of {len(results)}")
    sys.exit(equal != len(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=sorted(set(KINDS)))
    return parser.parse_args()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class World:
    """Shards, models, server and cluster, and the undisturbed datasets."""

    def __init__(self, root: Path, server: S3Server, cluster: str) -> None:
        self.root, self.server, self.cluster = root, server, cluster
        self.models = save_tiny_models(root / "models")
        write_web(root / "web", SHARDS, SAMPLES)
        write_web(server.folder / BUCKET / "web", SHARDS, SAMPLES)
        self.expected: dict[bool, str] = {}
        self.paces: dict[bool, Pace] = {}
        for far in (False, True):
            job = self.job("whole", far=far)
            self.expected[far], self.paces[far] = job.finish(), Pace.of(job.folder)
            pace = self.paces[far]
            where = "s3" if far else "folder"
            _say(f"undisturbed, {where}: {pace.first:.2f} s to the first commit, {pace.shard:.2f} s a shard")

    def job(self, name: str, *, far: bool, twin: str = "", ray: bool = False) -> Job:
        """A dataset of that name on S3 (`far`) or on the folder."""
        place = self.server.folder / BUCKET if far else self.root
        root = f"s3://{BUCKET}" if far else str(self.root)
        return Job(
            web=f"{root}/web",
            out=f"{root}/{name}/out",
            folder=place / name / "out",
            models=self.models,
            scratch=self.root / "scratch" / f"{name}{twin}",
            environment={"RAY_ADDRESS": self.cluster} if ray else {},
            options=("--engine=ray", "--workers=2") if ray else (),
        )

    def run(self, index: int, kind: str, seed: int) -> tuple[list[Kill], bool]:
        """Make one dataset against all odds; its kills, and whether it is the undisturbed one."""
        rng, started = random.Random(f"{seed} {index}"), time.monotonic()
        wanted = rng.randint(1, 3)
        ways: dict[str, Callable[[Killer, int], list[Kill]]] = {"ray": _kill_on_ray, "twins": self._kill_twin}
        kills: list[Kill] = []
        for attempt in range(5):  # a kill that comes too late is none: such a run is made again elsewhere
            far = kind == "s3" or (kind == "twins" and index // 4 % 2 == 1)
            job = self.job(f"{kind}-{index}-{attempt}", far=far, ray=kind == "ray")
            killer = Killer(job, rng, SHARDS, self.paces[far])
            kills = ways.get(kind, _kill_runs)(killer, wanted)
            if kills:
                break
        digest = job.finish()
        same = bool(kills) and digest == self.expected[far]
        told = f"{'; '.join(map(str, kills))}: {'equal' if same else 'DIFFERENT'}"
        _say(f"run {index:2d}  {kind:6s} {'s3' if far else 'folder':6s}  {told}  ({time.monotonic() - started:.0f} s)")
        return kills, same

    def _kill_twin(self, killer: Killer, kills: int) -> list[Kill]:
        """Two runs at one prefix at once; one is killed, the other goes on, and the killed one starts again."""
        job = killer.job
        other = self.job(job.folder.parent.name, far=job.web.startswith("s3://"), twin="-twin")
        twin = other.start()
        met = _kill_runs(killer, kills)
        other.ended(twin)
        return met


def _kill_runs(killer: Killer, kills: int) -> list[Kill]:
    """Start and kill, one time after the other."""
    return [kill for moment in killer.moments(kills) if (kill := killer.kill_run(moment)) is not None]


def _kill_on_ray(killer: Killer, kills: int) -> list[Kill]:
    """Kill actors under a run that goes on, and now and then the run itself."""
    met: list[Kill | None] = []
    left = killer.moments(kills)
    while left:
        known = killer.job.workplaces()
        process = killer.job.start()
        while left and process.is_alive():
            driver = killer.rng.random() < 0.25
            victim = (lambda run=process: psutil.Process(run.pid)) if driver else lambda: _an_actor(killer.rng)
            name = "driver" if driver else "actor"
            met.append(killer.kill(process, left.pop(0), victim, name=name, known=known))
        process.join()
    return [kill for kill in met if kill is not None]


def _an_actor(rng: random.Random) -> psutil.Process | None:
    """One of the processes that hold models; they are below this one, as the cluster is."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline() and process.cmdline()[0].startswith("ray::ShardWorker"):
                found.append(process)
    return rng.choice(found) if found else None


@contextlib.contextmanager
def _world(root: Path, kinds: list[str]) -> Iterator[World]:
    (root / "server").mkdir()
    with serve_s3(root / "server") as server, _cluster("ray" in kinds) as cluster:
        os.environ |= server.environment()
        yield World(root, server, cluster)


@contextlib.contextmanager
def _cluster(wanted: bool) -> Iterator[str]:
    """Address of a Ray cluster of two CPU slots on this machine."""
    if not wanted:
        yield ""
        return
    import ray

    os.environ |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}
    context: Any = ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        yield str(context.address_info["gcs_address"])
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
