import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from components.common.scratch import ScratchFolder

HOLD = """
import sys, time
from pathlib import Path
from components.common.scratch import ScratchFolder
folder = ScratchFolder("test", Path(sys.argv[1]))
print(folder.path, flush=True)
time.sleep(60)
"""


def aged(folder: Path) -> Path:
    old = time.time() - 3600
    os.utime(folder, (old, old))
    return folder


def hold(parent: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True)


def test_gone_when_closed(tmp_path: Path) -> None:
    with ScratchFolder("test", tmp_path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "capfilt-test-foreign").mkdir()
    with hold(tmp_path) as killed, hold(tmp_path) as alive:
        assert killed.stdout is not None and alive.stdout is not None
        left, kept = (aged(Path(one.stdout.readline().strip())) for one in (killed, alive) if one.stdout)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        other = ScratchFolder("other", tmp_path)
        young = ScratchFolder("test", tmp_path)
        assert not left.exists()
        assert kept.is_dir() and other.path.is_dir() and young.path.is_dir()
        assert aged(tmp_path / "capfilt-test-foreign").is_dir()
        alive.kill()
    young.close()
    ScratchFolder("test", tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"capfilt-test-foreign", other.path.name}
    other.close()
