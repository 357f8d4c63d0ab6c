"""MLflow's and Prefect's pages over what a bootstrap wrote, on loopback."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

from capfilt.cli.console import Output
from components.common.environment import without
from components.common.tracking import find_runs_pages, settle
from components.config import BootstrapConfig
from components.pages.views import QUESTIONS
from flows.layout import parent_run, scratch_folder
from flows.server import free_port, prefect_server, wait_until_up

# `mlflow ui` takes every option also from the environment: a prefix of pages, a port of Kubernetes' (`MLFLOW_PORT`).
_OF_A_SERVER = ("MLFLOW_", "_MLFLOW_")
_OF_A_CLIENT = ("MLFLOW_S3_", "MLFLOW_HTTP_")


def show_pages(config: BootstrapConfig, out: Output, *, stop: threading.Event | None = None) -> None:
    """Start both, print their addresses, and wait until stopped."""
    folder = scratch_folder(config)
    with _mlflow(config.tracking_uri(folder)) as mlflow, prefect_server(folder / "prefect") as prefect:
        if prefect is not None:
            prefect.wait()
        root = prefect.url if prefect is not None else os.environ["PREFECT_API_URL"].removesuffix("/api")
        address = f"{root}/runs"  # its first page shows only what failed
        views = _views(mlflow, parent_run(config)["experiment"]) if mlflow else {}
        pages = {"mlflow": views.get("rounds", mlflow), "prefect": address, "views": views}
        lines = (
            [f"MLflow  {mlflow}", *(f"  {QUESTIONS[key]:16}{page}" for key, page in views.items())] if mlflow else []
        )
        lines.append(f"Prefect {address}")
        out.result(pages, "\n".join([*lines, "Ctrl-C ends both."]))
        with contextlib.suppress(KeyboardInterrupt):
            (stop or threading.Event()).wait()


def _views(mlflow: str, experiment: str) -> dict[str, str]:
    """Addresses of the views that answer questions; before a bootstrap has ended there are none yet."""
    found = find_runs_pages(mlflow, experiment)
    return {key: f"{mlflow.rstrip('/')}/{found[key]}" for key in QUESTIONS if key in found}


@contextlib.contextmanager
def _mlflow(uri: str | None) -> Iterator[str | None]:
    """MLflow's pages over a database file; the address itself where a server runs already."""
    if uri is None or uri.startswith("http"):
        yield uri
        return
    settle(uri)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 2 GB of helper processes (docs/facts.md 16)
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env=without(_OF_A_SERVER, keep=_OF_A_CLIENT) | quiet,
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
