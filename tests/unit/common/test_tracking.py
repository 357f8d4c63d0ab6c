import contextlib
import json
import logging
import shutil
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from components.common import tracking
from components.common.contracts import DatasetRef, ModelRef
from components.common.tracking import (
    UNTRACKED,
    MlflowTracker,
    RunsView,
    Score,
    Tracker,
    comparison_page,
    find_runs_pages,
    flatten,
    open_tracker,
    public_uri,
    run_page,
    runs_page,
    tracker_from_environment,
    why_unusable,
)

DATASET = DatasetRef(name="web", uri="s3://bucket/datasets/web/abc", digest="ab" * 32, images=10, pairs=12)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def run(uri: str, request: pytest.FixtureRequest) -> MlflowTracker:
    tracker = open_tracker(uri, "unit", request.node.name)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def _stored(tracker: Tracker) -> Any:
    assert isinstance(tracker, MlflowTracker)
    tracker.farewell()
    return tracker._client.get_run(tracker.run_id)


def _curve(tracker: MlflowTracker, name: str) -> list[tuple[int, float]]:
    tracker.farewell()
    return [(point.step, point.value) for point in tracker._client.get_metric_history(tracker.run_id, name)]


def test_metrics_arrive_in_batches(run: MlflowTracker) -> None:
    for step in range(1200):
        run.log_metrics({"train/loss": float(step)}, step)
    run.end()
    assert _curve(run, "train/loss") == [(step, float(step)) for step in range(1200)]
    assert _stored(run).info.status == "FINISHED"


def test_what_is_known_of_a_curve(run: MlflowTracker) -> None:
    assert run.known_point("eval/x", 0) is None
    run.log_metrics({"eval/x": 0.25}, 0)
    run.log_metrics({"eval/x": 0.5}, 1)
    assert (run.known_point("eval/x", 0), run.known_point("eval/x", 1), run.known_point("eval/x", 2)) == (
        0.25,
        0.5,
        None,
    )


def test_params_are_flat_short_and_kept(run: MlflowTracker) -> None:
    run.log_params({"train": {"lr": 0.1, "schedule": {"warmup": 5}}, "long": "x" * 9000, "nothing": None})
    run.log_params({"train": {"lr": 0.2}, "later": 1})
    params = _stored(run).data.params
    assert params["train.lr"] == "0.1"
    assert params["train.schedule.warmup"] == "5"
    assert params["later"] == "1"
    assert len(params["long"]) == 500
    assert "nothing" not in params


def test_more_params_than_one_call_takes() -> None:
    assert len(flatten({"a": {str(i): i for i in range(250)}})) == 250


def test_more_params_than_one_call_takes_are_stored(run: MlflowTracker) -> None:
    run.log_params({str(i): i for i in range(250)})
    assert len(_stored(run).data.params) == 250


def test_dataset_input_with_digest(run: MlflowTracker) -> None:
    run.log_dataset(DATASET, "pretrain")
    (entry,) = _stored(run).inputs.dataset_inputs
    assert entry.dataset.name == "web"
    assert entry.dataset.digest == DATASET.digest[:32]
    assert "s3://bucket/datasets/web/abc/manifest.json" in entry.dataset.source
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "pretrain", "digest": DATASET.digest}


