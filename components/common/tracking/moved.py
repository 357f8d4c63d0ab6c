"""MLflow's file in a store that was moved or copied: what it says of the old place is made to say the new one.

MLflow writes absolute URIs of artifacts into its database and knows no relative ones: `mlflow-artifacts:/` stands for
a place only where a server answers, and a bootstrap writes into the file without one; `./mlartifacts` would be the
working directory's. So whoever opens a file looks where its experiments' artifacts are said to lie. They are made
beside the file (`artifact_folder`); where they are said to be elsewhere, the file was moved or copied, and all that lay
below the old folder is renamed, in one transaction:

  experiments.artifact_location, runs.artifact_uri, logged_models.artifact_location
  model_versions.source, model_versions.storage_location, and the `uri` that tags of models name
  datasets.dataset_source, and the run's tag `store`

What lies elsewhere (S3, a server's artifacts, an experiment of somebody else's) is left as it is.
"""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.common.locations import is_below

logger = logging.getLogger(__name__)

FOLDER = "mlartifacts"
_FILE = "sqlite:///"
_WAIT = 60.0  # seconds for others who write into the file
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("model_version_tags", "value"),
    ("logged_model_tags", "tag_value"),
    ("tags", "value"),
)


def database_file(uri: str) -> Path | None:
    """The file of a tracking URI; None where MLflow has none on this machine."""
    return Path(uri.removeprefix(_FILE)).absolute() if uri.startswith(_FILE) else None


def artifact_folder(file: Path) -> Path:
    """Where artifacts of experiments in a database file lie: MLflow by itself would take the working directory."""
    return file.parent / FOLDER


def settle(uri: str) -> None:
    """Make the file of a tracking URI speak of the place where it lies now; nothing where it does, or is none yet.

    A file that cannot be changed is warned of, and used as it is.
    """
    file = database_file(uri)
    if file is None or not file.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=_WAIT, isolation_level=None)) as database:
            for old in _former_places(database, file):
                _rename(database, old, file.parent)
                logger.info("MLflow's file %s was at %s: its artifacts are found beside it", file, old)
    except sqlite3.Error as error:
        logger.warning("MLflow's file %s was moved, and cannot be told so (%s): artifacts will not open", file, error)


def _former_places(database: sqlite3.Connection, file: Path) -> set[Path]:
    """Folders in which the file lay when experiments were made, if it does not lie there now."""
    if not _has(database, "experiments", "artifact_location"):
        return set()
    rows = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    told = {Path(unquote(urlsplit(text).path)) for (text,) in rows if text and text.startswith("file:///")}
    return {folder.parent for folder in told if folder.name == FOLDER and _left(folder, artifact_folder(file))}


def _left(told: Path, beside: Path) -> bool:
    """Whether artifacts are not where they are said to be, but beside the file: by another name of it they are."""
    if not told.exists():
        return told != beside
    return beside.exists() and not told.samefile(beside)


def _rename(database: sqlite3.Connection, old: Path, new: Path) -> None:
    def moved(text: str | None) -> str | None:
        return text if text is None else _renamed(text, old, new)

    def moved_in_json(text: str) -> str:
        return json.dumps({name: moved(value) for name, value in json.loads(text).items()})

    database.create_function("moved", 1, moved)
    database.create_function("moved_in_json", 1, moved_in_json)
    with _transaction(database):
        for table, column in _PLACES:
            if _has(database, table, column):
                database.execute(f"UPDATE {table} SET {column} = moved({column}) WHERE moved({column}) IS NOT {column}")
        if _has(database, "datasets", "dataset_source"):
            ours = "dataset_source LIKE '{\"uri\": %' AND json_valid(dataset_source)"
            database.execute(f"UPDATE datasets SET dataset_source = moved_in_json(dataset_source) WHERE {ours}")


def _renamed(text: str, old: Path, new: Path) -> str:
    """A path or URI below the old folder as it is below the new one; any other as it is."""
    for before, after in ((str(old), str(new)), (old.as_uri(), new.as_uri())):
        done = is_below(before, after) and is_below(after, text)  # the new folder lies within the old one
        if is_below(before, text) and not done:
            return after + text[len(before) :]
    return text


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _has(database: sqlite3.Connection, table: str, column: str) -> bool:
    """Whether this release of MLflow has it."""
    return any(name == column for _, name, *_ in database.execute(f"PRAGMA table_info({table})"))
