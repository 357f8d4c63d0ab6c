"""Two bootstraps of which MLflow was told: what tells them apart, what figures are tied to, how models rank."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from capfilt import leaderboard
from capfilt.cli.main import app
from components.common.contracts import BootstrapResult
from components.common.errors import ConfigError, StorageError
from components.common.metrics import find_metric
from tests.helpers.told_bootstraps import CIDER, RECALL, tell_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("told")


@pytest.fixture(scope="module")
def told(store: Path) -> list[BootstrapResult]:
    first = tell_of(store, [(0.31, 0.2), (0.42, 0.5)])
    other = tell_of(store, [(0.30, 0.2), (0.47, 0.6)], ["capfilt.threshold=0.6", "seed=7"])
    tell_of(store, [(0.30, 0.2), (0.47, 0.6)], ["capfilt.threshold=0.6", "seed=7"])  # again, as if found done
    return [first, other]


@pytest.fixture(scope="module")
def client(told: list[BootstrapResult]) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(told[0].mlflow_uri, registry_uri=told[0].mlflow_uri)


def test_settings_that_differ_are_in_names_and_parameters(told: list[BootstrapResult], client: Any) -> None:
    first, other = (client.get_run(one.mlflow_run) for one in told)
    assert first.info.run_name == f"{told[0].label} seed=0"
    assert other.info.run_name == f"{told[1].label} threshold=0.6 seed=7"
    assert other.data.tags["differs from"] == told[0].label
    assert (first.data.params["seed"], first.data.params["capfilt.threshold"]) == ("0", "0.5")
    assert (other.data.params["seed"], other.data.params["capfilt.threshold"]) == ("7", "0.6")
    assert other.data.metrics["champion/retrieval/mean_recall"] == 0.47
    assert all(find_metric(name) for name in other.data.metrics)
    rounds = client.search_runs([other.info.experiment_id], "tags.stage = 'round'")
    names = {run.info.run_name for run in rounds}
    assert names == {f"round-{k} of {run.info.run_name}" for k in (0, 1) for run in (first, other)}
    assert {run.data.params["capfilt.threshold"] for run in rounds} == {"0.5", "0.6"}


def test_every_figure_of_a_round_is_tied(told: list[BootstrapResult], client: Any) -> None:
    experiment = client.get_run(told[1].mlflow_run).info.experiment_id
    last, test = told[1].rounds[1], told[1].raw.test
    (filter,) = client.search_logged_models([experiment], filter_string=f"tags.digest = '{last.filter.digest}'")
    tied = {one.key: (one.dataset_name, one.dataset_digest) for one in filter.metrics}
    assert tied[RECALL] == tied["interval/retrieval/mean_recall/low"] == ("human-test", test.digest[:32])
    assert tied["calibration/purity"] == ("human-val", told[1].raw.val.digest[:32])
    (before,) = client.search_logged_models(
        [experiment], filter_string=f"tags.digest = '{told[1].rounds[0].filter.digest}'"
    )
    assert {one.key: one.dataset_name for one in before.metrics}["truth/pairs_true"] == "web-capfilt-1"
    run = client.get_run(filter.source_run_id)
    everywhere = {one.key for model in client.search_logged_models([experiment]) for one in model.metrics}
    assert run.data.metrics.keys() <= everywhere
    assert len(client.get_metric_history(run.info.run_id, RECALL)) == 1  # told twice
    assert "`human-test`" in filter.tags["mlflow.note.content"]


def test_datasets_say_what_they_hold_and_come_from(told: list[BootstrapResult], client: Any) -> None:
    experiment = client.get_run(told[1].mlflow_run).info.experiment_id
    (run,) = client.search_runs(
        [experiment], f"tags.stage = 'round' and tags.round = '1' and tags.bootstrap = '{told[1].label}'"
    )
    entry = next(one for one in run.inputs.dataset_inputs if one.dataset.name == "web-capfilt-1")
    tags = {tag.key: tag.value for tag in entry.tags}
    web = told[1].rounds[1].web
    assert {name: tags[name] for name in ("images", "in", "kept", "dropped", "failed")} == {
        "images": "31", "in": "36", "kept": "31", "dropped": "5", "failed": "0",
    }  # fmt: skip
    assert tags["parents"] == "web abababababab"
    assert tags["browse"] == f"capfilt browse datasets/web-capfilt-1/{web.digest[:16]}"
    assert tags["browse"] in run.data.tags["mlflow.note.content"]


def test_models_are_ranked_over_rounds_and_bootstraps(told: list[BootstrapResult], store: Path) -> None:
    boards = {board["metric"]: board["models"] for board in leaderboard(store)}
    assert list(boards) == [RECALL, CIDER]
    best, *others = boards[RECALL]
    assert [one["value"] for one in boards[RECALL]] == [0.47, 0.42, 0.31, 0.3]
    assert (best["low"], best["high"]) == (0.45, 0.49)
    assert (best["place"], best["round"], best["bootstraps"]) == (1, 1, [told[1].label])
    assert best["dataset"] == f"human-test {told[1].raw.test.digest[:8]}"
    assert best["aliases"] == ["challenger", "champion"]
    assert [one["aliases"] for one in others] == [[], [], []]
    assert leaderboard(store, "cider") == [{"metric": CIDER, "models": boards[CIDER]}]


def test_the_command(told: list[BootstrapResult], store: Path) -> None:
    table = CliRunner().invoke(app, ["leaderboard", str(store), "--metric", "cider"])
    assert table.exit_code == 0
    head, titles, best, *_ = table.stdout.splitlines()
    assert (head, titles.split()[:3]) == (CIDER, ["value", "interval", "round"])
    assert best.split()[:4] == ["1", "0.6000", "0.580–0.620", "1"]
    document = CliRunner().invoke(app, ["leaderboard", str(store), "--metric", "cider", "--json"])
    assert json.loads(document.stdout) == {"boards": leaderboard(store, "cider")}


def test_what_cannot_be_ranked_is_told(store: Path, told: list[BootstrapResult], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which could be .*eval/vqa/accuracy_official|the nearest:"):
        leaderboard(store, "recall")
    with pytest.raises(StorageError, match="there is no MLflow"):
        leaderboard(tmp_path)
