"""What the page shows of each round's filter: purity and yield by threshold, and whether what it says is so."""

from typing import NamedTuple

from markupsafe import Markup

from components.common.contracts import Calibration, PurityPoint
from components.pages.charts import Series, line_chart
from components.pages.report_data import RoundReport

_WEIGHED = {"itm": "", "itc": "of ITC, made a probability", "both": "of ITM and ITC, weighed"}


class FilterCard(NamedTuple):
    """A round's filter: its chart, what its threshold gives, how it was chosen, and how it drifted."""

    round: int
    chart: Markup
    chosen: PurityPoint
    target: float | None
    reached: bool
    drift: str
    worse: bool
    of: str
    """what the threshold is of, in words; empty for P(match)"""
    reliability: Markup
    error: float


def filter_card(one: RoundReport, calibration: Calibration) -> FilterCard:
    """A round's card. Purity is drawn as far as right texts pass: behind the last there is nothing to be pure."""
    chosen = calibration.chosen
    points = sorted({*calibration.curve, chosen}, key=lambda point: point.threshold)
    purity = tuple((point.threshold, point.purity) for point in points if point.yield_share > 0)
    yields = tuple((point.threshold, point.yield_share) for point in points)
    lines = [Series(label="purity", points=purity, colour=1), Series(label="yield", points=yields, colour=2)]
    title = f"Purity and yield of the filter of round {one.round} by threshold"
    chart = line_chart(title, lines, x_label="threshold", percent=True, mark=chosen.threshold)
    return FilterCard(
        one.round,
        chart,
        chosen,
        calibration.target,
        calibration.reached,
        one.drift,
        one.drift_worse,
        _WEIGHED[calibration.score],
        _reliability(one.round, calibration),
        calibration.error or 0.0,
    )


def _reliability(number: int, calibration: Calibration) -> Markup:
    """What is said of texts against what is so; the even line is what it should be."""
    points = tuple((point.said, point.right) for point in calibration.reliability)
    lines = [
        Series(label="as it says", points=((0.0, 0.0), (1.0, 1.0)), colour=0),
        Series(label="right", points=points, colour=3),
    ]
    title = f"Reliability of the filter of round {number}: share of right texts by what it says"
    marked = calibration.chosen.threshold
    return line_chart(title, lines, x_label="score", percent=True, mark=marked) if points else Markup("")
