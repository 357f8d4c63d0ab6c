"""Nothing that somebody else set for a launcher, a server or a proxy reaches what we start."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from components.common.environment import opener, reach_loopback_directly, without
from components.training.config import LaunchConfig
from components.training.group import environment

SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_NODELIST": "a[1-8]"}
KUBERNETES = {"KUBERNETES_PORT": "tcp://10.0.0.1:443", "PET_PORT": "tcp://10.0.0.2:80", "JOB_COMPLETION_INDEX": "1"}
PYTORCHJOB = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", "PET_NODE_RANK": "0", "PET_RDZV_BACKEND": "c10d"}
IN_A_GROUP = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_ERROR_FILE": "/x"}


def test_a_training_does_not_inherit_another_launchers_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM | KUBERNETES | PYTORCHJOB | IN_A_GROUP).items():
        monkeypatch.setenv(name, value)
    given = environment(LaunchConfig(processes=1, threads=1), tmp_path)
    assert not [name for name in given if name.startswith(("PET_", "TORCHELASTIC_"))]
    assert given["SLURM_JOB_ID"] == "7"


def test_the_end_of_a_prefix_to_keep() -> None:
    source = {"PREFECT_API_KEY": "a", "PREFECT_SERVER_SERVICES_X": "b", "HOME": "c"}
    assert without(["PREFECT_"], keep=["PREFECT_SERVER_SERVICES_"], source=source) == {
        "PREFECT_SERVER_SERVICES_X": "b",
        "HOME": "c",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "corp.example, 10.0.0.0/8"}, "corp.example,10.0.0.0/8,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1"),
    ],
)
def test_loopback_is_added_to_what_goes_without_a_proxy(
    given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    reach_loopback_directly()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == expected


def test_everything_without_a_proxy_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("NO_PROXY", raising=False)
    reach_loopback_directly()
    assert os.environ["no_proxy"] == "*"


class _Yes(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    one = HTTPServer(("127.0.0.1", 0), _Yes)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{one.server_port}"
    one.shutdown()
    one.server_close()


def test_our_own_requests_to_this_machine_ask_no_proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with opener(server)(server, timeout=5) as answer:
        assert answer.read() == b"here"


def test_a_child_asks_no_proxy_either(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    reach_loopback_directly()
    code = "import sys, httpx; print(httpx.get(sys.argv[1]).text)"
    done = subprocess.run([sys.executable, "-c", code, server], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "here", done.stderr
