"""What CapFilt did to the web data: shares, kinds, losses, and the texts themselves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from components.pages.report.bars import bar_chart
from components.pages.report_data import CapfiltReport, Texts
from components.pages.tally import LONGEST, RANGES


class Kind(NamedTuple):
    """How a kind of web text fared, one share per CapFilt pass."""

    label: str
    right: bool
    kept: tuple[float | None, ...]


def kinds(passes: Sequence[CapfiltReport]) -> list[Kind]:
    """Share of each kind of web text that the filter accepted: high is right for `match`, low for all others."""
    prefix = "truth/rejected/"
    names = sorted({name.removeprefix(prefix) for one in passes for name in one.metrics if name.startswith(prefix)})
    wrong = [Kind(name, False, tuple(_accepted(one.metrics.get(prefix + name)) for one in passes)) for name in names]
    right = Kind("match", True, tuple(one.metrics.get("truth/filter_recall") for one in passes))
    return [right, *wrong] if names else []


def _accepted(rejected: float | None) -> float | None:
    return None if rejected is None else 1 - rejected


def losses(passes: Sequence[CapfiltReport]) -> list[tuple[str, list[tuple[str, int]], int]]:
    """(title, counts by reason, largest count) for texts dropped, images failed and captions gone wrong."""
    blocks = []
    for one in passes:
        by = f", by round {one.made_by}" if len(passes) > 1 else ""
        for title, counts in (
            (f"Texts dropped{by}", one.dropped),
            (f"Images that could not be used{by}", one.failed),
            *([(f"Captions that went wrong{by}", one.outcomes)] if one.outcomes else []),
        ):
            blocks.append((title, _by_count(counts), max(counts.values(), default=1)))
    return blocks if any(counts for _, counts, _ in blocks) else []


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(
        ((name.replace("_", " "), count) for name, count in counts.items()), key=lambda item: (-item[1], item[0])
    )


class TextCard(NamedTuple):
    """The texts of one source, in words and charts."""

    made_by: int | None
    title: str
    said: str
    scores: Markup
    lengths: Markup
    repeated: tuple[tuple[str, int, int], ...]


_NAMES = {"web": "Web texts", "synthetic": "Written captions"}


def text_cards(passes: Sequence[CapfiltReport]) -> list[TextCard]:
    """Scores, lengths and commonest texts; the web's texts are the same in every pass, their scores are not."""
    return [_text_card(one, texts) for one in passes for texts in one.texts]


def _text_card(one: CapfiltReport, texts: Texts) -> TextCard:
    name = _NAMES[texts.source]
    words = sum(length * sum(counts) for length, counts in texts.lengths.items())
    said = f"{texts.texts:,}, {words / texts.texts:.1f} words each on average"
    if texts.distinct is not None:
        said += f"; {texts.distinct:,} different ones ({texts.distinct / texts.texts * 100:.1f} %)"
    mark = None if one.threshold is None else (one.threshold, f"threshold {one.threshold:.4g}")
    scores = bar_chart(
        f"{name} by the filter's score, in {RANGES} ranges from 0 to 1: kept and dropped",
        texts.scores,
        ((0.0, "score 0"), (0.5, "0.5"), (1.0, "1")),
        mark=mark,
    )
    return TextCard(one.made_by, name, said, scores, _lengths(name, texts), texts.repeated)


def _lengths(name: str, texts: Texts) -> Markup:
    longest = max(texts.lengths, default=0)
    counts = [texts.lengths.get(length, (0, 0)) for length in range(longest + 1)]
    step = next(step for step in (1, 2, 5, 10) if longest <= 6 * step or step == 10)
    ticks = [
        ((at + 0.5) / (longest + 1), f"{at} words" if at == 0 else f"{at}{'+' if at == LONGEST else ''}")
        for at in range(0, longest + 1, step)
    ]
    return bar_chart(f"{name} by their number of words: kept and dropped", counts, ticks)
