"""Which round becomes champion, and when the registered champion of an earlier bootstrap keeps its place."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from prefect import flow

from components.common.contracts import EvalReport, ModelRef, Promotion, RoundResult
from components.common.errors import ModelError
from components.common.storage import open_store
from components.common.tracking import Tracker
from components.config import load_config
from components.model.checkpoints.publishing import publish_model
from flows import promotion
from flows.preparation import prepare
from flows.promotion import promote
from flows.stages import BootstrapContext
from tests.helpers.ended import DATASET, round_result
from tests.helpers.tiny import overrides
from tests.helpers.tiny_models import save_tiny_models

RECALL, CIDER = "eval/retrieval/mean_recall", "eval/caption/cider"


class Registry(Tracker):
    """What MLflow's registry says of the champion."""

    def __init__(self, held: list[ModelRef] | None) -> None:
        self.held = held

    def find_champions(self, names: Sequence[str]) -> list[ModelRef] | None:
        assert list(names) == ["sample-captioner", "sample-filter"]
        return self.held


def context(tmp_path: Path, held: list[ModelRef] | None, **settings: object) -> BootstrapContext:
    config = load_config(None, overrides(store=str(tmp_path / "root"), tracking__enabled="false", **settings))
    return BootstrapContext(config, open_store(config.store), Registry(held), tmp_path / "scratch")


def figures(recall: float, cider: float = 1.0) -> dict[str, float]:
    return {RECALL: recall, CIDER: cider}


def rounds(*recalls: float) -> list[RoundResult]:
    return [round_result(number, figures(recall)) for number, recall in enumerate(recalls)]


@pytest.fixture
def held(tmp_path: Path) -> list[ModelRef]:
    """Models of an earlier bootstrap, still in the store."""
    models = []
    for role in ("captioner", "filter"):
        folder = tmp_path / "before" / role
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
        models.append(ModelRef(role=role, uri=str(folder), digest=f"old {role}", registered_version=7))  # type: ignore[arg-type]
    return models


@pytest.mark.parametrize(
    ("recalls", "champion"),
    [((0.5,), 0), ((0.5, 0.6), 1), ((0.6, 0.5), 0), ((0.5, 0.6, 0.55), 1), ((0.5, 0.6, 0.7), 2)],
)
def test_the_best_round_wins(tmp_path: Path, recalls: Sequence[float], champion: int) -> None:
    found = promote(context(tmp_path, []), rounds(*recalls), DATASET)
    assert (found.champion, found.promoted) == (champion, True)
    assert found.reasons


@pytest.mark.parametrize(
    ("recalls", "champion"),
    [((0.1,), None), ((math.nan,), None), ((0.1, 0.2), None), ((0.1, 0.5), 1), ((math.nan, 0.5), 1), ((0.5, 0.1), 0)],
)
def test_floors_hold_in_round_0_too(tmp_path: Path, recalls: Sequence[float], champion: int | None) -> None:
    place = context(tmp_path, [], evaluation__gate__floors=f"{{{RECALL}: 0.3}}")
    found = promote(place, rounds(*recalls), DATASET)
    assert (found.champion, found.promoted) == (champion, champion is not None)
    assert any("below its floor of 0.3000" in reason or "is nan" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("new", "old", "promoted"), [(0.6, 0.5, True), (0.5, 0.6, False), (0.5, 0.5, False), (0.6, math.nan, True)]
)
def test_an_earlier_bootstraps_champion_must_be_beaten(
    tmp_path: Path, held: list[ModelRef], monkeypatch: pytest.MonkeyPatch, new: float, old: float, promoted: bool
) -> None:
    asked = []

    def measure(place: BootstrapContext, name: str, *inputs: object) -> EvalReport:
        asked.append((name, *inputs))
        return EvalReport(round=0, metrics=figures(old, 1.0))

    monkeypatch.setattr(promotion, "measure", measure)
    found = promote(context(tmp_path, held), rounds(new - 0.1, new), DATASET)
    assert (found.champion, found.promoted) == (1, promoted)
    assert asked == [("champion/evaluate", *held, DATASET)]
    assert any("the registered champion (version 7)" in reason for reason in found.reasons)


def test_the_own_models_are_champion_already(tmp_path: Path, held: list[ModelRef]) -> None:
    one = rounds(0.5, 0.6)[1]
    own = [
        old.model_copy(update={"digest": new.digest})
        for old, new in zip(held, (one.captioner, one.filter), strict=True)
    ]
    assert promote(context(tmp_path, own), rounds(0.5, 0.6), DATASET).promoted


def test_an_earlier_round_of_the_same_bootstrap_is_not_measured_again(tmp_path: Path, held: list[ModelRef]) -> None:
    one = rounds(0.5)[0]
    own = [
        old.model_copy(update={"digest": new.digest})
        for old, new in zip(held, (one.captioner, one.filter), strict=True)
    ]
    assert promote(context(tmp_path, own), rounds(0.5, 0.6), DATASET).promoted


def test_a_champion_whose_folder_was_deleted_holds_no_place(tmp_path: Path, held: list[ModelRef]) -> None:
    (tmp_path / "before" / "filter" / "model.json").unlink()
    assert promote(context(tmp_path, held), rounds(0.5), DATASET).promoted


def test_where_mlflow_does_not_say_the_alias_stays(tmp_path: Path) -> None:
    found = promote(context(tmp_path, None), rounds(0.5), DATASET)
    assert (found.champion, found.promoted) == (0, False)
    assert "MLflow does not say" in found.reasons[-1]


def test_a_champion_that_cannot_be_measured_stays(
    tmp_path: Path, held: list[ModelRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*inputs: object) -> EvalReport:
        raise ModelError("its weights are damaged")

    monkeypatch.setattr(promotion, "measure", measure)
    found = promote(context(tmp_path, held), rounds(0.5), DATASET)
    assert not found.promoted
    assert "could not be measured on this test split, so it stays: its weights are damaged" in found.reasons[-1]


def test_the_champion_is_measured_as_a_stage_on_the_same_split(tmp_path: Path) -> None:
    published = [
        publish_model(model.uri, open_store(str(tmp_path / "published" / model.role)), model.role)
        for model in save_tiny_models(tmp_path / "models")
    ]
    captioner, filter = (model.model_copy(update={"registered_version": 2}) for model in published)
    place = context(tmp_path, [captioner, filter])

    @flow(name="two-promotions")
    def two_promotions() -> list[Promotion]:
        test = prepare(place).test
        return [promote(place, rounds(0.99, cider=99.0) if again else rounds(0.0), test) for again in (0, 1)]

    def rounds(recall: float, cider: float = 0.0) -> list[RoundResult]:
        return [round_result(0, figures(recall, cider))]

    worse, better = two_promotions()
    assert (worse.promoted, better.promoted) == (False, True)
    measured = [report for report in place.reports if report.stage == "champion/evaluate"]
    assert [report.cached for report in measured] == [False, True]
