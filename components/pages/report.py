"""The page of a bootstrap: one HTML file with everything in it, to be opened years later without a server.

`ReportData` is what the flows fill in; `write_report` turns it into the page.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from markupsafe import Markup

from components.common.contracts import Calibration, PurityPoint, StageReport
from components.pages.charts import Series, line_chart, number
from components.pages.report_data import CapfiltReport, Example, ExampleText, ReportData, RoundReport
from components.pages.verdict import CIDER, PRIMARY, RECALL, best_round, verdict

__all__ = ["CapfiltReport", "Example", "ExampleText", "ReportData", "RoundReport", "render_report", "write_report"]


class Metric(NamedTuple):
    """How a metric is shown."""

    name: str
    label: str
    percent: bool = False
    better: Literal[-1, 0, 1] = 1


TABLE: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    (
        "Retrieval",
        (
            Metric(RECALL, "Mean recall", True),
            *(
                Metric(f"eval/retrieval/{way}_recall_at_{k}", f"{way.capitalize()} recall@{k}", True)
                for way in ("text", "image")
                for k in (1, 5, 10)
            ),
            Metric("eval/retrieval/itc_mean_recall", "Mean recall before re-ranking", True),
        ),
    ),
    (
        "Captioning",
        (
            Metric(CIDER, "CIDEr"),
            *(Metric(f"eval/caption/bleu_{n}", f"BLEU-{n}") for n in (4, 3, 2, 1)),
            Metric("eval/caption/rouge_l", "ROUGE-L"),
            Metric("eval/caption/distinct_captions", "Distinct captions", True, 0),
        ),
    ),
)
DATA_TABLE = (
    Metric("capfilt/noise_ratio_web", "Web texts rejected", True, 0),
    Metric("capfilt/noise_ratio_synthetic", "Synthetic captions rejected", True, 0),
    Metric("capfilt/kept_pairs", "Pairs kept", False, 0),
    Metric("truth/web_true_before", "Web texts that are right, before", True, 0),
    Metric("truth/web_true", "Web texts that are right, after", True),
    Metric("truth/synthetic_true_before", "Synthetic captions that are true, before", True),
    Metric("truth/synthetic_true", "Synthetic captions that are true, after", True),
    Metric("truth/web_facts_right_before", "Facts right in web texts, before", True, 0),
    Metric("truth/web_facts_right", "Facts right in web texts, after", True),
    Metric("truth/synthetic_facts_right_before", "Facts right in synthetic captions, before", True),
    Metric("truth/synthetic_facts_right", "Facts right in synthetic captions, after", True),
    Metric("truth/facts_right_by_chance", "Facts right by chance", True, 0),
    Metric("truth/pairs_true", "All kept texts that are right", True),
    Metric("truth/filter_precision", "Filter precision", True),
    Metric("truth/filter_recall", "Filter recall", True),
    Metric("truth/filter_auc", "Filter ROC-AUC"),
)
EXPLAINED = (
    (
        "truth/web_true",
        "right, true",
        "All that a text says fits its image: one wrong colour or place, and it does not count.",
    ),
    (
        "truth/synthetic_facts_right",
        "facts right",
        "The share of what a text says (each colour, shape, size, texture, place and relation by itself) that fits its "
        "image, on average over texts.",
    ),
    ("truth/facts_right_by_chance", "by chance", "The same captions, each under another image."),
    ("truth/filter_precision", "filter precision", "Of the web texts the filter accepts, the share that is right."),
    ("truth/filter_recall", "filter recall", "Of the web texts that are right, the share the filter accepts."),
)
CURVES = {
    "loss_itc": "image–text contrast (ITC)",
    "loss_itm": "image–text matching (ITM)",
    "nll_lm": "language model (LM), nats per token",
    "loss_lm": "language model (LM), smoothed",
    "loss": "total",
}
STAGES = {"pretrain": "Pre-training", "base": "Pre-training", "captioner": "Captioner", "filter": "Filter"}


class Cell(NamedTuple):
    """A figure in a table."""

    text: str
    best: bool = False


class Row(NamedTuple):
    """A metric over the rounds, and its change from first to last."""

    label: str
    cells: tuple[Cell, ...]
    change: str
    mood: Literal["up", "down", "flat"]
    primary: bool = False


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, one self-contained HTML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(data), encoding="utf-8")


def render_report(data: ReportData) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

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
        verdict=verdict(data),
        tiles=_tiles(data),
        tables=_tables(data.rounds),
        round_heads=[f"round {one.round}" for one in data.rounds],
        data_rows=_data_rows(data.capfilt),
        explained=[
            (term, words) for name, term, words in EXPLAINED if any(name in one.metrics for one in data.capfilt)
        ],
        pass_heads=[f"by round {one.made_by}" for one in data.capfilt],
        progress_charts=_progress_charts(data.rounds),
        filters=[_filter(one, one.calibration) for one in data.rounds if one.calibration is not None],
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


def _row(metric: Metric, values: Sequence[float | None], *, primary: bool = False) -> Row | None:
    """A table row, or None if nothing was measured."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    best = (max(known) if metric.better > 0 else min(known)) if metric.better and len(set(known)) > 1 else None
    cells = tuple(Cell(_show(metric, value), value is not None and value == best) for value in values)
    change, mood = _change(metric, values[0], values[-1]) if len(values) > 1 else ("", "flat")
    return Row(metric.label, cells, change, mood, primary)


