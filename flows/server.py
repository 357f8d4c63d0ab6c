"""A local Prefect server for one command: started on loopback over sqlite, ended with the command, even by SIGKILL.

Prefect's own temporary server has no pages and outlives a killed parent; this one has both mended.
Run as a module it is the server process: `python -m flows.server PORT PARENT_PID`.
"""

import contextlib
import http.client
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from components.common.errors import CapfiltError

logger = logging.getLogger(__name__)

PREFECT_REMEDY = "start it, mend the address (it ends in /api), or unset PREFECT_API_URL for a local server"
STARTUP_SECONDS = 300.0  # five on an idle machine; a busy one has taken minutes
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


class LocalServer:
    """A server process and its address; `wait` until it answers."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self, seconds: float = STARTUP_SECONDS) -> None:
        """Return when the API answers.

        Raises:
            CapfiltError: the server ended or does not answer in time; where its log lies.
        """
        wait_until_up(self.process, f"{self.url}/api/health", f"the local Prefect server ({self.log})", seconds)

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait_until_up(process: "subprocess.Popen[bytes]", url: str, name: str, seconds: float = STARTUP_SECONDS) -> None:
    """Return when a server we started answers.

    Raises:
        CapfiltError: it ended, or does not answer in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise CapfiltError(f"{name} ended with {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise CapfiltError(f"{name} gives no answer within {seconds:.0f} s")


def why_no_answer(url: str, seconds: float = 5.0) -> str | None:
    """Why no server answers at `url`; None if one does, even if it wants a login first."""
    try:
        with urllib.request.urlopen(url, timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403) else f"it answers {error.code} {error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error))


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[LocalServer | None]:
    """A Prefect API for this process: the one PREFECT_API_URL names (yields None), else a local server over `home`.

    Sets the environment for Prefect, so enter it before prefect is imported. Call `wait()` before the first flow; until
    then other work can go on beside the start.

    Raises:
        CapfiltError: nobody answers at PREFECT_API_URL.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "capfilt,components,flows")
    if given := os.environ.get("PREFECT_API_URL"):
        if fault := why_no_answer(f"{given.rstrip('/')}/health"):
            raise CapfiltError(f"no Prefect server at PREFECT_API_URL={given} ({fault}): {PREFECT_REMEDY}")
        yield None
        return
    os.environ["PREFECT_HOME"] = str(home)
    server = _start(home, free_port())
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    try:
        yield server
    finally:
        _send_what_waits()
        os.environ.pop("PREFECT_API_URL", None)
        server.stop()


def _send_what_waits() -> None:
    """Let Prefect's background threads hand over log lines and events while there is still somebody to take them."""
    if "prefect.flow_engine" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=5, at_exit=False)
        EventsWorker.drain_all(timeout=5, at_exit=False)


def _start(home: Path, port: int) -> LocalServer:
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_URL": "",
    }
    command = [sys.executable, "-m", "flows.server", str(port), str(os.getpid())]
    with log.open("wb") as output:
        # its own session: Ctrl-C must reach the run first, whose end the server still has to note down
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    return LocalServer(process, port, log)


def free_port() -> int:
    """A loopback port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(port: int, parent: int) -> None:
    """The server process: Prefect's API and pages on loopback until the parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(), host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
