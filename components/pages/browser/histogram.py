"""How a score is spread, as inline SVG: a bar for each of forty ranges, web and synthetic texts on one another."""

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

_BARS = 40
_WIDTH, _HEIGHT = 400.0, 90.0


def histogram(title: str, columns: dict[str, npt.NDArray[np.float64]], mark: float | None) -> Markup:
    """Bars of values from 0 to 1 by source, an upright at `mark`; heights go by the root, so that few show too."""
    counts = {name: np.histogram(values[~np.isnan(values)], _BARS, (0, 1))[0] for name, values in columns.items()}
    most = max((int(total) for total in sum(counts.values(), np.zeros(_BARS, int))), default=0)
    parts = [Markup('<svg class="histogram" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        f"{_WIDTH:g}", f"{_HEIGHT:g}", title)]  # fmt: skip
    floor = np.zeros(_BARS)
    for name, heights in counts.items():
        top = floor + heights
        for bar in np.flatnonzero(heights):
            parts.append(_bar(name, int(bar), _height(floor[bar], most), _height(top[bar], most)))
        floor = top
    if mark is not None:
        x = f"{mark * _WIDTH:.1f}"
        parts.append(Markup('<line class="upright" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(x, f"{_HEIGHT:g}"))
    return Markup("").join([*parts, Markup("</svg>")])


def _height(count: float, most: int) -> float:
    return float(np.sqrt(count / most) * _HEIGHT) if most else 0.0


def _bar(name: str, number: int, low: float, high: float) -> Markup:
    width = _WIDTH / _BARS
    return Markup('<rect class="of-{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        name, number * width, _HEIGHT - high, width - 1, high - low
    )
