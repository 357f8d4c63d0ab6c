"""The bootstrap on a schedule: one process that waits, and starts each run as a process of its own."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from components.config import load_config
from flows.layout import scratch_folder
from flows.preflight import check_before_work
from flows.server import prefect_server

logger = logging.getLogger(__name__)


def serve_bootstrap(path: Path | None, overrides: Sequence[str], cron: str | None) -> None:
    """Serve until stopped; a run that is due while another one works is cancelled with a message.

    Two guards: the deployment's concurrency limit in Prefect, and the store's own lock, which also holds against
    `capfilt run` and against other machines. The schedule goes on when this process is started again.
    """
    config = load_config(path, overrides)
    check_before_work(config)
    os.environ.setdefault("PREFECT_LOGGING_ROOT_LEVEL", "INFO")  # the runs' processes say what they do
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "5")
    with prefect_server(scratch_folder(config) / "prefect") as server:
        if server is not None:
            server.wait()
            logger.info("Prefect's pages: %s", server.url)
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

        from flows.bootstrap import bootstrap

        logger.info("serving %s%s; Ctrl-C ends it", config.name, f" at {cron!r}" if cron else ", started by hand")
        bootstrap.serve(
            name=config.name,
            cron=cron,
            parameters={"config_path": str(path) if path else None, "overrides": list(overrides)},
            description=f"the bootstrap {config.name}, one at a time",
            tags=["capfilt", config.name],
            global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
            pause_on_shutdown=False,
            print_starting_message=False,
        )
