"""Models in MLflow's registry: a version per digest, which points at the model's folder in the store."""

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from components.common.contracts import ModelRef
from components.common.tracking.names import TAG_LENGTH, short

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What is to be said of a model: see `Tracker.register_model`."""

    name: str
    ref: ModelRef
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    about: str
    note: str


def register(client: Any, experiment_id: str, run_id: str, model: Entry, champion: str | None) -> None:
    """Have a version of this digest, alias `challenger` on it, and `champion` if there is a reason for that."""
    version = _known_version(client, model) or _new_version(client, experiment_id, run_id, model)
    client.set_registered_model_alias(model.name, "challenger", version)
    if champion is not None:
        client.set_model_version_tag(model.name, version, "champion.reason", champion[:TAG_LENGTH])
        client.set_registered_model_alias(model.name, "champion", version)


def aliased(client: Any, name: str, alias: str) -> ModelRef | None:
    """The model that an alias points at; None if there is no such model or alias, or it was registered by others."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    tags = version.tags
    if not {"digest", "uri", "role"} <= tags.keys():
        return None
    return ModelRef(role=tags["role"], uri=tags["uri"], digest=tags["digest"], registered_version=int(version.version))


def _known_version(client: Any, model: Entry) -> str | None:
    """The version of this digest; the model's name is registered from now on."""
    _ensure_registered(client, model.name, model.about)
    for known in client.search_model_versions(f"name='{model.name}'"):
        if known.tags.get("digest") == model.ref.digest:
            return str(known.version)
    return None


def _new_version(client: Any, experiment_id: str, run_id: str, model: Entry) -> str:
    labels = {**model.tags, "digest": model.ref.digest, "uri": model.ref.uri, "role": model.ref.role}
    logged = client.create_logged_model(
        experiment_id, name=model.name, source_run_id=run_id, tags=labels, model_type=model.ref.role
    )
    now = int(time.time() * 1000)
    for key, value in model.metrics.items():
        client.log_metric(run_id, short(key), float(value), now, model_id=logged.model_id)
    client.finalize_logged_model(logged.model_id, "READY")
    create = partial(
        client.create_model_version,
        model.name,
        run_id=run_id,
        tags=labels,
        model_id=logged.model_id,
        description=model.note,
    )
    try:
        version = create(source=model.ref.uri)
    except Exception as error:  # noqa: BLE001 - a remote server takes no source that is a path of this machine
        logger.debug("registering %s by its folder was refused (%s); by the logged model instead", model.name, error)
        version = create(source=logged.model_uri)
    return str(version.version)


def _ensure_registered(client: Any, name: str, about: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
