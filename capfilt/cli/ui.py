"""MLflow's and Prefect's pages over what a bootstrap wrote, on loopback."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capfilt.cli.console import Output
from components.common.environment import without
from components.common.errors import CapfiltError, ConfigError, StorageError
from components.common.storage import open_store
from components.common.tracking import (
    SERVER_APP,
    find_runs_pages,
    pages_environment,
    public_uri,
    runs_pages_at,
    settle,
)
from components.config import BootstrapConfig
from components.pages.views import QUESTIONS
from flows.course import read_note
from flows.layout import parent_run, scratch_folder
from flows.server import prefect_server, wait_until_up

logger = logging.getLogger(__name__)

MLFLOW_PORT, PREFECT_PORT = 5000, 4200
_TRIED = 20  # ports beside a default one that is taken

# A server of MLflow's takes every setting also from the environment: a prefix of pages, a port of Kubernetes'.
_OF_A_SERVER = ("MLFLOW_", "_MLFLOW_")
_OF_A_CLIENT = ("MLFLOW_S3_", "MLFLOW_HTTP_")


@dataclass(frozen=True)
class Ports:
    """Where pages are served on loopback; None: the default one, or the next that is free."""

    mlflow: int | None = None
    prefect: int | None = None


def show_pages(
    config: BootstrapConfig,
    out: Output,
    *,
    ports: Ports | None = None,
    newest: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Start both, print each address as soon as it answers, and wait until stopped.

    Args:
        config: names store and MLflow's place.
        out: gets the addresses.
        ports: where to serve.
        newest: show the bootstrap that worked last in the store, instead of the config's own.
        stop: ends it, beside Ctrl-C.
    """
    ports = ports or Ports()
    folder = scratch_folder(config)
    uri, experiment = config.tracking_uri(folder), _experiment(config, newest)
    pages: dict[str, Any] = {"mlflow": None, "prefect": None, "views": {}}
    with _mlflow(uri, ports.mlflow) as mlflow, contextlib.ExitStack() as stack:
        if mlflow is not None:
            look_up = find_runs_pages if mlflow == uri else runs_pages_at  # a server of ours wants no login
            found = {view: f"{mlflow.rstrip('/')}/{path}" for view, path in look_up(mlflow, experiment).items()}
            pages["mlflow"] = found.get("rounds") or found.get("", mlflow)
            pages["views"] = {key: found[key] for key in QUESTIONS if key in found}
            _tell(out, "MLflow", found.get("", mlflow))
            for key, page in pages["views"].items():
                _tell(out, f"  {QUESTIONS[key]}", page)
        try:
            pages["prefect"] = stack.enter_context(_prefect(folder / "prefect", ports.prefect))
            _tell(out, "Prefect", pages["prefect"])
        except CapfiltError as error:
            if mlflow is None or isinstance(error, ConfigError):
                raise
            logger.warning("Prefect's pages are not served, MLflow's are: %s", error)
        out.result(pages, "Ctrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            (stop or threading.Event()).wait()


@contextlib.contextmanager
def _prefect(home: Path, port: int | None) -> Iterator[str]:
    """Prefect's pages over a folder, or those of the server that PREFECT_API_URL names."""
    port = None if os.environ.get("PREFECT_API_URL") else _port(port, PREFECT_PORT, "--prefect-port")
    with prefect_server(home, port=port) as server:
        if server is not None:
            logger.info("starting Prefect's pages on port %d …", port)
            server.wait()
        root = server.url if server is not None else os.environ["PREFECT_API_URL"].removesuffix("/api")
        yield f"{root}/runs"  # its first page shows only what failed


def _tell(out: Output, name: str, page: str | None) -> None:
    """An address, at once; with --json both come in one document."""
    if not out.as_json:
        out.result(page, f"{name:18}{page}")
        sys.stdout.flush()


def _experiment(config: BootstrapConfig, newest: bool) -> str:
    """The experiment whose page is opened."""
    from components.pages.results import find_result

    own = str(parent_run(config)["experiment"])
    if not newest:
        return own
    store = open_store(config.store)
    try:
        found = find_result(store)
    except StorageError:  # none has ended yet
        note = read_note(store)
        return own if note is None else note.name
    return str(found.config.get("tracking", {}).get("experiment") or found.name)


@contextlib.contextmanager
def _mlflow(uri: str | None, port: int | None = None) -> Iterator[str | None]:
    """MLflow's pages over a database file; the address itself where a server runs already."""
    if uri is None or uri.startswith("http"):
        yield uri
        return
    port = _port(port, MLFLOW_PORT, "--port")
    logger.info("starting MLflow's pages on port %d over %s …", port, public_uri(uri))
    settle(uri)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", SERVER_APP, "--host", "127.0.0.1", "--port", str(port)],
        env=without(_OF_A_SERVER, keep=_OF_A_CLIENT) | pages_environment(uri),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until_up(process, f"http://127.0.0.1:{port}/health", "MLflow's server")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(given: int | None, default: int, option: str) -> int:
    """The port that was asked for, if it is free; else the default one or the next that is.

    Raises:
        ConfigError: the one that was asked for is taken, or all of them are.
    """
    wanted = range(default, default + _TRIED) if given is None else range(given, given + 1)
    for port in wanted:
        if (free := _free(port)) is not None:
            if given is None and free != default:
                logger.info("port %d is taken: %d serves instead; %s chooses another", default, free, option)
            return free
    raise ConfigError(f"port {wanted[0]} cannot be listened on: give another with {option}, 0 being a free one")


def _free(port: int) -> int | None:
    """The port, if nobody listens on it; for 0 one that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
