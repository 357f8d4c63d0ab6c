"""A real MLflow server that hangs (SIGSTOP): nobody waits for it, and nothing that was said to it is lost."""

import logging
import time
from collections.abc import Iterator

import pytest

from components.common import sending
from components.common.tracking import MlflowTracker, open_tracker
from tests.helpers.mlflow_server import MlflowServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def run(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[MlflowTracker]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    tracker = _open(server, request.node.name)
    yield tracker
    server.wake()
    tracker.farewell()


def _open(server: MlflowServer, name: str) -> MlflowTracker:
    tracker = open_tracker(server.uri, "hung", name, resume={"bootstrap.id": name})
    assert isinstance(tracker, MlflowTracker)
    return tracker


def _status(run: MlflowTracker) -> str:
    return str(run._client.get_run(run.run_id).info.status)


def test_a_run_that_ends_prints_neither_its_address_nor_the_login_in_it(
    server: MlflowServer, capfd: pytest.CaptureFixture[str]
) -> None:
    login = server.uri.replace("http://", "http://me:canary@")
    tracker = open_tracker(login, "login", "printed", resume={"bootstrap.id": "printed"})
    stage = tracker.child("round-0/pretrain")
    stage.end()
    tracker.end()
    tracker.farewell(60)
    assert isinstance(stage, MlflowTracker)
    assert _status(stage) == "FINISHED"
    out, err = capfd.readouterr()
    assert out == ""
    assert "canary" not in err


def test_points_wait_and_training_goes_on(
    run: MlflowTracker, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("components.common.tracking.run.FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(sending, "PATIENCE", 200.0)
    training = run.child("round-0/pretrain")
    training.log_metrics({"train/loss": 9.0}, 0)
    server.hang()
    began = time.monotonic()
    for step in range(1, 301):
        training.log_metrics({"train/loss": 1 / step}, step)
        time.sleep(0.01)
    training.log_tags({"said": "while it hung"})
    training.end()
    assert time.monotonic() - began < 60  # 3 of them asleep; whoever waited for a single answer would wait for 200
    server.wake()
    run.end()
    run.farewell(60)
    assert isinstance(training, MlflowTracker)
    points = training._client.get_metric_history(training.run_id, "train/loss")
    assert {point.step for point in points} == set(range(301))
    assert (_status(training), _status(run)) == ("FINISHED", "FINISHED")


def test_a_stage_that_starts_while_it_hangs_is_made_up_for(
    run: MlflowTracker, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PATIENCE", 1.0)
    server.hang()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    began = time.monotonic()
    stages = []
    for name in ("round-0/captioner", "round-0/filter", "round-0/evaluate"):
        stage = run.child(name)
        stage.log_metrics({"eval/caption/cider": 1.0})
        stage.end()
        stages.append(stage)
    assert run.known_point("eval/caption/cider", 0) is None
    assert time.monotonic() - began < 60  # one answer would take twice as long to fail, and there are ten
    server.wake()
    run.farewell(60)
    for stage in stages:
        assert isinstance(stage, MlflowTracker)
        assert _status(stage) == "FINISHED"
        assert len(stage._client.get_metric_history(stage.run_id, "eval/caption/cider")) == 1


def test_the_farewell_is_bounded_and_the_next_run_closes_what_stayed_open(
    run: MlflowTracker, server: MlflowServer, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    stage = run.child("round-0/pretrain")
    assert isinstance(stage, MlflowTracker)
    server.hang()
    stage.end()
    run.end("KILLED")
    with caplog.at_level(logging.WARNING):
        run.farewell(1.0)  # it returns although nobody wakes the server meanwhile
    assert "did not answer within 1 s" in caplog.text
    server.wake()
    again = _open(server, request.node.name)
    again.end()
    again.farewell(60)
    assert again.run_id == run.run_id
    assert (_status(stage), _status(again)) == ("FINISHED", "FINISHED")
