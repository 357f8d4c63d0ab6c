"""Bar charts as inline SVG: how many texts of each range were kept (from the ground up) and dropped (on top)."""

from collections.abc import Sequence

from markupsafe import Markup

_WIDTH, _HEIGHT, _TOP, _GROUND = 380.0, 130.0, 18.0, 22.0


def bar_chart(
    title: str,
    counts: Sequence[tuple[int, int]],
    ticks: Sequence[tuple[float, str]],
    *,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """A bar per range; empty if nothing was counted.

    Args:
        title: for screen readers; says what is counted.
        counts: (kept, dropped) by range.
        ticks: places along the axis, 0 to 1, with their labels.
        mark: an upright at a place, 0 to 1, with its label.
    """
    most = max((sum(one) for one in counts), default=0)
    if not most:
        return Markup("")
    parts = [_bar(at, one, most, len(counts)) for at, one in enumerate(counts) if any(one)]
    floor = _HEIGHT - _GROUND
    parts.append(Markup('<line class="rule" x1="0" x2="{0:g}" y1="{1:g}" y2="{1:g}"/>').format(_WIDTH, floor))
    parts += [_label(place, text) for place, text in ticks]
    parts.append(Markup('<text class="tick start" x="0" y="11">{:,}</text>').format(most))
    if mark is not None:
        parts.append(_upright(*mark, floor))
    return Markup('<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, Markup("").join(parts)
    )


def _bar(at: int, one: tuple[int, int], most: int, bars: int) -> Markup:
    width, full = _WIDTH / bars, _HEIGHT - _GROUND - _TOP
    low = _HEIGHT - _GROUND
    drawn = Markup("")
    for name, count in zip(("in", "out"), one, strict=True):
        height = max(count / most * full, 1.0) if count else 0.0
        low -= height
        if count:
            drawn += Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                name, at * width + 0.5, low, width - 1, height
            )
    return drawn


def _label(place: float, text: str) -> Markup:
    anchor = "start" if place < 0.08 else "end" if place > 0.92 else "middle"
    return Markup('<text class="tick {}" x="{:.1f}" y="{:g}">{}</text>').format(
        anchor, place * _WIDTH, _HEIGHT - 6, text
    )


def _upright(place: float, text: str, floor: float) -> Markup:
    late = place > 0.5
    return Markup(
        '<line class="upright" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1:g}"/>'
        '<text class="tick {2}" x="{3:.1f}" y="11">{4}</text>'
    ).format(place * _WIDTH, floor, "end" if late else "start", place * _WIDTH + (-6 if late else 6), text)
