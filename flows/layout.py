"""Where a bootstrap keeps what is not a result: its lock, work in progress, sqlite files. Imports nothing slow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.identity import deciding
from components.common.storage import open_store
from components.common.tracking import Settings, flatten
from components.config import BootstrapConfig

LOCK_KEY = "locks/bootstrap.json"
_ALWAYS = ("seed", "rounds", "init", "capfilt.threshold", "capfilt.policy", "capfilt.captions_per_image")
"""Settings that are told of every bootstrap, even where they are the default."""


def scratch_folder(config: BootstrapConfig) -> Path:
    """Where work in progress and MLflow's and Prefect's files lie: the store's folder, or ./.capfilt beside S3."""
    local = open_store(config.store).local_path("x")
    return local.parent if local is not None else Path(".capfilt").resolve()


def parent_run(config: BootstrapConfig) -> dict[str, Any]:
    """How a bootstrap's MLflow run is named and found again: arguments of `open_tracker`."""
    label = _label(config.name, config.bootstrap_id)
    found = {
        "experiment": config.tracking.experiment or config.name,
        "run_name": label,
        "resume": {"bootstrap.id": config.bootstrap_id[:32]},
        "tags": {
            "bootstrap": label,
            "bootstrap.name": config.name,
            "bootstrap.rounds": str(config.rounds),
            "store": config.store,
        },
    }
    if (former := config.former_bootstrap_id) == config.bootstrap_id:
        return found
    return found | {"formerly": {"bootstrap.id": former[:32], "bootstrap": _label(config.name, former)}}


def _label(name: str, identity: str) -> str:
    """As `BootstrapResult.label`."""
    return f"{name}-{identity[:8]}"


def settings(config: BootstrapConfig) -> Settings:
    """A bootstrap's settings as MLflow has them; its name and MLflow's own place tell nobody anything.

    Encoders in local folders go by the folder's name and their content, as a checkout may be moved.
    """
    folders, digests = config.encoders.folders(), config.local_encoders
    named = {part: f"{Path(folders[part]).name}@{digest[:8]}" for part, digest in digests.items()}
    config = config.model_copy(update={"encoders": config.encoders.model_copy(update=named)})
    decided = {key: value for key, value in deciding(config).items() if key != "name"}
    chosen = config.model_dump(mode="json", exclude_defaults=True, exclude={"tracking"})
    return Settings(flatten(_spoken(decided)), flatten(chosen), _ALWAYS)


def _spoken(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of which those that are not set say so."""
    return {
        key: _spoken(value) if isinstance(value, Mapping) else "null" if value is None else value
        for key, value in settings.items()
    }
