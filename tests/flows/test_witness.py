"""Prefect is told how a run ended; what Prefect makes of it decides no result."""

import json
import os
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client

from components.common.errors import PreemptedError
from components.common.lock import HEARTBEAT_SECONDS, exclusive
from components.common.storage import open_store
from components.config import load_config
from flows import turn, witness
from flows.layout import LOCK_KEY
from flows.turn import wait_for_turn
from flows.witness import orderly, run_here, tell, work_calmly


def last_state(name: str) -> Any:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        return next(run.state for run in runs if run.name == name)


@pytest.mark.parametrize("error", [KeyboardInterrupt, PreemptedError])
def test_an_interrupted_run_is_interrupted_not_crashed(error: type[BaseException]) -> None:
    def stop() -> None:
        raise error

    @flow(name="stopped", flow_run_name="stopped-by-hand")
    @orderly
    def stopped() -> None:
        work_calmly(task(name="stage"), stop)

    with pytest.raises(error):
        run_here(stopped)
    state = last_state("stopped-by-hand")
    assert (state.type.value, state.name) == ("CANCELLED", "Interrupted")


def test_a_result_survives_a_server_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(witness, "LOCAL_SECONDS", 0.0)
    faults = iter([None])

    @flow(name="finished")
    @orderly
    def finished() -> str:
        monkeypatch.setattr(witness, "why_no_answer", lambda url: next(faults, "Connection refused"))
        tell("something", lambda: None)
        tell("the table", lambda: pytest.fail("there is nobody to tell"))
        return "the result"

    assert run_here(finished) == "the result"
    assert "Prefect does not get the table: Connection refused" in caplog.text
    assert "Prefect is gone and does not learn how this run ended" in caplog.text


def test_an_error_is_not_hidden_by_a_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "LOCAL_SECONDS", 0.0)

    @flow(name="failed")
    @orderly
    def failed() -> str:
        monkeypatch.setattr(witness, "why_no_answer", lambda url: "Connection refused")
        raise ValueError("the real one")

    with pytest.raises(ValueError, match="the real one"):
        run_here(failed)


def test_what_prefect_cannot_take_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> None:
        raise RuntimeError("500 Internal Server Error")

    tell("the table", refuse)
    assert "Prefect does not get the table: 500 Internal Server Error" in caplog.text


def test_flows_can_be_handed_to_a_process_of_their_own() -> None:
    from flows.bootstrap import bootstrap

    assert cloudpickle.loads(cloudpickle.dumps(bootstrap)).name == "bootstrap"


def _holder(folder: Path, heartbeat: float) -> dict[str, Any]:
    return {"token": "x", "place": "another machine", "host": "far", "pid": 1, "heartbeat": heartbeat, "since": 0}


def test_a_holder_that_gives_no_sign_of_life_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "_LOOK_SECONDS", 0.05)
    config = load_config(None, [f"store={tmp_path}"])
    store = open_store(str(tmp_path))
    import time

    store.write(LOCK_KEY, json.dumps(_holder(tmp_path, time.time())).encode())
    old = time.time() - 299.0
    os.utime(tmp_path / LOCK_KEY, (old, old))  # the store's own date tells when it was last written
    assert wait_for_turn(config, 30.0)
    store.write(LOCK_KEY, json.dumps(_holder(tmp_path, time.time())).encode())
    assert not wait_for_turn(config, 0.2)
    assert HEARTBEAT_SECONDS > 0.2


def test_a_holder_that_works_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr("components.common.lock.HEARTBEAT_SECONDS", 0.2)
    config = load_config(None, [f"store={tmp_path}"])
    with exclusive(open_store(str(tmp_path)), LOCK_KEY, "bootstrap 'x'"):
        assert not wait_for_turn(config, 30.0)
    assert wait_for_turn(config, 0.0)