def test_artifacts_lie_beside_the_database(run: MlflowTracker, uri: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<p>page</p>")
    run.log_artifact(page)
    run.log_text("a: 1", "config/resolved.yaml")
    run.farewell()
    names = {item.path for item in run._client.list_artifacts(run.run_id)}
    assert names == {"report.html", "config"}
    folder = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert (folder / str(run.run_id) / "artifacts" / "config" / "resolved.yaml").read_text() == "a: 1"


def test_children_are_found_again(run: MlflowTracker) -> None:
    assert not run.has_child("round-1/pretrain")
    first = run.child("round-1/pretrain", {"stage": "pretrain"})
    assert run.has_child("round-1/pretrain")
    first.log_metrics({"loss": 1.0}, 1)
    first.end("KILLED")
    again = run.child("round-1/pretrain")
    assert again.run_id == first.run_id
    assert run.child("round-1/capfilt").run_id != first.run_id
    assert _stored(again).info.status == "RUNNING"
    assert _stored(again).data.tags["mlflow.parentRunId"] == run.run_id


def test_runs_beside_are_found_again_by_their_tags(run: MlflowTracker) -> None:
    first = run.beside("round-0 of x", {"stage": "round", "round": "0"})
    first.end()
    assert run.beside("round-0 of x", {"stage": "round", "round": "0"}).run_id == first.run_id
    assert run.beside("round-1 of x", {"stage": "round", "round": "1"}).run_id not in (first.run_id, run.run_id)
    assert "mlflow.parentRunId" not in _stored(first).data.tags


def test_descriptions_and_the_view_that_links_open(uri: str) -> None:
    assert find_runs_pages(uri, "described") == {}
    tracker = open_tracker(uri, "described", "one")
    assert isinstance(tracker, MlflowTracker)
    page = f"#/experiments/{tracker.experiment_id}/runs?workflowType=machine_learning"
    assert find_runs_pages(uri, "described") == {"": page}  # MLflow complains of a view that is not there
    columns = {"metrics.`eval/x`": 150, "tags.`champion`": 90}
    views = [RunsView(key, f"which {key}", "tags.stage = 'round'", columns, "eval/") for key in ("rounds", "others")]
    tracker.describe_experiment("**what** it is", views)
    tracker.describe("a run")
    tracker.farewell()
    tags = tracker._client.get_experiment(tracker.experiment_id).tags
    found = {key: f"{page}&viewStateShareKey={key}" for key in ("rounds", "others")}
    assert find_runs_pages(uri, "described") == {"": page} | found
    assert runs_page(tracker.experiment_id) == found["rounds"]
    kept = json.loads(tags["mlflow.sharedViewState.rounds"])
    assert kept["name"] == "which rounds"
    view = json.loads(kept["state"])
    assert tags["mlflow.note.content"] == "**what** it is"
    assert view["selectedColumns"] == list(columns)
    assert tracker._client.search_runs([tracker.experiment_id], view["searchFilter"]) == []
    assert _stored(tracker).data.tags["mlflow.note.content"] == "a run"


def test_pages_of_runs() -> None:
    assert run_page("1", "ab", "artifacts/report.html").startswith("#/experiments/1/runs/ab/artifacts/report.html?")
    assert comparison_page("1", ["ab", "cd"]).startswith(
        "#/compare-runs?runs=%5B%22ab%22%2C%20%22cd%22%5D&experiments=%5B%221%22%5D"
    )


def test_a_run_is_resumed_by_its_tags(uri: str) -> None:
    first = open_tracker(uri, "resumed", "one", resume={"bootstrap.id": "b1"})
    assert open_tracker(uri, "resumed", "one", resume={"bootstrap.id": "b1"}).run_id == first.run_id
    assert open_tracker(uri, "resumed", "one", resume={"bootstrap.id": "b2"}).run_id != first.run_id


def test_models_are_registered_once_per_digest(run: MlflowTracker, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    ref = ModelRef(role="captioner", uri=str(tmp_path), digest="cd" * 32)
    other = ref.model_copy(update={"digest": "ef" * 32})
    words = {"about": "captioners", "card": "of round 0"}
    newest, best = {"challenger": "the newest"}, {"champion": "mean gain +3.0%"}
    run.register_model("unit-captioner", ref, {"round": "0", "bootstrap": "a"}, **words, aliases=newest | best)
    run.register_model("unit-captioner", other, {}, aliases=newest)
    run.register_model("unit-captioner", ref, {"round": "0", "bootstrap": "b"}, **words, aliases={"champion": "again"})
    run.farewell()
    client = run._client
    assert len(client.search_model_versions("name='unit-captioner'")) == 2
    assert int(client.get_model_version_by_alias("unit-captioner", "champion").version) == 1
    assert int(client.get_model_version_by_alias("unit-captioner", "challenger").version) == 2
    version = client.get_model_version("unit-captioner", "1")
    assert version.source == str(tmp_path)
    assert (client.get_registered_model("unit-captioner").description, version.description) == tuple(words.values())
    assert version.tags["digest"] == ref.digest
    assert version.tags["champion.reason"] == "mean gain +3.0%"
    moved = client.get_registered_model("unit-captioner").tags["challenger.moved"]
    assert moved.endswith("from version 1 to 2: the newest")
    assert _stored(run).data.tags["alias.challenger.unit-captioner"] == moved
    assert "first: mean gain" in _stored(run).data.tags["alias.champion.unit-captioner"]
    (logged,) = client.search_logged_models([run.experiment_id], filter_string=f"tags.digest = '{ref.digest}'")
    assert (logged.tags["bootstrap"], logged.tags["mlflow.note.content"]) == ("a, b", "of round 0")
    assert (Path(logged.artifact_location.removeprefix("file://")) / "README.md").read_text() == "of round 0"
    assert run.find_champions(["unit-captioner", "unit-nobody"]) == [ref.model_copy(update={"registered_version": 1})]
    from mlflow.artifacts import download_artifacts

    folder = download_artifacts(artifact_uri=client.get_model_version_download_uri("unit-captioner", "1"))
    assert (Path(folder) / "model.safetensors").read_bytes() == b"weights"


def test_figures_are_tied_to_models_and_datasets_once(run: MlflowTracker, tmp_path: Path) -> None:
    ref = ModelRef(role="filter", uri=str(tmp_path), digest="0f" * 32)
    run.register_model("unit-filter", ref, {})
    scores = {"eval/x": Score(0.5, ref, DATASET), "count": Score(3.0), "of-nobody": Score(1.0, None, DATASET)}
    scores |= {f"eval/{number}": Score(number, ref, DATASET) for number in range(1200)}  # more than a call takes
    run.log_scores(scores)
    run.log_scores(scores)
    run.farewell()
    (logged,) = run._client.search_logged_models([run.experiment_id], filter_string=f"tags.digest = '{ref.digest}'")
    tied = [(one.dataset_name, one.dataset_digest, one.value) for one in logged.metrics if one.key == "eval/x"]
    assert tied == [("web", DATASET.digest[:32], 0.5)]
    assert len(logged.metrics) == 1201
    assert _curve(run, "eval/x") == [(0, 0.5)]
    assert _curve(run, "count") == [(0, 3.0)]


def test_what_earlier_releases_called_a_run_is_found(uri: str) -> None:
    old = open_tracker(uri, "renamed", "x-old", resume={"id": "old"})
    side = old.beside("round-0 of x-old", {"bootstrap": "x-old"})
    formerly = {"id": "old", "bootstrap": "x-old"}
    again = {"resume": {"id": "new"}, "tags": {"bootstrap": "x-new"}, "formerly": formerly}
    new = open_tracker(uri, "renamed", "x-new", **again)  # type: ignore[arg-type]
    assert new.run_id == old.run_id
    assert new.beside("round-0 of x-new", {"bootstrap": "x-new"}).run_id == side.run_id
    assert _stored(side).info.run_name == "round-0 of x-new"
    assert open_tracker(uri, "renamed", "x-new", **again).run_id == old.run_id  # type: ignore[arg-type]


def test_a_child_process_logs_into_the_run_without_ending_it(
    run: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in run.environment().items():
        monkeypatch.setenv(name, value)
    inner = tracker_from_environment()
    inner.log_metrics({"loss": 2.0}, 7)
    inner.end("FAILED")
    inner.farewell()
    assert _curve(run, "loss") == [(7, 2.0)]
    assert _stored(run).info.status == "RUNNING"


def test_without_environment_nothing_is_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracking.URI_VARIABLE, raising=False)
    assert tracker_from_environment() is UNTRACKED


def test_a_server_that_is_away_ends_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracker = open_tracker(f"http://127.0.0.1:{port}", "x", "y")
    tracker.log_metrics({"a": 1.0})
    tracker.end()
    assert "could not open" in caplog.text


def test_names_that_mlflow_would_refuse_are_shortened(run: MlflowTracker) -> None:
    long = "k" * 300
    run.log_metrics({f"{long}1": 1.0, f"{long}2": 2.0, "truth/rejected/größer!": 3.0})
    run.log_params({long: {"inner": 5}})
    run.log_tags({long: "tagged"})
    run.log_figure_bytes(b"jpeg", f"samples/round-1/{'ü' * 300}.jpg")
    data = _stored(run).data
    assert sorted(data.metrics.values()) == [1.0, 2.0, 3.0]
    assert data.metrics.pop("truth/rejected/gr__er_") == 3.0
    assert all(name.startswith("k" * 200) and len(name) <= 250 for name in data.metrics)
    assert "5" in data.params.values()
    assert "tagged" in data.tags.values()
    (item,) = run._client.list_artifacts(run.run_id, "samples/round-1")
    assert item.path.endswith(".jpg")


def test_metrics_wait_while_the_server_is_away(
    run: MlflowTracker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("components.common.tracking.run.FLUSH_SECONDS", 0.05)
    send, asked = run._client.log_batch, threading.Event()

    def away(*args: object, **kwargs: object) -> None:
        asked.set()
        raise ConnectionError("no answer")

    monkeypatch.setattr(run._client, "log_batch", away)
    run.log_metrics({"loss": 1.0}, 1)
    assert asked.wait(10)
    child = run.child("started-meanwhile")
    child.log_metrics({"loss": 3.0}, 3)
    child.end()
    monkeypatch.setattr(run._client, "log_batch", send)
    run.log_metrics({"loss": 2.0}, 2)
    run.end()
    assert _curve(run, "loss") == [(1, 1.0), (2, 2.0)]
    assert "could not send metrics: no answer" in caplog.text
    assert isinstance(child, MlflowTracker)
    assert _curve(child, "loss") == [(3, 3.0)]
    assert _stored(child).info.status == "FINISHED"


def test_what_is_refused_is_left_out_and_holds_nothing_up(run: MlflowTracker, caplog: pytest.LogCaptureFixture) -> None:
    run.log_metrics({"../outside": 1.0})
    run.log_metrics({"loss": 1.0}, 1)
    run.farewell()
    run.log_metrics({"loss": 2.0}, 2)
    assert (2, 2.0) in _curve(run, "loss")
    assert "could not send metrics" in caplog.text


def test_runs_that_a_killed_process_left_open_are_closed_with_their_bootstrap(run: MlflowTracker) -> None:
    left = run.child("round-0/pretrain")
    run.end("FAILED")
    assert _stored(left).info.status == "FAILED"
    assert _stored(run).info.status == "FAILED"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:secret@host:5000/mlflow", "http://host:5000/mlflow"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("postgresql://me:p@ss@db/mlflow", "postgresql://db/mlflow"),
        ("no tracking", "no tracking"),
    ],
)
def test_no_login_is_shown(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("./mlruns", "filesystem tracking backend"),
        ("file:///tmp/mlruns", "filesystem tracking backend"),
        ("postgresql://me:secret@127.0.0.1/mlflow", "No module named 'psycopg2'"),
        ("nonsense://x", "unsupported URI"),
    ],
)
def test_what_mlflow_cannot_use_is_told(uri: str, words: str) -> None:
    fault = why_unusable(uri)
    assert fault is not None
    assert words in fault
    assert "secret" not in fault


def test_an_old_database_is_told_and_a_new_one_is_not_made(uri: str, run: MlflowTracker, tmp_path: Path) -> None:
    assert why_unusable(uri) is None
    assert why_unusable(f"sqlite:///{tmp_path}/new.db") is None
    assert not list(tmp_path.iterdir())
    old = tmp_path / "old.db"
    shutil.copyfile(uri.removeprefix("sqlite:///"), old)
    with contextlib.closing(sqlite3.connect(old)) as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
        database.commit()
    fault = why_unusable(f"sqlite:///{old}")
    assert fault is not None
    assert "mlflow db upgrade" in fault


@pytest.mark.parametrize("name", ["a%20b", "run #3", "50%", "données"])
def test_artifacts_lie_beside_the_sqlite_file_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    tracker = open_tracker(f"sqlite:///{folder}/mlflow.db", "x", "run")
    tracker.log_text("hello", "note.txt")
    tracker.end()
    tracker.farewell()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.read_text() for path in folder.rglob("note.txt")] == ["hello"]
