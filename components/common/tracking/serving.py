"""MLflow's server over a database file, started without MLflow's own command, which takes as long again to start it."""

import json
import logging
import urllib.error
import urllib.parse

from components.common.environment import opener
from components.common.tracking.moved import artifact_folder, database_file
from components.common.tracking.pages import pages_of_runs

logger = logging.getLogger(__name__)

SERVER_APP = "mlflow.server.fastapi_app:app"
"""What uvicorn serves."""


def pages_environment(uri: str) -> dict[str, str]:
    """What the server is told, by the names of `mlflow.server.constants` (a test compares them).

    Args:
        uri: of a database.
    """
    file = database_file(uri)
    return {
        "_MLFLOW_SERVER_FILE_STORE": uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "./mlartifacts" if file is None else str(artifact_folder(file)),
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 2 GB of helper processes (docs/facts.md 16)
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }


def runs_pages_at(address: str, experiment: str) -> dict[str, str]:
    """As `find_runs_pages`, asked of a server at hand without loading MLflow for it."""
    query = urllib.parse.urlencode({"experiment_name": experiment})
    url = f"{address.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?{query}"
    try:
        with opener(url)(url, timeout=60) as answer:
            found = json.load(answer)["experiment"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            logger.warning("MLflow's server answers %d %s: %s", error.code, error.reason, _fault(error.read()))
        return {}
    except (OSError, ValueError, KeyError) as error:
        logger.warning("MLflow's server does not tell its experiments: %s", error)
        return {}
    return pages_of_runs(found["experiment_id"], [tag["key"] for tag in found.get("tags", ())])


def _fault(body: bytes) -> str:
    """MLflow's own words for what is wrong."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
