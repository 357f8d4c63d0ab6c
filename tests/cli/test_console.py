"""The frame of every command: terminals of any encoding, and signals answered at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from capfilt.cli.console import GOES_ON, command
from components.common.errors import PreemptedError

LATIN = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "capfilt.cli.main", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ["latin-1", "koi8-r"])
def test_a_terminal_that_is_not_utf8(encoding: str, tmp_path: Path) -> None:
    """What it cannot show is replaced; nothing ends in an error for that."""
    asked = f"--references={tmp_path}/犬 →.json"
    missing = run("metrics", asked, "--predictions=x", PYTHONIOENCODING=encoding)
    assert missing.returncode == 1, missing.stderr
    assert b"? ?.json" in missing.stderr
    assert b"UnicodeEncodeError" not in missing.stderr
    shown = run("metrics", "--help", PYTHONIOENCODING=encoding)
    assert shown.returncode == 0, shown.stderr
    assert b"ROUGE-L" in shown.stdout


def test_json_says_the_same_on_every_terminal(tmp_path: Path) -> None:
    wanted = f"there is no file {tmp_path}/犬 →.jpg"
    for environment in (LATIN, {"PYTHONIOENCODING": "utf-8"}):
        done = run("match", "--model", "x", "--text", "a dog", f"{tmp_path}/犬 →.jpg", "--json", **environment)
        assert done.returncode == 2
        assert json.loads(done.stdout.decode(environment["PYTHONIOENCODING"]))["error"] == wanted


SLOW = """
import sys, time
import components.regeneration.run as run
def work(*inputs, **settings):
    print("working", file=sys.stderr, flush=True)
    try:
        time.sleep(60)
    finally:
        sys.stdin.readline()  # as a run that ends its threads and writes
run.run_capfilt = work
from capfilt.cli.main import app
app()
"""


def interrupted(folder: Path, signals: list[int], *more: str, held: bool = True) -> tuple[int, str, str]:
    """A `regenerate` that is sent signals at work, held until it has spoken: exit code, stdout, stderr."""
    for role in ("captioner", "filter"):
        (folder / role).mkdir()
        (folder / role / "config.json").write_text("{}")
    places = ["--web", "web", "--captioner", str(folder / "captioner"), "--filter", str(folder / "filter")]
    command = [
        sys.executable,
        "-c",
        SLOW,
        "regenerate",
        *places,
        "--out",
        str(folder / "out"),
        *more,
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stderr.readline()]
        while lines[-1] != "working\n":
            assert lines[-1], lines
            lines.append(process.stderr.readline())
        assert process.stdin is not None
        if not held:
            process.stdin.write("end\n")
            process.stdin.flush()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.05)
        told = process.stderr.readline()
        out, rest = process.communicate("end\n", timeout=300)
    return process.returncode, out, told + rest


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]], ids=str)
def test_a_stopped_command_says_so_once_and_at_once(signals: list[int], tmp_path: Path) -> None:
    code, out, err = interrupted(tmp_path, signals)
    assert code == 130
    assert err == f"capfilt: {GOES_ON}\n"
    assert out == ""


def test_signals_on_the_way_out_change_nothing(tmp_path: Path) -> None:
    code, _, err = interrupted(tmp_path, [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT], held=False)
    assert code == 130
    assert err == f"capfilt: {GOES_ON}\n"


def test_a_stopped_command_leaves_one_json_document(tmp_path: Path) -> None:
    code, out, err = interrupted(tmp_path, [signal.SIGINT], "--json")
    assert code == 130
    assert json.loads(out) == {"error": GOES_ON, "kind": "Interrupted"}
    assert err.count("stopping") == 1


def test_a_preempted_training_is_stopped_not_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end, command():
        raise PreemptedError("stopped by a signal after step 3 of 9; state is saved")
    assert end.value.exit_code == 130
    assert "state is saved" in capsys.readouterr().err


LEAVING = """
import atexit, sys, threading, time
from capfilt.cli.console import leave
class Piece:
    def __del__(self):
        print("taken apart")
piece = Piece()
atexit.register(print, "exit handler")
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
print("last word")
try:
    sys.exit(eval(sys.argv[1]))
except SystemExit as end:
    leave(end)
"""


@pytest.mark.parametrize(("code", "given"), [(0, "None"), (0, "0"), (3, "3"), (130, "130"), (1, "'a message'")])
def test_a_process_ends_with_all_that_is_to_be_done_and_nothing_else(code: int, given: str) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING, given], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == "last word\nthread\nexit handler\n"
