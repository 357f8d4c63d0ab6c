"""Line charts as inline SVG: no script, no font, no network; colours come from the page's CSS (`series-0` …).

Every chart has a title for screen readers, every line ends in a labelled dot, so that colour is never the only cue.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

SERIES_COLOURS = 6
_MOST_POINTS = 240
_LEAST_PAD = 0.03
"""Room above and below, in shares of the value: a change in the third digit is no slope."""


class Series(BaseModel):
    """One line of a chart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    points: tuple[tuple[float, float], ...] = Field(description="(x, y) with finite numbers, x ascending")
    colour: int = Field(default=0, ge=0, description="index of the page's series colours")


class _Plot:
    """Maps data to a drawing of fixed size; the page scales it."""

    width, height = 380.0, 210.0
    left, right, top, bottom = 50.0, 14.0, 12.0, 34.0

    def __init__(self, xs: Sequence[float], ys: Sequence[float], *, from_zero: bool, shares: bool = False) -> None:
        self.x_low, self.x_high = (0.0, 1.0) if shares else (min(xs), max(xs))
        if shares:
            self.y_ticks, self.y_low, self.y_high = nice_ticks(0.0, 1.0), 0.0, 1.0
            return
        low, high = min(ys), max(ys)
        pad = max((high - low) * 0.12, abs(high) * _LEAST_PAD) or 1.0
        self.y_ticks = nice_ticks(0.0 if from_zero and low >= 0 else low - pad, high + pad)
        self.y_low, self.y_high = self.y_ticks[0], self.y_ticks[-1]

    def x(self, value: float) -> float:
        span = self.x_high - self.x_low
        share = (value - self.x_low) / span if span else 0.5
        return round(self.left + share * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        span = self.y_high - self.y_low
        share = (value - self.y_low) / span if span else 0.5  # figures of 1e-13 have ticks that round to one
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 1)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers, evenly spaced, that enclose `low`..`high`."""
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    percent: bool = False,
    rounds: bool = False,
    mark: float | None = None,
) -> Markup:
    """A line chart; empty if no series has a finite point.

    Args:
        percent: write the vertical axis in per cent.
        rounds: x are round numbers: tick every one of them and mark every point.
        mark: x and y are shares, both axes run from 0 to 1, and this x is marked, with each line's value there.
    """
    drawn = [clean for one in series if (clean := _clean(one)).points]
    if not drawn:
        return Markup("")
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    plot = _Plot(xs, ys, from_zero=False, shares=mark is not None)
    x_ticks = sorted(set(xs)) if rounds else nice_ticks(plot.x_low, max(plot.x_high, plot.x_low + 1))
    if mark is not None:
        x_ticks = [0.0, 0.5, 1.0]
    parts = [
        _grid(plot, percent),
        _x_axis(plot, [tick for tick in x_ticks if plot.x_low <= tick <= plot.x_high], x_label),
    ]
    if mark is None:
        parts += [_line(plot, one, one.points if rounds else one.points[-1:], percent, large=rounds) for one in drawn]
        summary = "; ".join(f"{one.label} ends at {number(one.points[-1][1], percent)}" for one in drawn)
    else:
        marked = [min(one.points, key=lambda point: abs(point[0] - mark)) for one in drawn]
        parts.append(_mark(plot, mark))
        parts += [_line(plot, one, [at], percent, large=True) for one, at in zip(drawn, marked, strict=True)]
        summary = "; ".join(
            f"{one.label} {number(y, percent)} at {mark:g}" for one, (_, y) in zip(drawn, marked, strict=True)
        )
    return Markup(
        '<svg class="chart" viewBox="0 0 {w:g} {h:g}" role="img" aria-label="{title}: {summary}">{body}</svg>'
    ).format(w=plot.width, h=plot.height, title=title, summary=summary, body=Markup("").join(parts))


def _clean(series: Series) -> Series:
    """Without non-finite points, and thinned to what a small chart can show."""
    points = [point for point in series.points if all(map(math.isfinite, point))]
    if len(points) > _MOST_POINTS:
        stride = (len(points) - 1) / (_MOST_POINTS - 1)
        points = [points[round(index * stride)] for index in range(_MOST_POINTS)]
    return series.model_copy(update={"points": tuple(points)})


def _grid(plot: _Plot, percent: bool) -> Markup:
    shape = Markup(
        '<line class="rule" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        '<text class="tick end" x="{text_x}" y="{text_y}">{label}</text>'
    )
    left, right = plot.left, plot.width - plot.right
    digits = max(_digits(tick * 100 if percent else tick) for tick in plot.y_ticks)
    lines = [
        shape.format(
            left=left, right=right, y=plot.y(t), text_x=left - 6, text_y=plot.y(t) + 4, label=_tick(t, percent, digits)
        )
        for t in plot.y_ticks
    ]
    return Markup("").join(lines)


def _x_axis(plot: _Plot, ticks: Sequence[float], label: str) -> Markup:
    shape = Markup('<text class="tick {anchor}" x="{x}" y="{y}">{text}</text>')
    texts = []
    for index, tick in enumerate(ticks):
        first, outermost = index == 0, plot.x(tick) > plot.width - 40
        anchor = "start" if first and len(ticks) > 1 else "end" if outermost and not first else "middle"
        text = f"{label} {_tick(tick, False)}" if first else _tick(tick, False)
        x = plot.x(tick) + (6 if anchor == "end" else 0)
        texts.append(shape.format(anchor=anchor, x=x, y=plot.height - plot.bottom + 20, text=text))
    return Markup("").join(texts)


def _mark(plot: _Plot, x: float) -> Markup:
    """A dashed upright line, its x written beside it."""
    at, late = plot.x(x), x > 0.5
    return Markup(
        '<line class="upright" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
        '<text class="tick {anchor}" x="{text_x}" y="{text_y}">{text}</text>'
    ).format(
        x=at,
        top=plot.top,
        bottom=plot.height - plot.bottom,
        anchor="end" if late else "start",
        text_x=at - 6 if late else at + 6,
        text_y=plot.height - plot.bottom - 6,
        text=f"{x:.4g}",
    )


def _line(plot: _Plot, series: Series, marked: Sequence[tuple[float, float]], percent: bool, *, large: bool) -> Markup:
    colour = f"series-{series.colour % SERIES_COLOURS}"
    path = " ".join(f"{plot.x(x)},{plot.y(y)}" for x, y in series.points)
    circles = [
        Markup('<circle class="{c}" cx="{x}" cy="{y}" r="{r}"><title>{label}: {value} at {at}</title></circle>').format(
            c=colour,
            x=plot.x(x),
            y=plot.y(y),
            r=4.5 if large else 3.5,
            label=series.label,
            value=number(y, percent),
            at=_tick(x, False),
        )
        for x, y in marked
    ]
    return Markup('<polyline class="line {c}" points="{p}"/>').format(c=colour, p=path) + Markup("").join(circles)


def number(value: float, percent: bool) -> str:
    """A value as the page writes it: `48.3 %` or `1.204`."""
    return f"{value * 100:.1f} %" if percent else f"{value:.3f}"


def _tick(value: float, percent: bool, digits: int | None = None) -> str:
    """A tick's label; all of an axis with the same number of decimals."""
    if percent:
        return f"{value * 100:.{digits or 0}f} %"
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}" if digits is None else f"{value:.{digits}f}"


def _digits(value: float) -> int:
    return len(f"{value:.4f}".rstrip("0").partition(".")[2])
