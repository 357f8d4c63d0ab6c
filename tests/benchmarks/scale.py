"""`make bench-scale`: what a dataset of many shards costs beside the work on its images.

    python -m tests.benchmarks.scale [--shards 1000 10000 100000] [--folder DIR]

Each step runs in a process of its own, so that its peak memory is its own: listing a folder of so many tars, planning,
bookkeeping (what a run does when it is told of a finished shard), recall of all commits, sealing, opening, and reading
every row. Tars have one text and tables two rows: what is measured is what does not depend on the images. Files are
written by this program in the form that a run leaves them in.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from components.common.contracts import ModelRef
from components.common.storage import open_store, sha256_hex
from components.common.tracking import UNTRACKED
from components.data.candidates import Candidate, candidates_to_bytes
from components.data.manifest import load_manifest
from components.data.records import Counts, ShardRecord, commit_key, own_file, pretty
from components.regeneration.config import CapfiltConfig
from components.regeneration.plan import Plan, WebInput, web_input
from components.regeneration.reading import ShardSource
from components.regeneration.run import Run
from components.regeneration.shard import Finished
from components.regeneration.stats import shard_stats
from tests.helpers.webshards import tar_bytes

CONFIG = CapfiltConfig(precision="fp32", guard={"max_top_caption_share": 1.0})
MODELS = (ModelRef(role="captioner", uri="/c", digest="c"), ModelRef(role="filter", uri="/f", digest="f"))


Step = Callable[[Path, int], float | None]
"""Does it; may say how many CPU seconds of its own count."""


def rows_of(number: int) -> list[Candidate]:
    """One image with a web text and a caption of its own."""
    caption = f"a picture of the thing numbered {number} on a table"
    return [
        Candidate(f"{number:09d}", "0" * 64, "web", "a text", 0.9, 0.3, True),
        Candidate(f"{number:09d}", "0" * 64, "synthetic", caption, 0.1, 0.1, False, "below_threshold"),
    ]


def plan_of(shards: int) -> Plan:
    """A plan of so many shards, without a look at any."""
    sources = tuple(ShardSource(f"{n:06d}", f"/web/{n:06d}.tar", 1, sha256_hex(b"%d" % n)) for n in range(shards))
    return Plan(WebInput("/web", "w" * 64, sources), *MODELS, CONFIG)


def finished(number: int, fingerprint: str) -> tuple[Finished, bytes]:
    """A shard as a worker reports it, and its table."""
    rows, name = rows_of(number), f"{number:06d}"
    table = candidates_to_bytes(rows)
    stats = shard_stats(rows, CONFIG.threshold)
    record = ShardRecord(
        name=name,
        plan=fingerprint,
        tar=own_file(name, ".tar", 1, sha256_hex(b"t")),
        parquet=own_file(name, ".parquet", len(table), sha256_hex(table)),
        counts=Counts(samples=1, kept=1, kept_pairs=1, dropped_pairs=1),
        metrics=stats.figures(),
    )
    return Finished(record, stats), table


def write_all(folder: Path, shards: int) -> None:
    """The files that a run of so many shards leaves before it is sealed."""
    plan = plan_of(shards)
    fingerprint = plan.fingerprint
    (folder / "plan.json").write_bytes(pretty(plan.as_json()))
    for name in ("shards", "commits", "web"):
        (folder / name).mkdir()
    for number in range(shards):
        done, table = finished(number, fingerprint)
        record = done.record
        web = tar_bytes([(f"{number:09d}", {"txt": b"a text"})])
        (folder / "web" / f"{record.name}.tar").write_bytes(web[:2048])
        (folder / record.tar.uri).write_bytes(b"t")
        (folder / record.parquet.uri).write_bytes(table)
        (folder / commit_key(record.name, record.digest)).write_bytes(record.to_bytes())


def measured(name: str, step: Step, folder: Path, shards: int) -> tuple[float, float]:
    """CPU seconds and peak memory in MiB of a step in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_answer, args=(answers, step, folder, shards))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{name}: ended with {process.exitcode}")
    seconds, peak = answers.get()
    return seconds, peak


def _answer(answers: "multiprocessing.SimpleQueue[tuple[float, float]]", step: Step,
            folder: Path, shards: int) -> None:  # fmt: skip
    start = time.process_time()
    told = step(folder, shards)
    answers.put(
        (
            time.process_time() - start if told is None else told,
            peak_mib(),
        )
    )


def peak_mib() -> float:
    """Peak memory of this process; `ru_maxrss` would be that of the one it was started from, where that is more."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def listing(folder: Path, shards: int) -> None:
    """Find the tars of a folder, hash them, and look for keys that repeat."""
    assert len(web_input(str(folder / "web")).shards) == shards


def planning(folder: Path, shards: int) -> None:
    """The plan, its JSON and its fingerprint."""
    plan = plan_of(shards)
    assert plan.fingerprint and json.dumps(plan.as_json())


def run_of(folder: Path, shards: int) -> Run:
    """A run that is told of nothing yet."""
    return Run("scale", plan_of(shards), open_store(str(folder)), UNTRACKED, None, lambda: None)


def bookkeeping(folder: Path, shards: int) -> float:
    """A run is told of every shard, one after the other; the seconds of that, without what workers do."""
    run = run_of(folder, shards)
    fingerprint, seconds = run.plan.fingerprint, 0.0
    for number in range(shards):
        done, _ = finished(number, fingerprint)
        start = time.process_time()
        run.finished(done)
        seconds += time.process_time() - start
    return seconds


def recalling(folder: Path, shards: int) -> None:
    """A run that begins again takes over what was committed."""
    run = run_of(folder, shards)
    assert run.recall() == []


def sealing(folder: Path, shards: int) -> float:
    """Seal, after a recall that is not counted."""
    run = run_of(folder, shards)
    run.recall()
    start = time.process_time()
    run.seal()
    return time.process_time() - start


def opening(folder: Path, shards: int) -> None:
    """Open the dataset, and look at one shard."""
    shard = load_manifest(str(folder)).shards[shards // 2]
    assert shard.name == f"{shards // 2:06d}"


def reading(folder: Path, shards: int) -> None:
    """Open the dataset and go through all of its shards."""
    assert sum(1 for _ in load_manifest(str(folder)).shards) == shards


def importing(folder: Path, shards: int) -> None:
    """Nothing: what a process costs that has imported everything."""


STEPS = (importing, listing, planning, bookkeeping, recalling, sealing, opening, reading)


def main() -> None:
    """A line per step and number of shards: seconds of CPU, so that neighbours on the machine do not count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", default=None, help="where files are written; about 1.5 GB for 100,000 shards")
    options = parser.parse_args()
    for shards in options.shards:
        with tempfile.TemporaryDirectory(prefix="scale-", dir=options.folder) as folder:
            write_all(Path(folder), shards)
            for step in STEPS:
                seconds, peak = measured(step.__name__, step, Path(folder), shards)
                _say(f"{shards:>7,} shards  {step.__name__:12} {seconds:8.2f} s  {peak:7.0f} MiB")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
