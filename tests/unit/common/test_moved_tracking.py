"""MLflow's file in a store that was moved or copied finds its artifacts where it lies now, and leaves the old place."""

import importlib.util
import json
import logging
import runpy
import shutil
import sqlite3
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from capfilt.cli.ui import _mlflow
from components.common.contracts import DatasetRef, ModelRef
from components.common.tracking import (
    MlflowTracker,
    Score,
    find_runs_pages,
    open_tracker,
    pages_environment,
    runs_pages_at,
    settle,
)

PAGE = "<html>rounds</html>"
ELSEWHERE = "file:///somewhere/else/artifacts"


def _uri(store: Path) -> str:
    return f"sqlite:///{store}/mlflow.db"


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> None:
    """MLflow remembers, for as long as the process lives, where a run's artifacts were."""
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    _artifact_repos_cache.clear()


def _open(store: Path) -> MlflowTracker:
    tracker = open_tracker(_uri(store), "moved", "bootstrap", resume={"bootstrap.id": "1"}, tags={"store": str(store)})
    assert isinstance(tracker, MlflowTracker)
    return tracker


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all that MLflow names by places: artifacts, a model, a dataset, and an experiment of others."""
    store = tmp_path_factory.mktemp("mlflow") / "old 100% äé"
    models = store / "models" / "captioner"
    models.mkdir(parents=True)
    (models / "model.safetensors").write_bytes(b"weights")
    tracker = _open(store)
    tracker.log_text(PAGE, "pages/report.html")
    tracker.log_dataset(DatasetRef(name="web", uri=f"{store}/datasets/web", digest="d" * 64, images=1, pairs=1), "web")
    ref = ModelRef(role="captioner", uri=str(models), digest="c" * 64)
    tracker.register_model("moved-captioner", ref, {}, aliases={"champion": "the only one"})
    tracker.log_scores({"eval/x": Score(0.5, ref)})
    tracker.end()
    tracker.farewell()
    tracker._client.create_experiment("of others", artifact_location=ELSEWHERE)
    return store


@pytest.fixture
def moved(original: Path, tmp_path: Path) -> Path:
    """A copy of the store; the original is gone meanwhile."""
    copy = Path(shutil.copytree(original, tmp_path / "new"))
    away = original.rename(original.with_name("away"))
    try:
        yield copy
    finally:
        assert not original.exists(), "something was made again at the old place"
        away.rename(original)


def _dump(store: Path) -> str:
    with sqlite3.connect(store / "mlflow.db") as database:
        return "\n".join(database.iterdump())


def test_everything_is_found_at_the_new_place(original: Path, moved: Path, tmp_path: Path) -> None:
    before = _dump(moved)
    assert original.as_uri() in before and str(original) in before
    tracker = _open(moved)
    client = tracker._client
    (held,) = tracker.find_champions(["moved-captioner"]) or []
    assert held.uri == f"{moved}/models/captioner"
    version = client.get_model_version_by_alias("moved-captioner", "champion")
    assert version.source == held.uri
    page = client.download_artifacts(tracker.run_id, "pages/report.html", str(tmp_path))
    assert Path(page).read_text() == PAGE
    (entry,) = client.get_run(tracker.run_id).inputs.dataset_inputs
    assert json.loads(entry.dataset.source) == {"uri": f"{moved}/datasets/web/manifest.json"}
    tracker.log_text("more", "pages/more.md")
    tracker.end()
    tracker.farewell()
    assert list(moved.rglob("more.md"))
    after = _dump(moved)
    assert original.as_uri() not in after and str(original) not in after
    assert client.get_experiment_by_name("of others").artifact_location == ELSEWHERE


def test_the_server_behind_the_pages_gives_the_artifacts(moved: Path) -> None:
    with _mlflow(_uri(moved)) as server:
        assert server is not None
        with sqlite3.connect(moved / "mlflow.db") as database:
            ((run,),) = database.execute("SELECT run_uuid FROM runs").fetchall()
        query = urllib.parse.urlencode({"path": "pages/report.html", "run_uuid": run})
        with urllib.request.urlopen(f"{server}/get-artifact?{query}", timeout=60) as answer:
            assert answer.read().decode() == PAGE
        assert runs_pages_at(server, "moved") == find_runs_pages(_uri(moved), "moved") != {}
        assert runs_pages_at(server, "nobody's") == {}


def test_the_server_is_told_by_mlflows_own_names() -> None:
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None and spec.origin is not None
    constants = runpy.run_path(str(Path(spec.origin).parent / "server" / "constants.py"))
    names = ("BACKEND_STORE_URI", "REGISTRY_STORE_URI", "ARTIFACT_ROOT", "SERVE_ARTIFACTS", "ARTIFACTS_DESTINATION")
    told = pages_environment("sqlite:////somewhere/mlflow.db")
    assert {constants[f"{name}_ENV_VAR"] for name in names} <= told.keys()


def test_a_copy_beside_its_original_does_not_write_into_it(original: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    files = sorted(original.rglob("*"))
    tracker = _open(copy)
    tracker.log_text("of the copy", "pages/copy.md")
    tracker.end()
    tracker.farewell()
    assert sorted(original.rglob("*")) == files
    assert [path.name for path in copy.rglob("copy.md")] == ["copy.md"]


def test_where_nothing_was_moved_nothing_is_written(original: Path, tmp_path: Path) -> None:
    data = (original / "mlflow.db").read_bytes()
    settle(_uri(original))
    (tmp_path / "link").symlink_to(original)
    settle(_uri(tmp_path / "link"))  # by another name it is where it was
    assert (original / "mlflow.db").read_bytes() == data
    settle(_uri(tmp_path / "nothing"))
    settle("http://127.0.0.1:9")
    assert not (tmp_path / "nothing").exists()


def test_only_the_file_was_copied(original: Path, tmp_path: Path) -> None:
    """Without its artifacts: they are read where they are as long as they are there."""
    data = Path(shutil.copy(original / "mlflow.db", tmp_path)).read_bytes()
    settle(_uri(tmp_path))
    assert (tmp_path / "mlflow.db").read_bytes() == data


def test_moved_into_a_folder_of_its_own(tmp_path: Path) -> None:
    """A new place below the old one, and back: what was renamed already is not renamed again."""
    outer = tmp_path / "a"
    inner = outer / "store"
    inner.mkdir(parents=True)
    rows = [(1, (outer / "mlartifacts").as_uri()), (2, (inner / "mlartifacts").as_uri())]
    with sqlite3.connect(inner / "mlflow.db") as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, artifact_location TEXT)")
        database.executemany("INSERT INTO experiments VALUES (?, ?)", rows)
    settle(_uri(inner))
    assert _locations(inner) == {(inner / "mlartifacts").as_uri()}
    (inner / "mlflow.db").rename(outer / "mlflow.db")
    settle(_uri(outer))
    assert _locations(outer) == {(outer / "mlartifacts").as_uri()}


def _locations(store: Path) -> set[Any]:
    with sqlite3.connect(store / "mlflow.db") as database:
        return {row[0] for row in database.execute("SELECT artifact_location FROM experiments")}


def test_a_file_that_cannot_be_changed_is_told_of(moved: Path, caplog: pytest.LogCaptureFixture) -> None:
    with sqlite3.connect(moved / "mlflow.db") as database:
        database.execute("CREATE TRIGGER no BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'runs are closed'); END")
    before = _dump(moved)
    with caplog.at_level(logging.WARNING):
        settle(_uri(moved))
    assert "cannot be told so (runs are closed)" in caplog.text
    assert _dump(moved) == before, "all or nothing"
