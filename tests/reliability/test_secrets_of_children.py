"""What the processes that we start print, log and die of is as clean as what we say ourselves."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.common.errors import CapfiltError
from components.training.config import LaunchConfig
from components.training.group import run_group

SECRET = "wJalrXUtnFEMI"


def test_a_training_says_no_secret_in_its_log_its_outcome_or_its_error(tmp_path: Path) -> None:
    heard: list[str] = []
    launch = LaunchConfig(processes=1, threads=1)
    with pytest.raises(CapfiltError, match=r"no answer from s3://\*\*\*@bucket/d") as error:
        run_group("tests.helpers.leaking_training", [str(tmp_path)], launch, work_dir=tmp_path, on_line=heard.append)
    assert {line for line in heard if line.startswith("fetching")} >= {
        f"fetching s3://***@bucket/{name}" for name in "abc"
    }
    assert any(line.startswith("OSError") for line in heard), "the trace is there"
    told = "\n".join([*heard, str(error.value)])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "training.log" in files
    assert SECRET not in told
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


WORKER = """
import logging, sys, threading
from types import SimpleNamespace
from components.regeneration.worker import ShardWorker
LOGIN = "http://me:wJalrXUtnFEMI@host"
def models(slot, folder):
    print("reading", LOGIN)
    print("reading", LOGIN, file=sys.stderr)
    logging.getLogger("x").error("reading %s", LOGIN)
    thread = threading.Thread(target=lambda: int(LOGIN))
    thread.start()
    thread.join()
assignment = SimpleNamespace(work_dir=None, store_uri=sys.argv[1], plan=SimpleNamespace(fingerprint="f"), models=models)
ShardWorker(assignment).close()
"""


def test_a_worker_of_capfilt_prints_no_secret(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "reading http://***@host\n"
    assert done.stderr.count("reading http://***@host") == 2
    assert "ValueError: invalid literal" in done.stderr
    assert SECRET not in done.stderr
