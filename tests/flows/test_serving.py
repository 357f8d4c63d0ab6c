"""What `capfilt serve` leaves in Prefect: a schedule in local time, no limit, and no run that nobody works on."""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.runner import Runner
from prefect.states import Running, Scheduled
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.lock import exclusive
from components.common.storage import open_store
from flows import serving
from flows.bootstrap import bootstrap
from flows.layout import LOCK_KEY
from flows.serving import serve_bootstrap


@pytest.fixture(autouse=True)
def harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' Prefect server in place of a local one, and a runner that stops at once."""

    async def stop(_runner: Runner, **_: Any) -> None:
        return

    @contextlib.contextmanager
    def server(_home: Path) -> Iterator[None]:
        yield None

    monkeypatch.setattr(Runner, "start", stop)
    monkeypatch.setattr(serving, "prefect_server", server)
    monkeypatch.setattr(serving, "_YOUNG_SECONDS", 0.0)
    monkeypatch.setenv("TZ", "America/New_York")
    for name in (*serving._SETTINGS, "CAPFILT_SERVED_BY"):
        monkeypatch.setenv(name, serving._SETTINGS.get(name, "0"))


def deployment(name: str) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(f"bootstrap/{name}")


def test_the_schedule_is_local_and_an_older_ones_limit_is_gone(tmp_path: Path) -> None:
    bootstrap.to_deployment("older", cron="0 1 * * *", concurrency_limit=ConcurrencyLimitConfig(limit=1)).apply()
    assert deployment("older").global_concurrency_limit is not None
    serve_bootstrap(None, [f"store={tmp_path}", "name=older"], "0 2 * * *")
    served = deployment("older")
    assert served.global_concurrency_limit is None
    (one,) = served.schedules
    assert (one.schedule.cron, one.schedule.timezone) == ("0 2 * * *", "America/New_York")
    serve_bootstrap(None, [f"store={tmp_path}", "name=older"], None)
    assert deployment("older").schedules == []


def test_a_run_whose_process_is_gone_is_crashed_unless_the_store_is_at_work(tmp_path: Path) -> None:
    serve_bootstrap(None, [f"store={tmp_path}", "name=lost"], None)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment("lost").id, state=Running())

        def state() -> str:
            return str(client.read_flow_run(run.id).state_name)

        with pytest.MonkeyPatch.context() as patch, exclusive(open_store(str(tmp_path)), LOCK_KEY, "bootstrap"):
            patch.setattr("flows.turn.wait_for_turn", lambda config: False)
            serve_bootstrap(None, [f"store={tmp_path}", "name=lost"], None)  # is not refused
            assert state() == "Running"
        serve_bootstrap(None, [f"store={tmp_path}", "name=lost"], None)
        assert state() == "Crashed"


def test_of_the_runs_that_were_missed_one_is_left(tmp_path: Path) -> None:
    serve_bootstrap(None, [f"store={tmp_path}", "name=missed"], None)
    with get_client(sync_client=True) as client:
        now = datetime.now(timezone.utc)
        runs = [
            client.create_flow_run_from_deployment(
                deployment("missed").id, state=Scheduled(scheduled_time=now + timedelta(hours=hours))
            )
            for hours in (-3, -1, -2, 5)
        ]
        serve_bootstrap(None, [f"store={tmp_path}", "name=missed"], None)
        types = [client.read_flow_run(run.id).state_type for run in runs]
    assert [one is not None and one.value for one in types] == ["CANCELLED", "SCHEDULED", "CANCELLED", "SCHEDULED"]


def test_a_wrong_cron_is_bad_usage_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "--set", f"store={tmp_path}", "--cron", "61 2 * * *"])
    assert result.exit_code == 2
    assert "--cron '61 2 * * *' is no cron expression" in result.stderr
    assert "Traceback" not in result.stderr
