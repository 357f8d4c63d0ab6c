"""The page of a bootstrap: one HTML file with everything in it, to be opened years later without a server.

`ReportData` is what the flows fill in; `write_report` turns it into the page.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from markupsafe import Markup

from components.common.contracts import Comparison, Interval, StageReport
from components.common.metrics import (
    BASE_RECALL,
    BLEU_4,
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
from components.pages.charts import Series, line_chart, number
from components.pages.filters import filter_card
from components.pages.report_data import CapfiltReport, Example, ExampleText, ReportData, RoundReport
from components.pages.verdict import certainty, gained, span, spoken_of, verdict, word

__all__ = ["CapfiltReport", "Example", "ExampleText", "ReportData", "RoundReport", "render_report", "write_report"]
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
CHARTS = (RECALL, CIDER, BLEU_4, BASE_RECALL, VQA)
CURVES = ("loss_itc", "loss_itm", "nll_lm", "loss_lm", "nll_vqa", "loss_vqa", "loss")
STAGES = {
    "pretrain": "Pre-training",
    "base": "Pre-training",
    "captioner": "Captioner",
    "filter": "Filter",
    "retrieval": "Retrieval model",
    "vqa": "VQA",
}


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


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, one self-contained HTML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(data), encoding="utf-8")


def render_report(data: ReportData) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    shown = spoken_of(data.rounds, data.champion)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": _clock, "amount": _amount}
    return environment.get_template("report.html.j2").render(
        data=data,
        verdict=verdict(data.rounds, data.champion),
        word=word(shown),
        word_mood={"clear": "yes" if gained(shown) else "no"}.get(word(shown) or "", ""),
        certainty=certainty(data.rounds),
        warnings=[(one.round, one.drift) for one in data.rounds if one.drift and one.drift_worse],
        tiles=_tiles(data),
        tables=_tables(data.rounds),
        round_heads=[f"round {one.round}" for one in data.rounds],
        data_rows=_data_rows(data.capfilt),
        explained=_explained({name for one in data.capfilt for name in one.metrics}),
        pass_heads=[f"by round {one.made_by}" for one in data.capfilt],
        progress_charts=_progress_charts(data.rounds),
        filters=[filter_card(one, one.calibration) for one in data.rounds if one.calibration is not None],
        curve_groups=_curve_groups(data.rounds),
        kinds=_kinds(data.capfilt),
        flows=[_flow(one) for one in data.capfilt],
        losses=_losses(data.capfilt),
        stages=_stage_bars(data.stages),
        seconds=math.fsum(stage.seconds for stage in data.stages),
        cached=sum(stage.cached for stage in data.stages),
        config=_yaml(data.config),
    )


# -------------------------------------------------------------------------------------------------------------- tables


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
        Cell(_show(entry, value), value is not None and value == best, _ends(entry, interval))
        for value, interval in zip(values, intervals, strict=True)
    )
    weighed = known[-1].changes.get(name) if known and known[-1] else None
    words, mood = _change(entry, change(values, len(values) - 1), weighed)
    weight = f"{span(entry, weighed.interval.low, weighed.interval.high)}: {weighed.verdict}" if weighed else ""
    return Row(entry.label, cells, words, mood, name in HEADLINES, weight)


def _ends(entry: Metric, interval: Interval | None) -> str:
    return "" if interval is None else f"{_show(entry, interval.low)} – {_show(entry, interval.high)}"


def _show(entry: Metric, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return _amount(value) if entry.unit == "count" else number(value, entry.unit == "share")


def _change(entry: Metric, moved: float | None, weighed: Comparison | None = None) -> tuple[str, Mood]:
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


def _tables(rounds: Sequence[RoundReport]) -> list[tuple[str, list[Row]]]:
    tables = []
    for title, names in TABLE:
        rows = [_row(name, [one.metrics.get(name) for one in rounds], rounds) for name in names]
        if shown := [row for row in rows if row is not None]:
            tables.append((title, shown))
    return tables


def _data_rows(passes: Sequence[CapfiltReport]) -> list[Row]:
    rows = (_row(name, [one.metrics.get(name) for one in passes]) for name in DATA_TABLE)
    return [row for row in rows if row is not None]


def _explained(names: set[str]) -> list[tuple[str, str]]:
    """Words of the tables that need saying what they mean."""
    own = [(metric(name).label, metric(name).about) for name in EXPLAINED if name in names]
    return [*meanings(names), *own]


class Tile(NamedTuple):
    """A figure at the top of the page."""

    label: str
    value: str
    note: str
    mood: Mood


def _tiles(data: ReportData) -> list[Tile]:
    first, best = data.rounds[0], spoken_of(data.rounds, data.champion)
    weighed = best.uncertainty.changes if best.uncertainty else {}
    tiles = []
    for name in HEADLINES:
        if name in best.metrics:
            entry = metric(name)
            words, mood = _change(entry, change([first.metrics.get(name), best.metrics[name]], 1), weighed.get(name))
            told = f", {weighed[name].verdict}" if name in weighed else ""
            compared = best is not first and words
            note = f"{words} against round {first.round}{told}" if compared else f"round {best.round}"
            tiles.append(Tile(_title(entry), _show(entry, best.metrics[name]), note, mood if compared else "flat"))
    if data.capfilt:
        metrics = data.capfilt[-1].metrics
        rejected = metrics.get("capfilt/noise_ratio_web")
        if rejected is not None:
            tiles.append(Tile(_title(metric("capfilt/noise_ratio_web")), number(rejected, True), "as noise", "flat"))
        before, after = metrics.get("truth/web_true_before"), metrics.get("truth/web_true")
        if before is not None and after is not None:
            entry = metric("truth/web_true")
            words, mood = _change(entry, change([before, after], 1))
            tiles.append(Tile(_title(entry), number(after, True), f"{words} by the filter", mood))
    return tiles


# -------------------------------------------------------------------------------------------------------------- charts


def _progress_charts(rounds: Sequence[RoundReport]) -> list[tuple[str, Markup]]:
    """One chart per headline metric over the rounds; none for a single round."""
    if len(rounds) < 2:
        return []
    charts = []
    for entry in map(metric, CHARTS):
        title = _title(entry)
        points = tuple((float(one.round), one.metrics[entry.name]) for one in rounds if entry.name in one.metrics)
        line, percent = Series(label=title, points=points, colour=1), entry.unit == "share"
        chart = line_chart(title, [line], x_label="round", percent=percent, rounds=True)
        if chart:
            charts.append((title, chart))
    return charts


def _curve_groups(rounds: Sequence[RoundReport]) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Training curves: per stage one chart per loss, with a line per round."""
    groups = []
    names = _losses_of(list(dict.fromkeys(name for one in rounds for name in one.curves)))
    for stage in sorted(
        {name.partition("/")[0] for name in names}, key=lambda stage: ([*STAGES, stage].index(stage), stage)
    ):
        charts = []
        for name in (name for name in names if name.startswith(f"{stage}/")):
            loss = name.partition("/")[2]
            lines = [
                Series(label=f"round {one.round}", points=one.curves[name], colour=index)
                for index, one in enumerate(rounds)
                if name in one.curves
            ]
            if chart := line_chart(f"{stage}, {loss}", lines, x_label="step"):
                charts.append((metric(f"train/{loss}").label, chart))
        if charts:
            groups.append((STAGES.get(stage, stage), charts))
    return groups


