"""Which round becomes champion, and when the registered champion of an earlier bootstrap keeps its place."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from prefect import flow

from components.common.contracts import AskedData, EvalReport, ModelRef, Promotion, RoundResult
from components.common.errors import ModelError
from components.common.storage import open_store
from components.common.tracking import Tracker
from components.config import load_config
from components.model.checkpoints.publishing import publish_model
from flows import promotion
from flows.assessment import measure
from flows.preparation import prepare
from flows.promotion import promote
from flows.stages import BootstrapContext
from tests.helpers.ended import DATASET, IMAGES, answers_details, evaluation_details, round_result
from tests.helpers.tiny import overrides
from tests.helpers.tiny_models import save_tiny_models

RECALL, CIDER, VQA = "eval/retrieval/mean_recall", "eval/caption/cider", "eval/vqa/accuracy_official"
ASKED = AskedData(train=DATASET, test=DATASET)


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


Found = int | tuple[int, float]
"""Of 60 test images so many have their texts found; and CIDEr, if it is not 1."""


@pytest.fixture
def rounds(tmp_path: Path) -> Callable[..., list[RoundResult]]:
    """Rounds of which so much was found, with their details."""

    def of(*measured: Found) -> list[RoundResult]:
        return [
            round_result(number, report.metrics, details_uri=report.uri)
            for number, report in enumerate(evaluated(tmp_path, number, one) for number, one in enumerate(measured))
        ]

    return of


def evaluated(folder: Path, number: int, measured: Found) -> EvalReport:
    found, cider = measured if isinstance(measured, tuple) else (measured, 1.0)
    uri = evaluation_details(folder / "evaluations" / f"{number}.json", found, cider)
    return EvalReport(round=number, metrics=figures(found / IMAGES, cider), uri=uri)


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
    ("measured", "champion", "told"),
    [
        ((30,), 0, "the only round"),
        ((30, 45), 1, "better beyond noise: retrieval recall"),
        ((45, 30), 0, "retrieval recall is worse beyond noise"),
        ((30, 31), 0, "better beyond noise: nothing"),
        ((30, 30), 0, "better beyond noise: nothing"),
        ((30, (44, 0.8)), 0, "CIDEr is worse beyond noise"),
        ((30, (29, 1.5)), 0, "retrieval recall falls by more than 2.0%"),
        ((30, 45, 40), 1, "round 2: retrieval recall is worse beyond noise"),
        ((30, 31, 45), 2, "round 2: better beyond noise: retrieval recall"),
        ((30, 45, 58), 2, "round 2: better beyond noise: retrieval recall"),
    ],
)
def test_a_round_wins_by_more_than_noise_and_no_gain_pays_for_a_loss(
    tmp_path: Path, rounds: Callable[..., list[RoundResult]], measured: Sequence[Found], champion: int, told: str
) -> None:
    """The mean of relative gains is above 0 in all but the third and the fifth."""
    found = promote(context(tmp_path, []), rounds(*measured), DATASET)
    assert (found.champion, found.promoted) == (champion, True)
    assert told in found.reasons
    assert [one.candidate for one in found.weighed] == list(range(1, len(measured)))
    assert [one.candidate for one in found.weighed if one.better][-1:] == ([champion] if champion else [])


def test_how_far_beyond_noise_is_for_the_config_to_say(
    tmp_path: Path, rounds: Callable[..., list[RoundResult]]
) -> None:
    strict = context(tmp_path, [], evaluation__gate__min_gain=0.5)
    found = promote(strict, rounds(30, 45), DATASET)
    assert (found.champion, found.reasons[-1]) == (0, "better beyond noise by more than 50.0%: nothing")
    lenient = context(tmp_path, [], evaluation__gate__max_loss=0.05)
    assert promote(lenient, rounds(30, (29, 1.5)), DATASET).champion == 1


def asking(tmp_path: Path, held: list[ModelRef] | None) -> BootstrapContext:
    """Where captions, ranks and answers decide."""
    vqa = {"vqa__steps": 3, "vqa__batch_size": 8, "vqa__optim__warmup_steps": 1}
    metrics = f"[{RECALL},{CIDER},{VQA}]"
    tasks = "[captioning,retrieval,vqa]"
    return context(tmp_path, held, tasks=tasks, evaluation__gate__metrics=metrics, **vqa)


def answered(folder: Path, number: int, right: int) -> EvalReport:
    uri = answers_details(folder / "answers" / f"{number}.json", right)
    return EvalReport(round=number, metrics={VQA: right / IMAGES}, uri=uri)


def with_answers(one: RoundResult, report: EvalReport) -> RoundResult:
    return one.model_copy(update={"answers_uri": report.uri, "metrics": {**one.metrics, **report.metrics}})


@pytest.mark.parametrize(
    ("found", "right", "champion", "told"),
    [
        (30, (20, 40), 1, "better beyond noise: VQA accuracy"),
        (30, (20, 21), 0, "better beyond noise: nothing"),
        (45, (40, 20), 0, "VQA accuracy is worse beyond noise"),
    ],
)
def test_answers_decide_where_the_gate_names_them(
    tmp_path: Path,
    rounds: Callable[..., list[RoundResult]],
    found: int,
    right: tuple[int, int],
    champion: int,
    told: str,
) -> None:
    asked = [with_answers(one, answered(tmp_path, one.round, right[one.round])) for one in rounds(30, found)]
    decided = promote(asking(tmp_path, []), asked, DATASET, ASKED)
    assert decided.champion == champion
    assert told in decided.reasons
    assert [one.metric for one in decided.weighed[0].comparisons] == [RECALL, CIDER, VQA]


class Registries(Registry):
    """A registry that may also hold a model that answers, and one for retrieval."""

    def find_champions(self, names: Sequence[str]) -> list[ModelRef] | None:
        return [one for one in self.held or [] if f"sample-{one.role}" in names]


@pytest.mark.parametrize(("old", "promoted"), [(20, True), (58, False), (None, True)])
def test_a_registered_champions_answers_are_measured_too(
    tmp_path: Path,
    held: list[ModelRef],
    rounds: Callable[..., list[RoundResult]],
    monkeypatch: pytest.MonkeyPatch,
    old: int | None,
    promoted: bool,
) -> None:
    """One that has none does not pass a gate that asks for them."""
    place = asking(tmp_path, held)
    vqa = held[0].model_copy(update={"role": "vqa"})
    place.tracker = Registries(held if old is None else [*held, vqa])
    monkeypatch.setattr(promotion, "measure", lambda *inputs: evaluated(tmp_path, 99, 30))
    asked: list[object] = []

    def measure_answers(place: BootstrapContext, *inputs: object) -> EvalReport:
        asked.append(inputs)
        return answered(tmp_path, 99, old or 0)

    monkeypatch.setattr(promotion, "measure_answers", measure_answers)
    best = with_answers(rounds(30)[0], answered(tmp_path, 0, 40))
    decided = promote(place, [best], DATASET, ASKED)
    assert decided.promoted is promoted
    assert asked == ([] if old is None else [("champion/evaluate-vqa", vqa, DATASET)])
    if old is None:
        assert "does not pass the gate: VQA accuracy was not measured" in decided.reasons[-1]


@pytest.mark.parametrize("apart", [False, True])
def test_a_registered_champions_own_model_for_retrieval_is_measured(
    tmp_path: Path,
    held: list[ModelRef],
    rounds: Callable[..., list[RoundResult]],
    monkeypatch: pytest.MonkeyPatch,
    apart: bool,
) -> None:
    place = context(tmp_path, held, retrieval__steps=2)
    own = held[1].model_copy(update={"role": "retrieval", "digest": "own"})
    place.tracker = Registries([*held, own] if apart else held)
    measured: list[object] = []

    def measure(place: BootstrapContext, name: str, *models: object) -> EvalReport:
        measured.extend(models)
        return evaluated(tmp_path, 99, 20)

    monkeypatch.setattr(promotion, "measure", measure)
    promote(place, rounds(30), DATASET)
    assert measured == [held[0], own if apart else held[1], DATASET]


@pytest.mark.parametrize("details", [None, "gone", "{}"])
def test_without_details_nothing_says_what_is_noise_so_the_holder_stays(
    tmp_path: Path, rounds: Callable[..., list[RoundResult]], details: str | None
) -> None:
    first, second = rounds(30, 45)
    place = tmp_path / "other.json"
    if details == "{}":
        place.write_text(details)
    second = second.model_copy(update={"details_uri": None if details is None else str(place)})
    found = promote(context(tmp_path, []), [first, second], DATASET)
    assert found.champion == 0
    assert found.reasons[0].startswith("not weighed against round 0, which stays, as noise could pass for a gain: ")
    assert found.weighed[0].comparisons == ()


@pytest.mark.parametrize(("measured", "champion"), [((6,), None), ((6, 12), None), ((6, 30), 1), ((30, 6), 0)])
def test_floors_hold_in_round_0_too(
    tmp_path: Path, rounds: Callable[..., list[RoundResult]], measured: Sequence[int], champion: int | None
) -> None:
    place = context(tmp_path, [], evaluation__gate__floors=f"{{{RECALL}: 0.3}}")
    found = promote(place, rounds(*measured), DATASET)
    assert (found.champion, found.promoted) == (champion, champion is not None)
    assert any("below its floor of 0.3000" in reason for reason in found.reasons)


def test_a_figure_that_is_no_number_is_no_champions(tmp_path: Path, rounds: Callable[..., list[RoundResult]]) -> None:
    first, second = rounds(30, 45)
    broken = first.model_copy(update={"metrics": figures(math.nan)})
    assert promote(context(tmp_path, []), [broken], DATASET).champion is None
    assert promote(context(tmp_path, []), [broken, second], DATASET).champion == 1


@pytest.mark.parametrize(
    ("new", "old", "promoted"), [(45, 30, True), (30, 45, False), (31, 30, False), (30, 30, False)]
)
def test_an_earlier_bootstraps_champion_must_be_beaten_beyond_noise(
    tmp_path: Path,
    held: list[ModelRef],
    rounds: Callable[..., list[RoundResult]],
    monkeypatch: pytest.MonkeyPatch,
    new: int,
    old: int,
    promoted: bool,
) -> None:
    asked = []

    def measure(place: BootstrapContext, name: str, *inputs: object) -> EvalReport:
        asked.append((name, *inputs))
        return evaluated(tmp_path, 99, old)

    monkeypatch.setattr(promotion, "measure", measure)
    found = promote(context(tmp_path, held), rounds(new - 20, new), DATASET)
    assert (found.champion, found.promoted) == (1, promoted)
    assert asked == [("champion/evaluate", *held, DATASET)]
    assert any("the registered champion (version 7)" in reason for reason in found.reasons)
    assert found.weighed[-1].against == "the registered champion (version 7)"
    assert found.weighed[-1].better is promoted


@pytest.mark.parametrize(
    ("report", "promoted", "told"),
    [
        (EvalReport(round=0, metrics=figures(math.nan)), True, "does not pass the gate: retrieval recall is nan"),
        (EvalReport(round=0, metrics=figures(0.1)), False, "not weighed against the registered champion (version 7)"),
    ],
)
def test_a_registered_champion_that_cannot_be_weighed(
    tmp_path: Path,
    held: list[ModelRef],
    rounds: Callable[..., list[RoundResult]],
    monkeypatch: pytest.MonkeyPatch,
    report: EvalReport,
    promoted: bool,
    told: str,
) -> None:
    monkeypatch.setattr(promotion, "measure", lambda *inputs: report)
    found = promote(context(tmp_path, held), rounds(30), DATASET)
    assert found.promoted is promoted
    assert told in found.reasons[-1]


@pytest.mark.parametrize("number", [0, 1])
def test_own_models_are_not_measured_again(
    tmp_path: Path, held: list[ModelRef], rounds: Callable[..., list[RoundResult]], number: int
) -> None:
    """Whether they are the winner's, who is champion already, or an earlier round's."""
    one = rounds(30, 45)[number]
    own = [
        old.model_copy(update={"digest": new.digest})
        for old, new in zip(held, (one.captioner, one.filter), strict=True)
    ]
    assert promote(context(tmp_path, own), rounds(30, 45), DATASET).promoted


def test_a_champion_whose_folder_was_deleted_holds_no_place(
    tmp_path: Path, held: list[ModelRef], rounds: Callable[..., list[RoundResult]]
) -> None:
    (tmp_path / "before" / "filter" / "model.json").unlink()
    assert promote(context(tmp_path, held), rounds(30), DATASET).promoted


def test_where_mlflow_does_not_say_the_alias_stays(tmp_path: Path, rounds: Callable[..., list[RoundResult]]) -> None:
    found = promote(context(tmp_path, None), rounds(30), DATASET)
    assert (found.champion, found.promoted) == (0, False)
    assert "MLflow does not say" in found.reasons[-1]


def test_a_champion_that_cannot_be_measured_stays(
    tmp_path: Path,
    held: list[ModelRef],
    rounds: Callable[..., list[RoundResult]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(*inputs: object) -> EvalReport:
        raise ModelError("its weights are damaged")

    monkeypatch.setattr(promotion, "measure", measure)
    found = promote(context(tmp_path, held), rounds(30), DATASET)
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
        (report,) = [one for one in [measure(place, "champion/evaluate", captioner, filter, test)] if one.uri]
        details = json.loads(Path(report.uri).read_text())
        same = round_result(0, report.metrics, details_uri=report.uri)
        for image in details["images"]:
            image |= {"cider": image["cider"] + 5 + len(image["key"]) / 100, "text_rank": 0.0}
            image |= {"image_ranks": [0.0] * len(image["image_ranks"])}
        (tmp_path / "better.json").write_text(json.dumps(details))
        better = round_result(0, report.metrics, details_uri=str(tmp_path / "better.json"))
        return [promote(place, [one], test) for one in (same, better)]

    same, better = two_promotions()
    assert (same.promoted, better.promoted) == (False, True)
    measured = [report for report in place.reports if report.stage == "champion/evaluate"]
    assert [report.cached for report in measured] == [False, True, True]
