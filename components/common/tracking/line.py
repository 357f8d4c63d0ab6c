"""The way to one MLflow, and what it means when it does not answer."""

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from components.common.sending import Sender, first_line
from components.common.tracking.moved import database_file, settle
from components.common.tracking.names import public_uri

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Line(NamedTuple):
    """The way to one MLflow."""

    uri: str
    client: Any
    sender: Sender


def open_client(uri: str) -> Any:
    """An MLflow client that asks nobody, says little, and gives up soon where a server is away.

    A file in a store that was moved says from now on where it is: see `moved`.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # With a server it prints two lines on stdout for each run that ends: into our one JSON document, login and all.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    settle(uri)
    from mlflow import MlflowClient

    for name in ("mlflow.store.db.utils", "alembic"):  # a line per migration of a new sqlite file
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_away(error: BaseException | None) -> bool:
    """Whether an error says that MLflow does not answer, rather than that it refuses."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    code = getattr(error, "error_code", "")
    words = ("failed with exception", "failed with timeout exception", "too many 5", "failed with error code 5")
    return code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED") or any(word in str(error) for word in words)


def why_unusable(uri: str) -> str | None:
    """Why MLflow cannot work with a tracking URI, in its own words; None if it can.

    A database file that is not there yet will be made when work starts, and is not made here.
    """
    if (file := database_file(uri)) is not None and not file.exists():
        return None
    try:
        open_client(uri).search_experiments(max_results=1)
    except Exception as error:  # noqa: BLE001 - whatever the backend raises: no driver, an old schema, no login …
        return first_line(error).replace(uri, public_uri(uri))
    return None


def attempt(what: str, action: Callable[[], T]) -> T | None:
    """Do it; if MLflow or its server fails, warn and go on: tracking must never end the work it watches."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - every failure of tracking is survivable
        logger.warning("MLflow: could not %s: %s", what, first_line(error))
        return None