def _losses_of(names: Sequence[str]) -> list[str]:
    """The curves worth a chart: the parts of the loss rather than their sum, the plain LM loss rather than the smoothed
    one (its floor is not 0), no learning rates and the like."""
    order = {loss: place for place, loss in enumerate(CURVES)}
    chosen = [name for name in names if name.partition("/")[2] in order]
    covered = {name.replace("/nll_", "/loss_") for name in chosen if "/nll_" in name}
    covered |= {name.partition("/")[0] + "/loss" for name in chosen if not name.endswith("/loss")}
    return sorted((name for name in chosen if name not in covered), key=lambda name: order[name.partition("/")[2]])


class Kind(NamedTuple):
    """How a kind of web text fared, one share per CapFilt pass."""

    label: str
    right: bool
    kept: tuple[float | None, ...]


def _kinds(passes: Sequence[CapfiltReport]) -> list[Kind]:
    """Share of each kind of web text that the filter accepted: high is right for `match`, low for all others."""
    prefix = "truth/rejected/"
    names = sorted({name.removeprefix(prefix) for one in passes for name in one.metrics if name.startswith(prefix)})
    wrong = [Kind(name, False, tuple(_accepted(one.metrics.get(prefix + name)) for one in passes)) for name in names]
    right = Kind("match", True, tuple(one.metrics.get("truth/filter_recall") for one in passes))
    return [right, *wrong] if names else []


def _accepted(rejected: float | None) -> float | None:
    return None if rejected is None else 1 - rejected


class Flow(NamedTuple):
    """What became of the texts of one CapFilt pass: (label, share rejected) per source, and examples."""

    made_by: int
    sources: list[tuple[str, float]]
    threshold: float | None
    examples: tuple[Example, ...]


def _flow(one: CapfiltReport) -> Flow:
    names = (("Web texts", "capfilt/noise_ratio_web"), ("Synthetic captions", "capfilt/noise_ratio_synthetic"))
    sources = [(label, one.metrics[name]) for label, name in names if name in one.metrics]
    return Flow(one.made_by, sources, one.threshold, one.examples)


def _losses(passes: Sequence[CapfiltReport]) -> list[tuple[str, list[tuple[str, int]], int]]:
    """(title, counts by reason, largest count) for captions dropped and images failed, pass by pass."""
    blocks = []
    for one in passes:
        by = f", by round {one.made_by}" if len(passes) > 1 else ""
        for title, counts in (
            (f"Texts dropped{by}", one.dropped),
            (f"Images that could not be used{by}", one.failed),
        ):
            blocks.append((title, _by_count(counts), max(counts.values(), default=1)))
    return blocks if any(counts for _, counts, _ in blocks) else []


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(
        ((name.replace("_", " "), count) for name, count in counts.items()), key=lambda item: (-item[1], item[0])
    )


class StageBar(NamedTuple):
    """A stage on the time line, in per cent of the whole."""

    name: str
    seconds: float
    cached: bool
    start: float
    width: float


def _stage_bars(stages: Iterable[StageReport]) -> list[StageBar]:
    stages = list(stages)
    whole = math.fsum(stage.seconds for stage in stages) or 1.0
    bars, start = [], 0.0
    for stage in stages:
        share = stage.seconds / whole * 100
        bars.append(StageBar(stage.stage, stage.seconds, stage.cached, round(start, 2), round(share, 2)))
        start += share
    return bars


# --------------------------------------------------------------------------------------------------------------- words


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""


def _clock(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _title(entry: Metric) -> str:
    return entry.label[0].upper() + entry.label[1:]


def _amount(value: float) -> str:
    return f"{value:,.0f}"
