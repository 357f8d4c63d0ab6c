"""What happens when a bootstrap ends badly: its MLflow run says so, and no training process is left behind.

The running flow does both itself on its way out. These hooks are the second net: Prefect calls them in the process that
served the flow when the flow's own process was cancelled or crashed.
"""

import logging
from typing import Any

logger = logging.getLogger(__name__)


def mark_killed(flow: Any, flow_run: Any, state: Any) -> None:
    """Close the MLflow run of a cancelled or crashed bootstrap as KILLED, unless another one works on it already."""
    from components.common.errors import CapfiltError
    from components.common.lock import refuse_if_busy
    from components.common.storage import open_store
    from components.common.tracking import open_tracker
    from components.config import load_config
    from flows.layout import LOCK_KEY, parent_run, scratch_folder

    parameters = flow_run.parameters or {}
    try:
        config = load_config(parameters.get("config_path"), parameters.get("overrides") or ())
        refuse_if_busy(open_store(config.store), LOCK_KEY)
        tracker = open_tracker(config.tracking_uri(scratch_folder(config)), **parent_run(config))
    except CapfiltError as error:
        logger.warning("cannot close the MLflow run of %s: %s", flow_run.name, error)
        return
    tracker.end("KILLED")
    tracker.farewell()
    logger.info(
        "%s was cut short (%s); run it again and it goes on where it stopped", flow_run.name, state.name.lower()
    )