def _show(metric: Metric, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if metric.percent:
        return f"{value * 100:.1f} %"
    return _amount(value) if metric.name.startswith("capfilt/") else f"{value:.3f}"


def _change(metric: Metric, before: float | None, after: float | None) -> tuple[str, Literal["up", "down", "flat"]]:
    if before is None or after is None or not math.isfinite(after - before):
        return "", "flat"
    difference = after - before
    if metric.percent:
        text = f"{difference * 100:+.1f} pts"
    elif metric.name.startswith("capfilt/"):
        text = f"{difference:+,.0f}"
    else:
        text = f"{difference:+.3f}"
    if not metric.better or not any(digit in text for digit in "123456789"):
        return text, "flat"
    return text, "up" if difference * metric.better > 0 else "down"


def _tables(rounds: Sequence[RoundReport]) -> list[tuple[str, list[Row]]]:
    tables = []
    for title, metrics in TABLE:
        rows = [_row(m, [one.metrics.get(m.name) for one in rounds], primary=m.name in PRIMARY) for m in metrics]
        if shown := [row for row in rows if row is not None]:
            tables.append((title, shown))
    return tables


def _data_rows(passes: Sequence[CapfiltReport]) -> list[Row]:
    rows = (_row(metric, [one.metrics.get(metric.name) for one in passes]) for metric in DATA_TABLE)
    return [row for row in rows if row is not None]


class Tile(NamedTuple):
    """A figure at the top of the page."""

    label: str
    value: str
    note: str
    mood: Literal["up", "down", "flat"]


def _tiles(data: ReportData) -> list[Tile]:
    first, best = data.rounds[0], best_round(data.rounds)
    tiles = []
    for name, label in ((RECALL, "Retrieval, mean recall"), (CIDER, "Captioning, CIDEr")):
        if name in best.metrics:
            metric = Metric(name, label, name == RECALL)
            change, mood = _change(metric, first.metrics.get(name), best.metrics[name])
            note = f"{change} against round {first.round}" if best is not first and change else f"round {best.round}"
            tiles.append(Tile(label, _show(metric, best.metrics[name]), note, mood if best is not first else "flat"))
    if data.capfilt:
        metrics = data.capfilt[-1].metrics
        if "capfilt/noise_ratio_web" in metrics:
            tiles.append(
                Tile("Web texts rejected", number(metrics["capfilt/noise_ratio_web"], True), "as noise", "flat")
            )
        before, after = metrics.get("truth/web_true_before"), metrics.get("truth/web_true")
        if before is not None and after is not None:
            change, mood = _change(Metric("", "", True), before, after)
            tiles.append(Tile("Kept web texts that are right", number(after, True), f"{change} by the filter", mood))
    return tiles


# -------------------------------------------------------------------------------------------------------------- charts


def _progress_charts(rounds: Sequence[RoundReport]) -> list[tuple[str, Markup]]:
    """One chart per headline metric over the rounds; none for a single round."""
    if len(rounds) < 2:
        return []
    charts = []
    for title, name, percent in (
        ("Mean recall", RECALL, True),
        ("CIDEr", CIDER, False),
        ("BLEU-4", "eval/caption/bleu_4", False),
    ):
        points = tuple((float(one.round), one.metrics[name]) for one in rounds if name in one.metrics)
        chart = line_chart(
            title, [Series(label=title, points=points, colour=1)], x_label="round", percent=percent, rounds=True
        )
        if chart:
            charts.append((title, chart))
    return charts


class FilterCard(NamedTuple):
    """A round's filter: its chart, what its threshold gives, how it was chosen, and how it drifted."""

    round: int
    chart: Markup
    chosen: PurityPoint
    target: float | None
    reached: bool
    drift: str
    worse: bool


def _filter(one: RoundReport, calibration: Calibration) -> FilterCard:
    """Purity is drawn as far as right texts pass: behind the last of them there is nothing to be pure."""
    chosen = calibration.chosen
    points = sorted({*calibration.curve, chosen}, key=lambda point: point.threshold)
    purity = tuple((point.threshold, point.purity) for point in points if point.yield_share > 0)
    yields = tuple((point.threshold, point.yield_share) for point in points)
    lines = [Series(label="purity", points=purity, colour=1), Series(label="yield", points=yields, colour=2)]
    title = f"Purity and yield of the filter of round {one.round} by threshold"
    chart = line_chart(title, lines, x_label="threshold", percent=True, mark=chosen.threshold)
    return FilterCard(one.round, chart, chosen, calibration.target, calibration.reached, one.drift, one.drift_worse)


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
                charts.append((CURVES.get(loss, loss), chart))
        if charts:
            groups.append((STAGES.get(stage, stage), charts))
    return groups


def _losses_of(names: Sequence[str]) -> list[str]:
    """The curves worth a chart: the parts of the loss rather than their sum, the plain LM loss rather than the smoothed
    one (its floor is not 0), no learning rates and the like."""
    order = {loss: place for place, loss in enumerate(CURVES)}
    chosen = [name for name in names if name.partition("/")[2] in order]
    covered = {name.rpartition("/")[0] + "/loss_lm" for name in chosen if name.endswith("/nll_lm")}
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


def _amount(value: float) -> str:
    return f"{value:,.0f}"
