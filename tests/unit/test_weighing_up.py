"""A round's intervals come from the details that its evaluations have kept, also those of runs that ended long ago."""

import logging
from pathlib import Path

import pytest

from components.common.contracts import Answering, EvalReport, ModelRef, TrainResult
from components.common.metrics import find_metric
from components.common.storage import open_store
from components.common.tracking import Tracker
from components.config import load_config
from components.pages.rounds import log_certainty
from flows.assessment import weigh_up
from flows.stages import BootstrapContext
from tests.helpers.ended import answers_details, evaluation_details, round_result

RECALL, CIDER, VQA = "eval/retrieval/mean_recall", "eval/caption/cider", "eval/vqa/accuracy_official"


class Recorder(Tracker):
    """What is drawn, point by point."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int, float]] = []

    def log_metrics(self, metrics, step=0):
        self.points += [(name, step, value) for name, value in metrics.items()]

    def known_point(self, name, step):
        return next((value for known, at, value in self.points if (known, at) == (name, step)), None)


@pytest.fixture
def context(tmp_path: Path) -> BootstrapContext:
    config = load_config(None, [f"store={tmp_path / 'store'}", "evaluation.intervals.level=0.9"])
    return BootstrapContext(config, open_store(config.store), Tracker(), tmp_path)


def report(folder: Path, number: int, found: int, cider: float) -> EvalReport:
    return EvalReport(round=number, metrics={}, uri=evaluation_details(folder / f"{number}.json", found, cider))


def test_round_0_has_intervals_and_later_ones_changes_against_it(context: BootstrapContext, tmp_path: Path) -> None:
    first, second = report(tmp_path, 0, 30, 1.0), report(tmp_path, 1, 45, 1.0)
    zero = weigh_up(context, [], first, None)
    assert zero is not None
    assert (zero.level, zero.changes) == (0.9, {})
    assert zero.values[RECALL].low < 0.5 < zero.values[RECALL].high
    rounds = [round_result(0, {}, details_uri=first.uri, uncertainty=zero)]
    one = weigh_up(context, rounds, second, None)
    assert one is not None
    assert (one.changes[RECALL].difference, one.changes[RECALL].verdict) == (0.25, "clear")
    assert one.changes[CIDER].verdict == "within noise"


def test_answers_have_intervals_beside_captions_and_ranks(context: BootstrapContext, tmp_path: Path) -> None:
    training = TrainResult(model=ModelRef(role="vqa", uri="/m", digest="m"), steps=1, metrics={}, seconds=1.0)

    def answering(number: int, right: int) -> Answering:
        uri = answers_details(tmp_path / f"answers-{number}.json", right)
        return Answering(training=training, report=EvalReport(round=number, metrics={}, uri=uri))

    reports, answers = (
        [report(tmp_path, 0, 30, 1.0), report(tmp_path, 1, 45, 1.0)],
        [answering(0, 20), answering(1, 40)],
    )
    zero = weigh_up(context, [], reports[0], None, answers[0])
    assert zero is not None and zero.values[VQA].low < 1 / 3 < zero.values[VQA].high
    places = {"details_uri": reports[0].uri, "answers_uri": answers[0].report.uri}
    one = weigh_up(context, [round_result(0, {}, **places)], reports[1], None, answers[1])
    assert one is not None and {RECALL, CIDER, VQA} <= one.changes.keys()
    assert (one.changes[VQA].difference, one.changes[VQA].verdict) == (pytest.approx(1 / 3), "clear")
    run = Recorder()
    log_certainty(run, round_result(1, {}, uncertainty=one), 1)
    assert {"interval/vqa/accuracy_official/low", "change/vqa/accuracy_official"} <= {name for name, _, _ in run.points}


@pytest.mark.parametrize("place", ["gone.json", None])
def test_without_details_there_are_none_and_the_run_goes_on(
    context: BootstrapContext, tmp_path: Path, place: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    lost = EvalReport(round=0, metrics={}, uri=None if place is None else str(tmp_path / place))
    with caplog.at_level(logging.WARNING, logger="flows"):
        assert weigh_up(context, [], lost, None) is None
    assert [("round 0 has no intervals" in one.getMessage()) for one in caplog.records] == ([True] if place else [])


def test_what_mlflow_draws_is_in_the_catalogue_and_not_drawn_twice(context: BootstrapContext, tmp_path: Path) -> None:
    first, second = report(tmp_path, 0, 30, 1.0), report(tmp_path, 1, 45, 1.0)
    rounds = [round_result(0, {}, details_uri=first.uri)]
    run, one = Recorder(), round_result(1, {}, uncertainty=weigh_up(context, rounds, second, None))
    for _ in range(2):
        log_certainty(run, one, 1)
    drawn = {name: value for name, _, value in run.points}
    assert len(drawn) == len(run.points)
    assert drawn["change/retrieval/mean_recall"] == 0.25
    assert drawn["change/retrieval/mean_recall/low"] > 0
    assert drawn["interval/caption/cider/low"] < 1 < drawn["interval/caption/cider/high"]
    assert [name for name in drawn if find_metric(name) is None] == []
    log_certainty(run, round_result(0, {}), 0)
    assert len(drawn) == len(run.points)
