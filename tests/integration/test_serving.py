"""The schedule: a run starts by itself, a second is refused while it works, a cancelled one leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.tiny import options

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


class Served:
    """A `capfilt serve` and the API it works with."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, folder: Path) -> None:
        self.process, self.log, self.folder = process, log, folder
        self.api = ""

    def text(self) -> str:
        return self.log.read_text()

    def ask(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            f"{self.api}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("/flow_runs/filter", {})
        return found

    def wait(self, what: str, condition: Callable[[], Any], seconds: float) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                pytest.fail(f"serve ended: {self.text()}")
            if value := condition():
                return value
            time.sleep(0.5)
        return pytest.fail(f"{what} within {seconds} s; log: {self.text()[-3000:]}")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    log = tmp_path / "serve.log"
    arguments = options(store=str(tmp_path / "root"), rounds=0, pretrain__steps=100_000)
    command = [sys.executable, "-m", "capfilt.cli.main", "serve", "--cron", "* * * * *", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=output, stderr=output
        )
    one = Served(process, log, tmp_path)
    try:
        address = one.wait("an address", lambda: re.search(r"Prefect's pages: (http://\S+)", one.text()), 120)
        one.api = f"{address[1]}/api"
        yield one
    finally:
        process.send_signal(signal.SIGTERM)  # SIGINT is ignored by whatever a shell starts in the background
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait(20)


def _training(folder: Path) -> list[int]:
    """Training processes of a store."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "components.training" in words and str(folder) in words:
            found.append(process.pid)
    return found


def test_one_at_a_time_on_schedule_and_cancelled_whole(served: Served) -> None:
    def in_state(*names: str) -> list[dict[str, Any]]:
        return [run for run in served.runs() if run["state"]["name"] in names]

    running = served.wait("a scheduled run", lambda: in_state("Running"), 240)[0]
    served.wait("a training", lambda: _training(served.folder), 240)
    # the next one comes with the next minute, while the first still trains
    refused = served.wait("a refused run", lambda: in_state("Cancelled"), 180)[0]
    assert refused["id"] != running["id"]
    assert "works here since" in (refused["state"]["message"] or "")
    assert in_state("Running")[0]["id"] == running["id"]
    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
    served.ask(f"/flow_runs/{running['id']}/set_state", body)
    served.wait("the end of all training processes", lambda: not _training(served.folder), 60)
    served.wait("the cancelled state", lambda: running["id"] in {run["id"] for run in in_state("Cancelled")}, 60)
