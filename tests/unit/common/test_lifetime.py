"""Who lives is known whatever becomes of the time of day."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.common import lifetime
from components.common.lifetime import started
from components.common.lock import BusyError, exclusive
from components.common.storage import open_store
from components.training.stopping import is_alive, launcher_mark


@pytest.fixture
def clock_set_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour later, as after a night's sleep of the machine: psutil reckons starts from there."""
    begun = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: begun(self) + 3600.0)


def test_a_launcher_lives_though_the_clock_was_set(request: pytest.FixtureRequest) -> None:
    mark = launcher_mark()
    assert is_alive(mark)
    request.getfixturevalue("clock_set_anew")
    assert is_alive(mark)
    pid, start = mark.split(":")
    assert not is_alive(f"{pid}:{float(start) - 30}"), "an earlier process of the same number"


def test_a_lock_is_held_though_the_clock_was_set(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    hold = (
        "import sys\nfrom components.common.lock import exclusive\nfrom components.common.storage import open_store\n"
        "with exclusive(open_store(sys.argv[1]), 'locks/x.json', 'another'):\n"
        "    print('held', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        request.getfixturevalue("clock_set_anew")
        store = open_store(str(tmp_path))
        with pytest.raises(BusyError, match="another works here"), exclusive(store, "locks/x.json", "next"):
            pytest.fail("two at once")


def test_who_has_ended_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        before = started(os.getpid())
        assert before is not None and started(child.pid) - before >= 0  # type: ignore[operator]
        child.kill()
        while child.poll() is None and started(child.pid) is not None:  # a zombie is gone, too
            time.sleep(0.01)
        assert started(child.pid) is None
    assert started(child.pid) is None


def test_other_systems_tell_by_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "_since_boot", lambda pid: None)
    assert started(os.getpid()) == pytest.approx(psutil.Process().create_time())
