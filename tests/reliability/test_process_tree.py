"""Whatever ends a training's launcher, nothing of the training stays behind: real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.common.errors import CapfiltError, ConfigError, PreemptedError
from components.training.config import LaunchConfig
from components.training.group import OnLine, run_group
from tests.helpers.distributed import curve, run_toy, toy_config

ROOT = Path(__file__).resolve().parents[2]
TWO = LaunchConfig(processes=2, threads=1, grace_seconds=1.0)


def run_sleepers(folder: Path, *options: str, on_line: OnLine | None = None) -> None:
    arguments = ["--work-dir", str(folder), *options]
    run_group("tests.helpers.sleeper", arguments, TWO, work_dir=folder, on_line=on_line)


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def all_gone(processes: list[psutil.Process], seconds: float = 30.0) -> bool:
    gone, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def bystanders() -> set[psutil.Process]:
    """Children of this process that were there before, such as another test's server."""
    return set(family(os.getpid()))


def workers_of(work_dir: Path) -> list[psutil.Process]:
    return [psutil.Process(int(mark.name.split(":")[0])) for mark in (work_dir / "processes").glob("*:*")]


def test_an_exception_ends_the_whole_tree_even_deaf_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bystanders: set[psutil.Process]
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    seen: list[psutil.Process] = []

    def cancel(_line: str) -> None:
        seen.extend(set(family(os.getpid())) - bystanders)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sleepers(tmp_path, "--deaf", on_line=cancel)
    assert len(seen) >= 3
    assert all_gone(seen)
    assert not (tmp_path / "torchrun").exists()
    assert not list(temporary.glob("torchelastic_*")), "torchrun's folder of logs"


LAUNCHER = """
import sys
from pathlib import Path
from components.training.config import LaunchConfig
from components.training.group import run_group
folder = Path(sys.argv[1])
two = LaunchConfig(processes=2, threads=1)
say = lambda line: print(line, flush=True)
run_group("tests.helpers.sleeper", ["--work-dir", str(folder)], two, work_dir=folder, on_line=say)
"""


def start_launcher(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LAUNCHER, str(folder)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]
    return child


def test_kill_9_of_the_launcher_leaves_no_orphans_and_the_next_start_is_free(tmp_path: Path) -> None:
    with start_launcher(tmp_path) as child:
        with pytest.raises(ConfigError, match="running in .* already"):
            run_sleepers(tmp_path)
        tree = family(child.pid)
        assert len(tree) >= 3
        child.kill()
        assert all_gone(tree)
    with pytest.raises(CapfiltError, match="ended with code"):
        run_group("json.tool", ["/nonexistent"], LaunchConfig(processes=1, threads=1), work_dir=tmp_path)


def test_workers_that_outlived_a_killed_launcher_are_ended_at_the_next_start(tmp_path: Path) -> None:
    with start_launcher(tmp_path) as child:
        workers = workers_of(tmp_path)
        assert len(workers) == 2
        for process in workers:
            process.suspend()  # cannot notice anything by themselves
        tree = family(child.pid)
        child.kill()
    with pytest.raises(CapfiltError, match="ended with code"):
        run_group("json.tool", ["/nonexistent"], TWO, work_dir=tmp_path)
    assert all_gone(tree)


def test_kill_9_of_torchrun_ends_the_workers(tmp_path: Path, bystanders: set[psutil.Process]) -> None:
    def kill_torchrun(_line: str) -> None:
        if len(workers_of(tmp_path)) == 2:
            seen.extend(set(family(os.getpid())) - bystanders)
            torchrun = workers_of(tmp_path)[0].parent()
            assert torchrun is not None
            torchrun.kill()

    seen: list[psutil.Process] = []
    with pytest.raises(CapfiltError, match="code -9"):
        run_sleepers(tmp_path, on_line=kill_torchrun)
    assert all_gone(seen)  # the sleepers sleep for two minutes


def test_sigterm_saves_and_the_next_start_goes_on_from_there(tmp_path: Path) -> None:
    config = toy_config(launch={"processes": 2, "threads": 1}, steps=60, checkpoint={"every_steps": 0, "keep": 1})

    def preempt(line: str) -> None:
        if line == "step 5":
            torchrun = workers_of(tmp_path)[0].parent()
            assert torchrun is not None
            torchrun.send_signal(signal.SIGTERM)

    with pytest.raises(PreemptedError, match="stopped by a signal after step"):
        run_toy(config, tmp_path, ["--step-seconds", "0.1"], on_line=preempt)
    before = curve(tmp_path)
    assert 5 <= len(before) < 60
    resumed = run_toy(config, tmp_path)
    assert resumed.result["start"] == len(before)
    assert curve(tmp_path)[: len(before)] == before
    assert len(curve(tmp_path)) == 60


PREEMPTED = """
import sys
from pathlib import Path
import typer
from capfilt.cli.console import command
from tests.helpers.distributed import run_toy, toy_config
launch = {"processes": 1, "threads": 1, "grace_seconds": float(sys.argv[2])}
config = toy_config(launch=launch, steps=60, checkpoint={"every_steps": 0, "keep": 1})
try:
    with command():
        run_toy(config, Path(sys.argv[1]), sys.argv[3:], on_line=lambda line: print(line, flush=True))
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def preempt(folder: Path, grace: float, *options: str) -> tuple[int, str]:
    """Start a training as the command line does and send SIGTERM to it in its second step: exit code and stderr."""
    command = [sys.executable, "-c", PREEMPTED, str(folder), str(grace), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        assert any(line == "step 1\n" for line in child.stdout)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        child.send_signal(signal.SIGTERM)  # as Slurm does when the time is up
        said = child.stderr.read()
    return child.returncode, said


@pytest.mark.slow
def test_a_slow_step_and_a_slow_checkpoint_survive_a_preemption(tmp_path: Path) -> None:
    """Longer than a process had for its step (15 s) and its launcher for all (20 s), when these were fixed."""
    code, said = preempt(tmp_path, 90.0, "--step-seconds", "17", "--save-seconds", "5")
    assert code == 130, said
    assert "stopping; run the same command again" in said and "saving and stopping" in said and "s left" in said
    assert "Traceback" not in said
    before = curve(tmp_path)
    config = toy_config(launch={"processes": 1, "threads": 1}, steps=60, checkpoint={"every_steps": 0, "keep": 1})
    assert run_toy(config, tmp_path).result["start"] == len(before) == 2
    assert curve(tmp_path)[:2] == before


@pytest.mark.slow
def test_a_checkpoint_slower_than_the_grace_is_given_up_in_words(tmp_path: Path) -> None:
    code, said = preempt(tmp_path, 4.0, "--step-seconds", "1", "--save-seconds", "600")
    assert code == 130 and "raise launch.grace_seconds" in said, said
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_checkpoint_is_finished_though_the_launcher_is_killed(tmp_path: Path) -> None:
    """Whoever preempts us may kill the launcher before its processes are ready."""
    options = ["--step-seconds", "1", "--save-seconds", "4"]
    command = [sys.executable, "-c", PREEMPTED, str(tmp_path), "60", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert any(line == "step 1\n" for line in child.stdout)
        workers = workers_of(tmp_path)
        child.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        child.kill()
        assert all_gone(workers, 100.0)
    assert list((tmp_path / "checkpoints").glob("step-*"))
