"""The local Prefect server: several first starts at once, another server's settings around, killed in mid-run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.server import _client_environment, prefect_server, server_environment, why_no_answer
from tests.helpers.served import ROOT, clean_environment, wait_for

pytestmark = pytest.mark.timeout(900)
OF_ANOTHER = {
    "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://nobody@127.0.0.1:9/prefect",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://nobody@127.0.0.1:9/prefect",
    "PREFECT_PROFILE": "work",
    "PREFECT_UI_API_URL": "http://elsewhere/api",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "",
    "NO_PROXY": "",
}
START = """
import sys
from pathlib import Path
from flows.server import prefect_server
with prefect_server(Path(sys.argv[1])) as server:
    server.wait()
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        print("flows:", client.count_flow_runs(), flush=True)
"""


def test_first_starts_at_once_among_another_servers_settings(tmp_path: Path) -> None:
    environment = clean_environment() | OF_ANOTHER | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START, str(tmp_path / "prefect")]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for one in both:
        out, err = one.communicate(timeout=600)
        assert out.strip() == "flows: 0", f"{err}\n{(tmp_path / 'prefect' / 'server.log').read_text()}"


def test_a_server_that_is_killed_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with prefect_server(tmp_path / "p") as server:
        assert server is not None
        server.wait()
        assert os.environ["PREFECT_API_URL"] == f"{server.url}/api"
        server.process.kill()
        time.sleep(0.5)
        wait_for("answer", lambda: why_no_answer(f"{server.url}/api/health") is None, 420, server.log.read_text)
    assert "PREFECT_API_URL" not in os.environ
    assert why_no_answer(f"{server.url}/api/health") is not None


def test_neither_server_nor_client_hears_of_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_ANOTHER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "5")
    monkeypatch.setenv("PREFECT_RUNNER_POLL_FREQUENCY", "7")
    given = server_environment(tmp_path, 4711)
    assert "PREFECT_SERVER_API_AUTH_STRING" not in given
    assert "PREFECT_PROFILE" not in given
    assert given["PREFECT_SERVER_DATABASE_CONNECTION_URL"].startswith("sqlite+aiosqlite:")
    assert given["PREFECT_UI_API_URL"] == "http://127.0.0.1:4711/api"
    assert given["PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS"] == "5"
    ours = _client_environment(tmp_path, "http://127.0.0.1:4711")
    assert {name for name in ours if name.startswith("PREFECT_")} >= {
        "PREFECT_API_URL",
        "PREFECT_RUNNER_POLL_FREQUENCY",
    }
    assert not OF_ANOTHER.keys() & {name for name in ours if name.startswith("PREFECT_")}


LEAVE = """
import os, time
os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"  # nobody there
from prefect import flow_engine
from prefect.events import emit_event
from flows.server import _send_what_waits
for _ in range(60):
    emit_event(event="told", resource={"prefect.resource.id": "to.nobody"})
time.sleep(1)
_send_what_waits()
print("leaving", flush=True)
"""


def test_events_for_a_server_that_is_gone_do_not_keep_a_process(tmp_path: Path) -> None:
    environment = clean_environment({"PREFECT_HOME": str(tmp_path)})
    with subprocess.Popen([sys.executable, "-c", LEAVE], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leaving\n"
        start = time.monotonic()
        assert process.wait(300) == 0
        assert time.monotonic() - start < 100  # each of the sixty would be tried for ten seconds
