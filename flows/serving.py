"""The bootstrap on a schedule: one process that waits, and starts each run as a process of its own."""

import logging
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError
from components.common.timezone import local_timezone
from components.config import BootstrapConfig, load_config
from flows.layout import scratch_folder
from flows.preflight import check_before_work
from flows.server import prefect_server

logger = logging.getLogger(__name__)

_YOUNG_SECONDS = 120.0  # a run this young may be on its way to the lock, on another machine


def serve_bootstrap(path: Path | None, overrides: Sequence[str], cron: str | None) -> None:
    """Serve until stopped; a run that is due while another one works is cancelled with a message.

    The store's own lock keeps runs apart: it holds against `capfilt run` and against other machines, it is free again
    when its holder was killed, and it asks nothing of Prefect's server. A limit in Prefect would be leased from that
    server: one that is restarted ends a healthy run, and one that was killed leaves a slot taken for good.

    Args:
        path: the config's file; None for the sample's.
        overrides: settings on top of it.
        cron: when to run, in local time; None for runs started by hand.

    Raises:
        ConfigError: what cannot work, or a cron expression that is none.
    """
    config = load_config(path, overrides)
    zone = local_timezone()
    check_before_work(config, busy_now=True)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with prefect_server(scratch_folder(config) / "prefect") as server:
        schedule = make_schedule(cron, zone)
        if server is not None:
            server.wait()
            logger.info("Prefect's pages: %s", server.url)
        from flows.bootstrap import bootstrap
        from flows.witness import SERVED_BY

        os.environ[SERVED_BY] = str(os.getpid())
        close_lost_runs(config, own_server=server is not None)
        drop_missed_runs(config)
        when = f" at {cron!r}, {zone} time" if cron else ", started by hand"
        logger.info("serving %s%s; Ctrl-C ends it", config.name, when)
        bootstrap.serve(
            name=config.name,
            schedule=schedule,
            parameters={"config_path": str(path) if path else None, "overrides": list(overrides)},
            description=f"the bootstrap {config.name}, one at a time",
            tags=["capfilt", config.name],
            global_limit=None,
            limit=2,  # the one that works, and one that finds it working; others wait, and cost no process
            pause_on_shutdown=False,
            print_starting_message=False,
        )


_SETTINGS = {
    "PREFECT_LOGGING_ROOT_LEVEL": "INFO",  # the runs' processes say what they do
    "PREFECT_RUNNER_POLL_FREQUENCY": "5",
    # Prefect's runner gives up, and ends its runs, after three calls in vain; each of them outlasts a server's upgrade:
    # pauses of 2, 4, 8 … 256 s.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
}


def make_schedule(cron: str | None, zone: str) -> Any:
    """Prefect's schedule of a cron expression in a time zone, its daylight-saving days included; None without one.

    Raises:
        ConfigError: it is no cron expression.
    """
    if cron is None:
        return None
    from prefect.schedules import Cron

    try:
        return Cron(cron, timezone=zone)
    except ValueError as error:
        raise ConfigError(
            f"--cron {cron!r} is no cron expression: give minute, hour, day of the month, month and weekday, "
            "e.g. '0 2 * * 0' for Sundays at two"
        ) from error


def close_lost_runs(config: BootstrapConfig, *, own_server: bool) -> None:
    """Mark runs of this deployment as crashed whose process is gone: nobody holds the store's lock.

    Args:
        config: whose runs.
        own_server: whether all runs there were started by a `capfilt serve` over the same store, which is gone.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    from flows.turn import wait_for_turn

    if not wait_for_turn(config):
        return
    youngest = 0.0 if own_server else _YOUNG_SECONDS
    with get_client(sync_client=True) as client:
        for run in _runs(client, config, "RUNNING", "PENDING", "CANCELLING"):
            if run.state is None or time.time() - run.state.timestamp.timestamp() < youngest:
                continue
            state: Any = Crashed(message="the process that worked on it is gone; the next run goes on where it was")
            client.set_flow_run_state(run.id, state, force=True)
            logger.warning("%s was cut short: its process is gone; the next run goes on where it was", run.name)


def drop_missed_runs(config: BootstrapConfig) -> None:
    """Of the runs that were due while nobody served, leave the last: the others would all start at once."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    now = datetime.now(timezone.utc)
    with get_client(sync_client=True) as client:
        waiting = _runs(client, config, "SCHEDULED")
        missed = [run for run in waiting if run.expected_start_time is not None and run.expected_start_time < now]
        for run in missed[:-1]:
            state: Any = Cancelled(message="missed while nobody served; the last one that was missed runs")
            client.set_flow_run_state(run.id, state, force=True)
    if missed[1:]:
        logger.warning("%d runs were missed while nobody served; one of them runs now", len(missed))


def _runs(client: Any, config: BootstrapConfig, *types: str) -> list[Any]:
    """Runs of the deployment whose state is of one of the types, those due first in front."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType(one) for one in types]))
    found: list[Any] = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=states),
        flow_filter=FlowFilter(name=FlowFilterName(any_=["bootstrap"])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[config.name])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )
    return found
