"""Models in MLflow: one logged model and one registered version per digest, which points at the folder in the store."""

import logging
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from components.common.contracts import ModelRef
from components.common.tracking.names import NOTE, TAG_LENGTH

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What is to be said of a model: see `Tracker.register_model`."""

    name: str
    ref: ModelRef
    tags: Mapping[str, str]
    about: str
    card: str
    aliases: Mapping[str, str]

    @property
    def labels(self) -> dict[str, str]:
        """Tags of the model and of its version."""
        return {**self.tags, "digest": self.ref.digest, "uri": self.ref.uri, "role": self.ref.role}


def register(client: Any, experiment_id: str, run_id: str, model: Entry) -> None:
    """Have a logged model and a version of this digest, with its card, and the aliases on it."""
    logged = find_logged(client, experiment_id, model.ref.digest) or _new_logged(client, experiment_id, run_id, model)
    _describe(client, logged, model)
    version = _known_version(client, model) or _new_version(client, run_id, model, logged)
    for alias, why in model.aliases.items():
        _point(client, run_id, model.name, alias, version, why)


def find_logged(client: Any, experiment_id: str, digest: str) -> Any | None:
    """The logged model of a digest; None if it was not registered."""
    found = client.search_logged_models([experiment_id], filter_string=f"tags.`digest` = '{digest}'", max_results=1)
    return next(iter(found), None)


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


def _new_logged(client: Any, experiment_id: str, run_id: str, model: Entry) -> Any:
    logged = client.create_logged_model(
        experiment_id, name=model.name, source_run_id=run_id, tags=model.labels, model_type=model.ref.role
    )
    return client.finalize_logged_model(logged.model_id, "READY")


def _describe(client: Any, logged: Any, model: Entry) -> None:
    """Its card as description and as README.md; a model that several bootstraps made says so."""
    labels = {**model.labels, NOTE: model.card[:TAG_LENGTH]}
    made = [one for one in logged.tags.get("bootstrap", "").split(", ") if one]
    if (own := model.tags.get("bootstrap")) is not None:
        labels["bootstrap"] = ", ".join(dict.fromkeys([*made, own]))[:TAG_LENGTH]
    client.set_logged_model_tags(logged.model_id, labels)
    if model.card:
        with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
            path = Path(folder) / "README.md"
            path.write_text(model.card)
            client.log_model_artifact(logged.model_id, str(path))


def _known_version(client: Any, model: Entry) -> str | None:
    """The version of this digest, its card as of today; the model's name is registered from now on."""
    _ensure_registered(client, model.name, model.about)
    for known in client.search_model_versions(f"name='{model.name}'"):
        if known.tags.get("digest") == model.ref.digest:
            if known.description != model.card:
                client.update_model_version(model.name, known.version, model.card)
            return str(known.version)
    return None


def _new_version(client: Any, run_id: str, model: Entry, logged: Any) -> str:
    create = partial(
        client.create_model_version,
        model.name,
        run_id=run_id,
        tags=model.labels,
        model_id=logged.model_id,
        description=model.card,
    )
    try:
        version = create(source=model.ref.uri)
    except Exception as error:  # noqa: BLE001 - a remote server takes no source that is a path of this machine
        logger.debug("registering %s by its folder was refused (%s); by the logged model instead", model.name, error)
        version = create(source=logged.model_uri)
    return str(version.version)


def _point(client: Any, run_id: str, name: str, alias: str, version: str, why: str) -> None:
    """Point an alias at a version, if it does not yet: why is said first, so that no move is without a reason."""
    before = client.get_registered_model(name).aliases.get(alias)
    if str(before) == version:
        return
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    move = f"from version {before} to {version}" if before else f"to version {version}, its first"
    said = f"{when} {move}: {why}"[:TAG_LENGTH]
    client.set_model_version_tag(name, version, f"{alias}.reason", why[:TAG_LENGTH])
    client.set_model_version_tag(name, version, f"{alias}.since", when)
    client.set_registered_model_tag(name, f"{alias}.moved", said)
    client.set_tag(run_id, f"alias.{alias}.{name}", said)
    client.set_registered_model_alias(name, alias, version)


def _ensure_registered(client: Any, name: str, about: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
