"""A `capfilt serve` and a Prefect server as processes that tests look at and kill."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.server import free_port, server_environment, wait_until_up

ROOT = Path(__file__).resolve().parents[2]


def clean_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Ours, without a Prefect or MLflow server of somebody else."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return own | {"PYTHONPATH": str(ROOT)} | (more or {})


def cli(*arguments: str) -> list[str]:
    """A command line of the product."""
    return [sys.executable, "-m", "capfilt.cli.main", *arguments]


def wait_for(what: str, condition: Callable[[], Any], seconds: float, story: Callable[[], str] = str) -> Any:
    """The condition's first true value; after `seconds` the test fails and tells the story so far."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    return pytest.fail(f"no {what} within {seconds:.0f} s; {story()[-4000:]}")


def table(document: Any) -> list[Any]:
    """What was measured in each round, and on which models; how fast a training was is another matter."""
    return [
        {name: value for name, value in one["metrics"].items() if name.startswith(("eval/", "calibration/"))}
        | {role: one[role]["digest"] for role in ("base", "captioner", "filter")}
        for one in document["rounds"]
    ]


class Api:
    """Prefect's API at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: object) -> Any:
        """A POST's answer."""
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def start_by_hand(self, name: str) -> None:
        """A run of the bootstrap deployment of this name, now; it may not be registered yet."""

        def started() -> bool:
            try:
                found = [one["id"] for one in self.ask("/deployments/filter", {}) if one["name"] == name]
                return bool(found) and self.ask(f"/deployments/{found[0]}/create_flow_run", {}) is not None
            except OSError:  # a busy server asks to come again
                return False

        wait_for("run by hand", started, 300)

    def in_state(self, *names: str) -> list[dict[str, Any]]:
        """The deployment's runs whose state has one of the names; none while the server is away."""
        try:
            runs: list[dict[str, Any]] = self.ask("/flow_runs/filter", {})
        except OSError:
            return []
        return [run for run in runs if run["deployment_id"] and run["state"]["name"] in names]


class PrefectServer:
    """A Prefect server that is killed and started again on its port."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        home.mkdir(parents=True)
        self.start()

    @property
    def url(self) -> str:
        """What PREFECT_API_URL shall be."""
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [sys.executable, "-m", "flows.server", str(self.port), str(os.getpid())]
        environment = server_environment(self.home, self.port) | {"PYTHONPATH": str(ROOT)}
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_until_up(self.process, f"{self.url}/health", "the test's Prefect server", 420)

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait(20)


@contextmanager
def prefect_server(home: Path) -> Iterator[PrefectServer]:
    """A Prefect server for the block."""
    server = PrefectServer(home)
    try:
        yield server
    finally:
        server.kill()


class Serve:
    """A `capfilt serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self.log = process, log

    def story(self) -> str:
        """All that it and its runs have said."""
        return self.log.read_text(errors="replace")

    def wait(self, what: str, condition: Callable[[], Any], seconds: float) -> Any:
        """As `wait_for`, and the process must live."""

        def alive() -> Any:
            if self.process.poll() is not None:
                pytest.fail(f"serve ended with {self.process.returncode}: {self.story()[-4000:]}")
            return condition()

        return wait_for(what, alive, seconds, self.story)

    def api(self) -> Api:
        """Its own Prefect server's API."""
        found = self.wait("address", lambda: re.search(r"Prefect's pages: (http://\S+)", self.story()), 420)
        return Api(f"{found[1]}/api")

    def kill(self) -> list[psutil.Process]:
        """SIGKILL to this process alone; what it had started."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(20)
        return family


@contextmanager
def serve(arguments: Sequence[str], log: Path, more: dict[str, str] | None = None) -> Iterator[Serve]:
    """`capfilt serve` for the block; at its end nothing of it is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            cli("serve", *arguments), cwd=log.parent, env=clean_environment(more), stdout=output, stderr=output
        )
    one = Serve(process, log)
    try:
        yield one
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            _, alive = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=60)
            for left in alive:
                left.kill()
            process.wait(20)
