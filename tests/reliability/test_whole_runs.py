"""Whole bootstraps on a real S3 and a real MLflow server, both with logins: undisturbed, and with either one stopped
for two minutes. Each ends with the same table, and nothing that is written, shown or listed holds a secret."""

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.helpers.mlflow_server import MlflowServer
from tests.helpers.s3 import SECRET_KEY, S3Server, serve_s3
from tests.helpers.served import clean_environment, cli, table, wait_for
from tests.helpers.tiny import options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STOPPED_SECONDS = 120.0
MLFLOW_PASSWORD, OTHER = "canaryofmlflow", "canaryofanother"
SECRETS = {
    "S3's key": SECRET_KEY.encode(),
    "MLflow's password": MLFLOW_PASSWORD.encode(),
    "MLflow's login in a header": base64.b64encode(f"me:{MLFLOW_PASSWORD}".encode()).rstrip(b"="),
    "another service's": OTHER.encode(),
}
LENGTH = {"pretrain__steps": 40, "pretrain__checkpoint__every_steps": 10, "capfilt__threads": 1}


@dataclass
class Run:
    """A `capfilt run` on a store of its own, and what was seen of it."""

    process: "subprocess.Popen[str]"
    folder: Path
    listed: set[str] = field(default_factory=set)

    def trains(self) -> bool:
        """Whether the first pre-training has saved something."""
        assert self.process.poll() is None, self.said()
        return bool(list(self.folder.glob(".capfilt/work/pretrain-*/checkpoints/[!.]*/complete.json")))

    def said(self) -> str:
        """What it told people."""
        return (self.folder / "stderr").read_text()

    def ended(self) -> Any:
        """Its document, once it has ended well."""
        assert self.process.wait() == 0, self.said()
        return json.loads((self.folder / "stdout").read_text())

    def watch(self) -> None:
        """List all its processes as `ps` would, until it ends."""
        while self.process.poll() is None:
            for one in _family(self.process.pid):
                try:
                    self.listed.add(" ".join(one.cmdline()))
                except psutil.Error:  # it has ended meanwhile
                    continue
            time.sleep(0.2)


@dataclass
class Place:
    """Both servers and the folder of all runs."""

    folder: Path
    s3: S3Server
    mlflow: MlflowServer

    @contextmanager
    def run(self, name: str) -> Iterator[Run]:
        """A bootstrap at work; at the end of the block nothing of it is left."""
        folder = self.folder / name
        folder.mkdir()
        login = self.mlflow.uri.replace("http://", f"http://me:{MLFLOW_PASSWORD}@")
        more = {"MLFLOW_TRACKING_URI": login, "HF_TOKEN": OTHER, "PREFECT_SERVER_API_AUTH_STRING": OTHER}
        environment = clean_environment(self.s3.environment() | more)
        words = cli("run", "--json", *options(store=f"{self.s3.uri}/{name}", tracking__experiment=name, **LENGTH))
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
            process = subprocess.Popen(words, cwd=folder, env=environment, stdout=out, stderr=err, text=True)
        run = Run(process, folder)
        watching = threading.Thread(target=run.watch)
        watching.start()
        try:
            yield run
        finally:
            family = _family(process.pid)
            process.terminate()
            for left in psutil.wait_procs(family, timeout=120)[1]:
                left.kill()
            process.wait()
            watching.join()

    def states(self, name: str) -> set[str]:
        """How the runs of a bootstrap ended, as MLflow has it."""
        client = MlflowClient(tracking_uri=self.mlflow.uri)
        experiment = client.get_experiment_by_name(name)
        return {run.info.status for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mlflow").mkdir()
    server = MlflowServer(folder / "mlflow")
    try:
        with serve_s3(folder / "s3") as s3:
            yield Place(folder, s3, server)
    finally:
        server.close()


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> Run:
    with place.run("undisturbed") as run:
        run.ended()
    return run


def test_no_secret_is_written_shown_or_listed(place: Place, undisturbed: Run) -> None:
    assert any("components.training" in one for one in undisturbed.listed), "trainings were seen"
    assert any("flows.server" in one for one in undisturbed.listed), "Prefect's server was seen"
    assert place.states("undisturbed") == {"FINISHED"}
    files = [path for path in place.folder.rglob("*") if path.is_file() and path.name != "rclone.log"]
    homes = [path for path in Path(os.environ["HOME"]).rglob("*") if path.is_file()]
    found = {str(path.relative_to(place.folder)) for path in files}
    for kind in ("stages/pretrain/", "mlflow.db", "prefect.db", "config.yaml", "result", "undisturbed/stderr"):
        assert any(kind in name for name in found), f"no {kind} among what was looked through"
    hits = [(str(path), name) for path in files + homes for name, secret in SECRETS.items() if _holds(path, secret)]
    hits += [
        (words, name) for words in undisturbed.listed for name, secret in SECRETS.items() if secret.decode() in words
    ]
    assert not hits


def test_s3_stopped_for_two_minutes_costs_two_minutes(place: Place, undisturbed: Run) -> None:
    server = place.s3.process
    assert server is not None
    with place.run("s3-stopped") as run:
        wait_for("training", run.trains, 1200, run.said)
        server.send_signal(signal.SIGSTOP)
        try:
            time.sleep(STOPPED_SECONDS)
        finally:
            server.send_signal(signal.SIGCONT)
        assert run.process.poll() is None, "it was over before the server was missed"
        document = run.ended()
    assert table(document) == table(undisturbed.ended())
    assert place.states("s3-stopped") == {"FINISHED"}


def test_mlflow_stopped_for_two_minutes_costs_nothing_but_points_come_later(place: Place, undisturbed: Run) -> None:
    with place.run("mlflow-stopped") as run:
        wait_for("training", run.trains, 1200, run.said)
        place.mlflow.hang()
        try:
            time.sleep(STOPPED_SECONDS)
        finally:
            place.mlflow.wake()
        over = run.process.poll() is not None
        document = run.ended()
    assert table(document) == table(undisturbed.ended())
    assert over or place.states("mlflow-stopped") == {"FINISHED"}


def _family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _holds(path: Path, secret: bytes) -> bool:
    try:
        return secret in path.read_bytes()
    except FileNotFoundError:  # a socket or a temporary file of a server
        return False
