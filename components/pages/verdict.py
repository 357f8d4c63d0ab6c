"""The outcome of a bootstrap in one sentence, and which round did best."""

import math
from collections.abc import Sequence

from components.common.metrics import PRIMARY, metric
from components.pages.charts import number
from components.pages.report_data import ReportData, RoundReport


def best_round(rounds: Sequence[RoundReport]) -> RoundReport:
    """The round with the highest mean relative gain over the first in the primary metrics; ties go to the earlier."""

    def gain(one: RoundReport) -> float:
        gains = [_relative(before, after) for _, before, after in _changes(rounds[0], one)]
        return sum(gains) / len(gains) if gains else float("-inf")

    return max(rounds, key=gain)


def verdict(data: ReportData) -> str:
    """The outcome in one sentence."""
    first, last = data.rounds[0], data.rounds[-1]
    if len(data.rounds) == 1:
        return f"Round {first.round}: {_figures(first) or 'nothing was measured'}."
    best = best_round(data.rounds)
    other = best if best is not first else last
    changes = _changes(first, other)
    if not changes:
        return f"{len(data.rounds)} rounds ended, and nothing was measured that could be compared."
    words = " and ".join(
        f"{metric(name).in_words} {_direction(before, after)} from {_figure(name, before)} to {_figure(name, after)}"
        for name, before, after in changes
    )
    ups = [after > before for _, before, after in changes]
    judgement = "is better than" if all(ups) else "is not better than" if not any(ups) else "is a mixed result against"
    return f"Round {other.round} {judgement} round {first.round}: {words}."


def _changes(first: RoundReport, other: RoundReport) -> list[tuple[str, float, float]]:
    """(name, before, after) of the primary metrics that both rounds have, as finite numbers."""
    both = [(name, first.metrics.get(name), other.metrics.get(name)) for name in PRIMARY]
    return [
        (name, before, after)
        for name, before, after in both
        if before is not None and after is not None and math.isfinite(before) and math.isfinite(after)
    ]


def _figures(one: RoundReport) -> str:
    return ", ".join(
        f"{metric(name).in_words} {_figure(name, one.metrics[name])}" for name in PRIMARY if name in one.metrics
    )


def _figure(name: str, value: float) -> str:
    return number(value, metric(name).unit == "share")


def _direction(before: float, after: float) -> str:
    return "rises" if after > before else "falls" if after < before else "stays, going"


def _relative(before: float, after: float) -> float:
    return (after - before) / abs(before) if before else float(after > before)
