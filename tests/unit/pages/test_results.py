"""Bootstraps that ended are found again in their store, and shown from what lies there alone."""

import json
import logging
import math
from datetime import datetime, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.errors import StorageError
from components.common.storage import open_store
from components.pages.results import find_result, report_key, store_result, write_page
from tests.helpers.ended import DRIFT, bootstrap_result, round_result

RECALL = "eval/retrieval/mean_recall"


def test_what_is_stored_comes_back_whole(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rounds = [round_result(0, {RECALL: 0.25}, drift=DRIFT, histories={"pretrain": "/h.jsonl"})]
    result = bootstrap_result(rounds, store.uri)
    store_result(store, result)
    assert find_result(store) == result


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "as earlier releases wrote it"])
def test_a_store_that_was_moved_refers_to_itself(tmp_path: Path, relative: bool) -> None:
    old, new = (open_store(str(tmp_path / name)) for name in ("old", "new"))
    config = {"name": "sample", "store": "./old", "data": {"web": f"{old.uri}/given"}}
    one = round_result(0, {RECALL: 0.25}, histories={"pretrain": f"{old.uri}/h.jsonl", "filter": "/outside.jsonl"})
    result = bootstrap_result([one], old.uri, config=config, mlflow_uri=f"sqlite:///{old.uri}/mlflow.db")
    store_result(old, result)
    (name,) = [info.key for info in old.list()]
    if not relative:
        old.write(name, result.model_dump_json().encode())
    assert (old.read(name).count(old.uri.encode()) == 1) is relative, "of the result only the config names the place"
    new.write(name, old.read(name))
    found = find_result(new)
    assert found.store == new.uri
    assert found.rounds[0].histories == {"pretrain": f"{new.uri}/h.jsonl", "filter": "/outside.jsonl"}
    assert found.report == f"{new.uri}/reports/sample-abababab/report.html"
    assert found.mlflow_uri == f"sqlite:///{new.uri}/mlflow.db"
    assert found.config == config, "the config is what was written"


def test_a_figure_that_is_no_number_comes_back_too(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store_result(store, bootstrap_result([round_result(0, {RECALL: math.nan})]))
    assert math.isnan(find_result(store).rounds[0].metrics[RECALL])


def test_the_newest_one_is_found_unless_another_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rounds = [round_result(0, {RECALL: 0.25})]
    old = bootstrap_result(rounds, store.uri)
    later = datetime(2026, 3, 8, tzinfo=timezone.utc)
    new = bootstrap_result(rounds, store.uri, bootstrap="cd" * 32, finished=later, name="other")
    for one in (new, old):
        store_result(store, one)
    assert find_result(store) == new
    assert find_result(store, name="sample") == find_result(store, bootstrap="abab") == old
    with pytest.raises(StorageError, match="no such bootstrap; there are sample-abababab, other-cdcdcdcd"):
        find_result(store, name="flickr8k")


def test_the_page_shows_other_bootstraps_and_what_was_set_otherwise(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    rounds = [round_result(0, {RECALL: 0.25})]
    new = bootstrap_result(rounds, store.uri)
    earlier, later = (datetime(2026, 3, day, tzinfo=timezone.utc) for day in (6, 9))
    before = bootstrap_result(rounds, store.uri, bootstrap="cd" * 32, finished=earlier, config={"seed": 4, "name": "x"})
    after = bootstrap_result(rounds, store.uri, bootstrap="ef" * 32, finished=later)
    for one in (before, new, after):
        store_result(store, one)
    data = write_page(new, tmp_path / "page.html")
    assert [(one.label, one.differs) for one in data.others] == [
        ("sample-efefefef", ()),
        ("sample-cdcdcdcd", (("seed", "4", "3"),)),
    ]
    cards = (tmp_path / "page.html").read_text().partition('id="others"')[2]
    assert cards.index('sample-cdcdcdcd <span class="flat">· the run before') < cards.index("sample-efefefef")


def test_a_store_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no bootstrap has ended here yet"):
        find_result(open_store(str(tmp_path)))


def test_what_cannot_be_read_is_named_and_the_others_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(str(tmp_path))
    result = bootstrap_result([round_result(0, {RECALL: 0.25})], store.uri)
    store_result(store, result)
    store.write("results/a-broken-one.json", b'{"name": "x"')
    with caplog.at_level(logging.WARNING):
        assert find_result(store) == result
    assert "a-broken-one.json cannot be read" in caplog.text


def test_the_command_prints_the_table_and_writes_the_page_again(tmp_path: Path) -> None:
    curve = tmp_path / "history.jsonl"
    curve.write_text("".join(json.dumps({"step": step, "train/loss": 2.0 - step}) + "\n" for step in (0, 1)))
    store = open_store(str(tmp_path / "store"))
    one = round_result(0, {RECALL: 0.25}, drift=DRIFT, histories={"pretrain": str(curve)})
    result = bootstrap_result([one], store=str(tmp_path / "store"))
    store_result(store, result)
    write_page(result, tmp_path / "first.html")
    first = (tmp_path / "first.html").read_text()
    assert "Drift: at threshold 0.5 its purity fell" in first
    assert "Pre-training" in first
    done = CliRunner().invoke(app, ["report", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    assert "retrieval, mean recall" in done.stdout
    assert "0.2500" in done.stdout
    assert store.read(report_key(result)).decode() == first
    assert CliRunner().invoke(app, ["report", str(tmp_path / "store"), "--out", f"{tmp_path}/x/y.html"]).exit_code == 0
    assert (tmp_path / "x" / "y.html").read_text() == first
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "store"), "--name", "nobody"])
    assert refused.exit_code == 1
