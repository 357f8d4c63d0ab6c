"""The way of texts through one CapFilt pass, drawn: web → kept → trained, widths as the numbers have it."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from components.pages.report.wording import share
from components.pages.report_data import CapfiltReport, Texts

_WIDTH = 360.0
_ROWS = (26.0, 112.0, 198.0)
_BAR = 18.0
_GAP = 3.0


class Block(NamedTuple):
    """A part of a row: where it begins, how wide it is."""

    start: float
    width: float


class Sieve(NamedTuple):
    """The drawing of a pass, and what it says in words."""

    made_by: int | None
    drawing: Markup
    words: str


def sieve(one: CapfiltReport, human_pairs: int) -> Sieve | None:
    """A pass's drawing; None if no text was considered.

    Args:
        one: the pass.
        human_pairs: that are trained on besides, as often as each of them counts; 0 where there are no rounds.
    """
    empty = {"web": Texts(source="web", texts=0, kept=0), "synthetic": Texts(source="synthetic", texts=0, kept=0)}
    by = empty | {texts.source: texts for texts in one.texts}
    web, written = by["web"], by["synthetic"]
    if not web.texts + written.texts:
        return None
    words = _words(one, web, written, human_pairs)
    return Sieve(one.made_by, _drawn(words, web, written, human_pairs), words)


def _words(one: CapfiltReport, web: Texts, written: Texts, human: int) -> str:
    failed = sum(one.failed.values())
    start = f"Of {one.images_in:,} web images {failed:,} could not be used. " if one.images_in else ""
    kept = " and ".join(
        f"{texts.kept:,} of {texts.texts:,} {name} ({share(texts.kept, texts.texts)})"
        for name, texts in (("web texts", web), ("written captions", written))
        if texts.texts
    )
    end = f"; with {human:,} human pairs that makes {one.pairs + human:,} to train on" if human else ""
    return f"{start}{kept} were kept: {one.pairs:,} pairs{end}."


def _drawn(words: str, web: Texts, written: Texts, human: int) -> Markup:
    kept = web.kept + written.kept
    whole = max(web.texts + written.texts, kept + human)
    scale = (_WIDTH - 3 * _GAP) / whole
    top = _row([web.texts, written.texts], scale)
    middle = [web.kept, written.kept, web.texts - web.kept, written.texts - written.kept]
    names = ("of-web", "of-synthetic", "of-none", "of-none")
    sieved = _row(middle, scale)
    sources = ("of-web", "of-synthetic", "of-human") if human else ()
    trained = _row([web.kept, written.kept, human], scale) if human else []
    parts = [
        _flow(0, top[0].start, sieved[0], "of-web"),
        _flow(0, top[1].start, sieved[1], "of-synthetic"),
        _flow(0, top[0].start + sieved[0].width, sieved[2], "of-none"),
        _flow(0, top[1].start + sieved[1].width, sieved[3], "of-none"),
        *(_flow(1, sieved[at].start, trained[at], sources[at]) for at in range(2) if trained),
        *_bars(_ROWS[0], top, ("of-web", "of-synthetic")),
        *_bars(_ROWS[1], sieved, names),
        *_bars(_ROWS[2], trained, sources),
        *_captions(0, f"{web.texts:,} web texts", f"{written.texts:,} written" if written.texts else ""),
        *_captions(1, f"kept {web.kept:,} + {written.kept:,}", f"dropped {middle[2] + middle[3]:,}"),
        *(_captions(2, f"trained on {kept + human:,} pairs", f"{human:,} human") if human else ()),
    ]
    height = _ROWS[2 if human else 1] + _BAR + 2
    return Markup('<svg class="chart sieve" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, height, words, Markup("").join(parts)
    )


def _row(counts: list[int], scale: float) -> list[Block]:
    """Where the parts of a row lie, one after the other."""
    blocks, at = [], 0.0
    for count in counts:
        blocks.append(Block(at, count * scale))
        at += count * scale + (_GAP if count else 0.0)
    return blocks


def _bars(y: float, blocks: list[Block], names: Sequence[str]) -> list[Markup]:
    shape = Markup('<rect class="{}" x="{:.1f}" y="{:g}" width="{:.1f}" height="{:g}"/>')
    return [
        shape.format(name, one.start, y, max(one.width, 1.0), _BAR)
        for name, one in zip(names, blocks, strict=True)
        if one.width
    ]


def _flow(row: int, start: float, to: Block, name: str) -> Markup:
    """A band from a place in a row to a block of the next, as wide as the block."""
    if not to.width:
        return Markup("")
    top, bottom = _ROWS[row] + _BAR, _ROWS[row + 1]
    middle = (top + bottom) / 2
    left, right = start, start + to.width
    return Markup(
        '<path class="band {name}" d="M{a:.1f} {top:g}C{a:.1f} {m:g} {c:.1f} {m:g} {c:.1f} {bottom:g}'
        'L{d:.1f} {bottom:g}C{d:.1f} {m:g} {b:.1f} {m:g} {b:.1f} {top:g}Z"/>'
    ).format(name=name, a=left, b=right, c=to.start, d=to.start + to.width, top=top, bottom=bottom, m=middle)


def _captions(row: int, left: str, right: str) -> list[Markup]:
    shape = Markup('<text class="tick {}" x="{:g}" y="{:g}">{}</text>')
    y = _ROWS[row] - 6
    return [shape.format("start", 0, y, left), shape.format("end", _WIDTH, y, right)]
