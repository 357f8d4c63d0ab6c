"""A round's figures, each with the model it is of and the dataset it was measured on."""

from collections.abc import Iterator, Mapping

from components.common.contracts import BootstrapResult, DatasetRef, Interval, ModelRef, RoundResult
from components.common.tracking import Score

DIGITS = 4  # shown in MLflow's tables, which do not round; the stages' runs and records have all


def scores_of(result: BootstrapResult, one: RoundResult) -> dict[str, Score]:
    """All figures of a round: measured ones with their intervals, what CapFilt did, and where trainings ended."""
    ties = _ties(result, one)
    figures = {name: (name, value) for name, value in one.metrics.items()}
    figures |= {told: (name, value) for name, told, value in _certainty(one)}
    return {told: Score(round(value, DIGITS), *_tie(ties, name)) for told, (name, value) in figures.items()}


def measured_on(result: BootstrapResult, one: RoundResult, model: ModelRef, name: str) -> DatasetRef | None:
    """The dataset on which a figure was measured, if it was and is this model's; None also of a training's figures."""
    if not name.startswith(("eval/", "base/", "calibration/")):
        return None
    found, dataset = _tie(_ties(result, one), name)
    return dataset if found is not None and found.digest == model.digest else None


Tie = tuple[ModelRef | None, DatasetRef | None]


def _ties(result: BootstrapResult, one: RoundResult) -> Mapping[str, Tie]:
    """Models and datasets by the beginnings of names.

    What CapFilt did is its filter's, on the dataset that came of it: the filter of the round before decided.
    """
    raw, before = result.raw, next((two.filter for two in result.rounds if two.round == one.round - 1), None)
    return {
        "eval/caption/": (one.captioner, raw.test),
        "eval/retrieval/": (one.retrieval or one.filter, raw.test),
        "eval/vqa/": (one.vqa, None),
        "base/": (one.base, raw.test),
        "calibration/": (one.filter, raw.val),
        "capfilt/": (before, one.web),
        "truth/": (before, one.web),
        "pretrain/": (one.base, one.web),
        "captioner/": (one.captioner, raw.train),
        "filter/": (one.filter, raw.train),
        "retrieval/": (one.retrieval, raw.train),
        "vqa/": (one.vqa, None),
    }


def _tie(ties: Mapping[str, Tie], name: str) -> Tie:
    return next((tie for start, tie in ties.items() if name.startswith(start)), (None, None))


def _certainty(one: RoundResult) -> Iterator[tuple[str, str, float]]:
    """Ends of intervals and changes since round 0: the metric, what the figure is called, and its value."""
    if one.uncertainty is None:
        return
    for name, interval in one.uncertainty.values.items():
        yield from _ends(name, f"interval/{name.removeprefix('eval/')}", interval)
    for name, change in one.uncertainty.changes.items():
        told = f"change/{name.removeprefix('eval/')}"
        yield name, told, change.difference
        yield from _ends(name, told, change.interval)


def _ends(name: str, told: str, interval: Interval) -> Iterator[tuple[str, str, float]]:
    yield name, f"{told}/low", interval.low
    yield name, f"{told}/high", interval.high


def certainty(one: RoundResult) -> dict[str, float]:
    """Ends of intervals and changes since round 0, by what they are called."""
    return {told: round(value, DIGITS) for _, told, value in _certainty(one)}
