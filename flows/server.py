"""A local Prefect server for one command: started on loopback over sqlite, ended with the command, even by SIGKILL.

Prefect's own temporary server has no pages and outlives a killed parent; this one has both mended.
Run as a module it is the server process: `python -m flows.server PORT PARENT_PID`.
"""

import contextlib
import fcntl
import http.client
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from components.common.diskspace import note_in_use
from components.common.environment import opener, reach_loopback_directly, without
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


# What a machine or a shell says of some other Prefect server (its login, its database, its pages, a profile) is not for
# ours, whose every setting is said here. How often its services look may be tuned, and how large a parameter may be.
_OF_ANOTHER = ("PREFECT_",)
_TUNING = ("PREFECT_SERVER_SERVICES_", "PREFECT_SERVER_LOGGING_", "PREFECT_SERVER_ANALYTICS_", "PREFECT_LOGGING_")
_CLIENTS = ("PREFECT_LOGGING_", "PREFECT_RUNNER_", "PREFECT_CLIENT_", "PREFECT_FLOWS_", "PREFECT_SERVER_SERVICES_")
_LOCK = "start.lock"
_AGAIN_SECONDS = 1.0


class LocalServer:
    """A server process and its address; `wait` until it answers. One that then dies is started again, on its port.

    Until it answers the lock on its folder is held: two servers that both find an old database, or none, would both
    migrate it, and one of them would fail.
    """

    def __init__(self, home: Path, port: int) -> None:
        self.port, self.log = port, home / "server.log"
        self._home, self._lock = home, _locked(home / _LOCK)
        self._stopping = threading.Event()
        self.log.write_bytes(b"")
        self.process = self._launch()

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
        self._lock.close()
        threading.Thread(target=self._keep, name="prefect-server", daemon=True).start()

    def stop(self) -> None:
        """End the process."""
        self._stopping.set()
        self._lock.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _launch(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "flows.server", str(self.port), str(os.getpid())]
        with self.log.open("ab") as output:
            # its own session: Ctrl-C must reach the run first, whose end the server still has to note down
            return subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=server_environment(self._home, self.port),
                start_new_session=True,
            )

    def _keep(self) -> None:
        """Start the server again when it dies: killed for its memory, say, in the third week of a training."""
        while not self._stopping.is_set():
            code = self.process.wait()
            if self._stopping.wait(_AGAIN_SECONDS):
                return
            logger.warning("the local Prefect server ended with %d; it is started again (%s)", code, self.log)
            self.process = self._launch()


def wait_until_up(process: "subprocess.Popen[bytes]", url: str, name: str, seconds: float = STARTUP_SECONDS) -> None:
    """Return when a server we started answers.

    Raises:
        CapfiltError: it ended, or does not answer in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise CapfiltError(f"{name} ended with {process.returncode}")
        with contextlib.suppress(OSError), opener(url)(url, timeout=5):
            return
        time.sleep(0.1)
    raise CapfiltError(f"{name} gives no answer within {seconds:.0f} s")


def why_no_answer(url: str, seconds: float = 5.0) -> str | None:
    """Why no server answers at `url`; None if one does, even if it wants a login first."""
    try:
        with opener(url)(url, timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403) else f"it answers {error.code} {error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error))


@contextlib.contextmanager
def prefect_server(home: Path, *, port: int | None = None) -> Iterator[LocalServer | None]:
    """A Prefect API for this process: the one PREFECT_API_URL names (yields None), else a local server over `home`.

    Sets the environment for Prefect, so enter it before prefect is imported. Call `wait()` before the first flow; until
    then other work can go on beside the start.

    Args:
        home: folder of the local server.
        port: of the local server, on loopback; None: any that is free.

    Raises:
        CapfiltError: nobody answers at PREFECT_API_URL.
    """
    reach_loopback_directly()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "capfilt,components,flows")
    if given := os.environ.get("PREFECT_API_URL"):
        if fault := why_no_answer(f"{given.rstrip('/')}/health"):
            raise CapfiltError(f"no Prefect server at PREFECT_API_URL={given} ({fault}): {PREFECT_REMEDY}")
        try:
            yield None
        finally:
            _send_what_waits()
        return
    home.mkdir(parents=True, exist_ok=True)
    note_in_use(home)
    server = LocalServer(home, port or free_port())
    try:
        with _as_environment(_client_environment(home, server.url)):
            try:
                yield server
            finally:
                _send_what_waits()
    finally:
        server.stop()


def _client_environment(home: Path, url: str) -> dict[str, str]:
    """Ours, with the local server and nothing that was meant for another one."""
    mine = {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"{url}/api"}
    return without(_OF_ANOTHER, keep=(*_CLIENTS, *_QUIET)) | mine


@contextlib.contextmanager
def _as_environment(changed: Mapping[str, str]) -> Iterator[None]:
    """This process's environment as given while the block runs."""
    before = dict(os.environ)
    _become(changed)
    try:
        yield
    finally:
        _become(before)


def _become(wanted: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def _send_what_waits() -> None:
    """Let Prefect's background threads hand over log lines and events while there is still somebody to take them.

    Without anybody they would try each line for seconds, and keep the process from ending for minutes or for good.
    """
    if "prefect.flow_engine" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    if why_no_answer(f"{os.environ.get('PREFECT_API_URL', '').rstrip('/')}/health") is None:
        APILogWorker.drain_all(timeout=5, at_exit=False)
        EventsWorker.drain_all(timeout=5, at_exit=False)
    _forget_what_waits()


def _forget_what_waits() -> None:
    """Take what Prefect's background threads could not hand over for handed over, so that nobody waits for them."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for name in ("prefect.events.clients", "prefect._internal.concurrency"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each line that is lost would be told, with its content
    kinds: tuple[Any, ...] = (EventsWorker, APILogWorker)
    for worker in [one for kind in kinds for one in kind._instances.values()]:
        worker._stop(at_exit=True)
        if worker._loop is not None and worker._done_event is not None:
            worker._loop.call_soon_threadsafe(worker._done_event.set)


def server_environment(home: Path, port: int) -> dict[str, str]:
    """What the local server is told: sqlite in `home`, no login, its own address, and nothing meant for another one."""
    return (
        without(_OF_ANOTHER, keep=_TUNING)
        | _QUIET
        | {
            "PREFECT_HOME": str(home),
            "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
            "PREFECT_API_URL": "",
            "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
            # relative to the server's working folder (`_serve`): a `?` or `%` in the path would not survive in a URL
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///prefect.db",
        }
    )


def _locked(path: Path, seconds: float = STARTUP_SECONDS) -> IO[bytes]:
    """The file, locked; the system gives the lock up with the process.

    Raises:
        CapfiltError: another server over the same folder does not get up.
    """
    file = path.open("ab")
    end = time.monotonic() + seconds
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                raise CapfiltError(
                    f"{path.parent}: another Prefect server has been starting here for {seconds:.0f} s; end its process"
                ) from None
            if not told:
                logger.info("waiting for another start over %s", path.parent)
                told = True
            time.sleep(0.2)
        except OSError as error:  # a folder on a network that knows no locks
            logger.debug("%s cannot be locked: %s", path, error)
            return file
        else:
            return file


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
    os.chdir(os.environ["PREFECT_HOME"])
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(), host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
