"""`capfilt status` tells the truth of runs that work, end, fail and are killed: real processes, real SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.contracts import StageReport
from components.common.lock import exclusive
from components.common.storage import open_store
from flows.course import NOTE_KEY, Course
from flows.layout import LOCK_KEY
from flows.status import Status, status_of
from tests.helpers.s3 import serve_s3

WORKING = """
import sys
from pathlib import Path
from components.common.lock import exclusive
from components.common.progress import Progress
from components.common.storage import open_store
from flows.course import Course, told
from flows.layout import LOCK_KEY

sys.argv = ["/somewhere/bin/capfilt", "run", "configs/sample.yaml", *sys.argv[1:]]
store = open_store(sys.argv[4])
course = Course(name="sample", rounds=1)
with exclusive(store, LOCK_KEY, "bootstrap 'sample'") as lock:
    with told(course, lock, store, bootstrap="b" * 64, scratch=Path.cwd()):
        with course.working("round-1/pretrain"), Progress(100, "pairs", "round-1/pretrain", bar=False) as work:
            work.advance(40)
            course.changed.set()
            print("working", flush=True)
            how = sys.stdin.readline().strip()
            if how == "fail":
                raise ValueError("a loss that is no number")
"""


@contextmanager
def _run(store: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run at work in its first stage of round 1."""
    command = [sys.executable, "-c", WORKING, "--set", store]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "working\n"
            yield process
        finally:
            process.kill()


def _when(store: str, holds: Callable[[Status], bool]) -> Status:
    """The status as soon as it is so; the note is written beside the work."""
    end = time.monotonic() + 60
    while not holds(found := status_of(store)):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def _told(store: str) -> str:
    result = CliRunner().invoke(app, ["status", store])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_run_that_works_and_is_killed(tmp_path: Path) -> None:
    store = str(tmp_path / "root")
    with _run(store, tmp_path) as process:
        found = _when(store, lambda one: one.note is not None and one.note.progress is not None)
        assert found.standing == "running"
        assert found.note is not None and found.note.stage == "round-1/pretrain"
        assert found.note.progress is not None and found.note.progress.startswith("40/100 (40%) pairs")
        assert found.heartbeat is not None and abs(found.asked - found.heartbeat) < 60
        text = _told(store)
        assert f"sample: running, bootstrap 'sample' (process {process.pid} on " in text
        assert "round-1/pretrain, since " in text
        assert "ui " + store in text
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = status_of(store)
    assert (found.standing, found.heartbeat, found.holder) == ("crashed", None, None)
    text = _told(store)
    assert "gone without a word" in text
    assert "round-1/pretrain" in text
    assert f" run configs/sample.yaml --set {store}" in text


def test_a_run_on_s3_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(tmp_path) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        store = f"{server.uri}/root"
        with _run(store, tmp_path) as process:
            found = _when(store, lambda one: one.note is not None and one.note.progress is not None)
            assert (found.standing, found.free_bytes) == ("running", None)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert status_of(store).standing == "crashed"
        assert f"free at {tmp_path} on " in _told(store)


def test_a_run_that_fails_says_where(tmp_path: Path) -> None:
    store = str(tmp_path / "root")
    with _run(store, tmp_path) as process:
        process.communicate("fail\n")
        assert process.returncode == 1
    found = status_of(store)
    assert found.standing == "failed"
    assert found.note is not None and found.note.error is not None
    assert (found.note.error.stage, found.note.error.kind) == ("round-1/pretrain", "ValueError")
    assert "round-1/pretrain: a loss that is no number (ValueError)" in _told(store)


def test_a_run_that_is_stopped_did_not_fail(tmp_path: Path) -> None:
    store = str(tmp_path / "root")
    with _run(store, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        process.wait()
    found = status_of(store)
    assert found.standing == "interrupted"
    assert found.note is not None and found.note.error is None


def test_a_run_that_ended(tmp_path: Path) -> None:
    store = str(tmp_path / "root")
    with _run(store, tmp_path) as process:
        process.communicate("end\n")
        assert process.returncode == 0
    assert status_of(store).standing == "ended"
    assert "next: " in _told(store)


def test_another_command_at_work_and_a_note_that_cannot_be_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write(NOTE_KEY, b'{"of": "another release"}')
    with exclusive(store, LOCK_KEY, "capfilt store gc"):
        found = status_of(store.uri)
        assert found.standing == "busy"
        assert found.note is None
        assert "capfilt store gc (process " in _told(store.uri)


def test_where_no_run_was(tmp_path: Path) -> None:
    for place, words in ((tmp_path, "no bootstrap has worked here"), (tmp_path / "no", "there is no such folder")):
        result = CliRunner().invoke(app, ["status", str(place), "--json"])
        assert result.exit_code == 1
        assert words in json.loads(result.stdout)["error"]


def _course(*stages: tuple[str, float], rounds: int = 2) -> Course:
    reports = [StageReport(stage=name, seconds=seconds, cached=False) for name, seconds in stages]
    return Course(name="sample", rounds=rounds, reports=reports)


def test_time_left_is_that_of_the_round_before() -> None:
    first = [("import/web", 9.0), ("round-0/pretrain", 100.0), ("round-0/evaluate", 20.0)]
    course = _course(*first)
    course.stage, course.stage_started = "round-0/filter", time.time()
    assert course.seconds_left(5.0) is None
    course = _course(*first, ("round-1/capfilt", 30.0))
    assert course.seconds_left(None) == pytest.approx(100 + 20 + 150)  # rest of round 1, and round 2
    course.stage, course.stage_started = "round-1/pretrain", time.time() - 40
    assert course.seconds_left(50.0) == pytest.approx(50 + 20 + 30 + 90 + 20, abs=1)
    assert course.seconds_left(None) == pytest.approx(60 + 20 + 150, abs=1)


def test_the_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    course = _course(("import/web", 9.0))
    course.started = time.time() - 65
    assert course.headline() == "sample · between stages · 1 stage done · 1:05 min so far"
    course.stage = "round-1/pretrain"
    assert course.headline().startswith("sample · round 1 of 2 · round-1/pretrain · 1 stage done · 1:05 min so far")
