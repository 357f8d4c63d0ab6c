"""What MLflow cannot work with is told before any work, by the run and by the doctor; a login in the address works."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from flows.preflight import mlflow_fault
from tests.helpers.tiny import options

LOGIN = "Basic " + base64.b64encode(b"me:secret").decode()


class _Guarded(BaseHTTPRequestHandler):
    """Healthy for everybody, and for the rest wants a login, as MLflow behind a proxy does."""

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200 if self.headers.get("Authorization") == LOGIN else 401)

    def _answer(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}" if code == 200 else b"You are not authenticated.")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_login_in_the_address_is_used(guarded: int) -> None:
    assert mlflow_fault(f"http://me:secret@127.0.0.1:{guarded}/") is None
    assert mlflow_fault(None) is None


@pytest.mark.parametrize("login", ["", "me:wr0ng@"])
def test_a_missing_or_wrong_login_is_told_without_showing_it(guarded: int, login: str) -> None:
    fault = mlflow_fault(f"http://{login}127.0.0.1:{guarded}")
    assert fault is not None
    assert "401" in fault
    assert "wr0ng" not in fault


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("./mlruns", "filesystem tracking backend"),
        ("postgresql://me:secret@127.0.0.1/mlflow", "No module named 'psycopg2'"),
        ("http://me:secret@127.0.0.1:9", "Connection refused"),
    ],
)
def test_run_refuses_and_doctor_says_so(uri: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, where a login may stand; a config with one is refused."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    arguments = options(store=str(tmp_path / "root"))
    for command in ("run", "doctor"):
        result = CliRunner().invoke(app, [command, *arguments])
        told = " ".join(result.output.split())
        assert result.exit_code == 1
        assert words in told
        assert "tracking.enabled=false" in told
        assert "secret" not in told
    assert not (tmp_path / "root" / "stages").exists()
