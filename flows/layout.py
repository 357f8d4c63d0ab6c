"""Where a bootstrap keeps what is not a result: its lock, work in progress, sqlite files. Imports nothing slow."""

from pathlib import Path
from typing import Any

from components.common.storage import open_store
from components.config import BootstrapConfig

LOCK_KEY = "locks/bootstrap.json"


def scratch_folder(config: BootstrapConfig) -> Path:
    """Where work in progress and MLflow's and Prefect's files lie: the store's folder, or ./.capfilt beside S3."""
    local = open_store(config.store).local_path("x")
    return local.parent if local is not None else Path(".capfilt").resolve()


def parent_run(config: BootstrapConfig) -> dict[str, Any]:
    """How a bootstrap's MLflow run is named and found again: arguments of `open_tracker`."""
    return {
        "experiment": config.tracking.experiment or config.name,
        "run_name": f"{config.name}-{config.bootstrap_id[:8]}",
        "resume": {"bootstrap.id": config.bootstrap_id[:32]},
        "tags": {"bootstrap.name": config.name, "bootstrap.rounds": str(config.rounds), "store": config.store},
    }
