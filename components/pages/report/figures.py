"""The tables of figures: rounds side by side, and CapFilt passes side by side."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from components.common.contracts import Comparison, Interval
from components.common.metrics import (
    BASE_RECALL,
    CIDER,
    HEADLINES,
    OF_CAPFILT,
    RECALL,
    VQA,
    Metric,
    change,
    meanings,
    metric,
)
from components.pages.charts import number
from components.pages.report.wording import amount
from components.pages.report_data import CapfiltReport, RoundReport
from components.pages.verdict import span

Mood = Literal["up", "down", "flat"]

TABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Retrieval",
        (
            RECALL,
            *(f"eval/retrieval/{way}_recall_at_{k}" for way in ("text", "image") for k in (1, 5, 10)),
            "eval/retrieval/itc_mean_recall",
        ),
    ),
    (
        "Captioning",
        (
            CIDER,
            *(f"eval/caption/bleu_{n}" for n in (4, 3, 2, 1)),
            "eval/caption/rouge_l",
            "eval/caption/distinct_captions",
        ),
    ),
    (
        "Base model, as pre-training leaves it",
        (
            BASE_RECALL,
            "base/text_recall_at_1",
            "base/image_recall_at_1",
            "base/itc_mean_recall",
        ),
    ),
    ("Answering", (VQA, "eval/vqa/accuracy_any")),
)
DATA_TABLE = (*OF_CAPFILT, "truth/filter_auc")
EXPLAINED = ("truth/filter_precision", "truth/filter_recall")


class Cell(NamedTuple):
    """A figure in a table."""

    text: str
    best: bool = False
    interval: str = ""


class Row(NamedTuple):
    """A metric over the rounds, and its change from first to last."""

    label: str
    cells: tuple[Cell, ...]
    change: str
    mood: Mood
    primary: bool = False
    weight: str = ""
    """what the change is worth: its interval and a word"""


def _row(name: str, values: Sequence[float | None], rounds: Sequence[RoundReport] = ()) -> Row | None:
    """A table row, with the intervals of the rounds if there are any, or None if nothing was measured."""
    entry = metric(name)
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    best = (max(finite) if entry.better > 0 else min(finite)) if entry.better and len(set(finite)) > 1 else None
    known = [one.uncertainty for one in rounds]
    intervals = [one.values.get(name) if one else None for one in known] or [None] * len(values)
    cells = tuple(
        Cell(show(entry, value), value is not None and value == best, _ends(entry, interval))
        for value, interval in zip(values, intervals, strict=True)
    )
    weighed = known[-1].changes.get(name) if known and known[-1] else None
    words, mood = worded(entry, change(values, len(values) - 1), weighed)
    weight = f"{span(entry, weighed.interval.low, weighed.interval.high)}: {weighed.verdict}" if weighed else ""
    return Row(entry.label, cells, words, mood, name in HEADLINES, weight)


def _ends(entry: Metric, interval: Interval | None) -> str:
    """`53.2 – 55.2 %`: the unit once, so that it stays on one line."""
    if interval is None:
        return ""
    return f"{show(entry, interval.low).removesuffix(' %')} – {show(entry, interval.high)}"


def show(entry: Metric, value: float | None) -> str:
    """A figure in the unit of its metric."""
    if value is None or not math.isfinite(value):
        return "–"
    return amount(value) if entry.unit == "count" else number(value, entry.unit == "share")


def worded(entry: Metric, moved: float | None, weighed: Comparison | None = None) -> tuple[str, Mood]:
    """A change in words, and how it is coloured: not at all within noise."""
    if moved is None:
        return "", "flat"
    if entry.unit == "share":
        text = f"{moved * 100:+.1f} pts"
    else:
        text = f"{moved:+,.0f}" if entry.unit == "count" else f"{moved:+.3f}"
    noise = weighed is not None and weighed.verdict == "within noise"
    if noise or not entry.better or not any(digit in text for digit in "123456789"):
        return text, "flat"
    return text, "up" if moved * entry.better > 0 else "down"


def tables_of(rounds: Sequence[RoundReport]) -> list[tuple[str, list[Row]]]:
    """Titles and rows of what was measured in any round."""
    tables = []
    for title, names in TABLE:
        rows = [_row(name, [one.metrics.get(name) for one in rounds], rounds) for name in names]
        if shown := [row for row in rows if row is not None]:
            tables.append((title, shown))
    return tables


def data_rows(passes: Sequence[CapfiltReport]) -> list[Row]:
    """What CapFilt did, pass by pass."""
    rows = (_row(name, [one.metrics.get(name) for one in passes]) for name in DATA_TABLE)
    return [row for row in rows if row is not None]


def explained(names: set[str]) -> list[tuple[str, str]]:
    """Words of the tables that need saying what they mean."""
    own = [(metric(name).label, metric(name).about) for name in EXPLAINED if name in names]
    return [*meanings(names), *own]
