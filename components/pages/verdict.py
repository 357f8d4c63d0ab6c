"""The outcome of a bootstrap in one sentence: what a round changed, and whether that is more than noise."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from components.common.contracts import Comparison, Uncertainty
from components.common.metrics import HEADLINES, Metric, metric
from components.pages.charts import number

Word = Literal["clear", "mixed", "within noise"]


class Round(Protocol):
    """What is judged of a round: contracts and report data have it."""

    @property
    def round(self) -> int: ...  # noqa: D102

    @property
    def metrics(self) -> Mapping[str, float]: ...  # noqa: D102

    @property
    def uncertainty(self) -> Uncertainty | None: ...  # noqa: D102


AnyRound = TypeVar("AnyRound", bound=Round)


def spoken_of(rounds: Sequence[AnyRound], champion: int | None) -> AnyRound:
    """The round that is held against round 0: the one that won, or where that is round 0 or none, the last."""
    return next((one for one in rounds[1:] if one.round == champion), rounds[-1])


def word(one: Round) -> Word | None:
    """One word over what decides of a round against round 0; None: nothing has intervals.

    "clear": at least one differs beyond noise, and all that do so point the same way. "mixed": some rise and some fall
    beyond noise. Only the few metrics that a bootstrap is about: of twenty that do not differ, one looks clear.
    """
    changes = _weighed(one)
    signs = {change.difference > 0 for change in changes if change.verdict == "clear"}
    if not changes:
        return None
    if not signs:
        return "within noise"
    return "clear" if len(signs) == 1 else "mixed"


def gained(one: Round) -> bool:
    """Whether something of what decides has risen beyond noise since round 0."""
    return any(change.difference > 0 for change in _weighed(one) if change.verdict == "clear")


def verdict(rounds: Sequence[Round], champion: int | None = None) -> str:
    """The outcome in one sentence."""
    first, other = rounds[0], spoken_of(rounds, champion)
    if len(rounds) == 1:
        return f"Round {first.round}: {_figures(first) or 'nothing was measured'}."
    changes = list(_changes(first, other))
    if not changes:
        return f"{len(rounds)} rounds ended, and nothing was measured that could be compared."
    told = [_told(name, before, after, _weighing(other, name)) for name, before, after in changes]
    return f"Round {other.round} {_judgement(other)} round {first.round}: {_listed(told)}."


def _listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def certainty(rounds: Sequence[Round]) -> str:
    """What intervals say and what they do not; empty where there are none."""
    known = [one.uncertainty for one in rounds if one.uncertainty is not None]
    if not known:
        return ""
    return (
        f"intervals: {known[0].level * 100:g} %, by the choice of test images alone; another seed of the training "
        "varies besides"
    )


def span(entry: Metric, low: float, high: float) -> str:
    """An interval of a change, in the unit of its metric."""
    if entry.unit == "share":
        return f"{low * 100:+.1f} to {high * 100:+.1f} pts"
    return f"{low:+.3f} to {high:+.3f}"


def _judgement(other: Round) -> str:
    found = word(other)
    if found == "clear":
        return "is better than" if gained(other) else "is worse than"
    return {"mixed": "is a mixed result against", "within noise": "is within noise of"}.get(
        found or "", "stands, without intervals, against"
    )


def _told(name: str, before: float, after: float, weighed: Comparison | None) -> str:
    entry = metric(name)
    moved = f"{entry.in_words} {_direction(before, after)} from {_figure(name, before)} to {_figure(name, after)}"
    if weighed is None:
        return moved
    return f"{moved} ({span(entry, weighed.interval.low, weighed.interval.high)}: {weighed.verdict})"


def _weighed(one: Round) -> list[Comparison]:
    return [found for name in HEADLINES if (found := _weighing(one, name)) is not None]


def _weighing(one: Round, name: str) -> Comparison | None:
    return one.uncertainty.changes.get(name) if one.uncertainty is not None else None


def _changes(first: Round, other: Round) -> Iterator[tuple[str, float, float]]:
    """(name, before, after) of the headline metrics that both rounds have, as finite numbers."""
    for name in HEADLINES:
        before, after = first.metrics.get(name, math.nan), other.metrics.get(name, math.nan)
        if math.isfinite(before) and math.isfinite(after):
            yield name, before, after


def _figures(one: Round) -> str:
    return ", ".join(
        f"{metric(name).in_words} {_figure(name, one.metrics[name])}" for name in HEADLINES if name in one.metrics
    )


def _figure(name: str, value: float) -> str:
    return number(value, metric(name).unit == "share")


def _direction(before: float, after: float) -> str:
    return "rises" if after > before else "falls" if after < before else "stays, going"
