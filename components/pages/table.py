"""The table of rounds: on a terminal, and as markdown for Prefect's and MLflow's pages."""

from collections.abc import Iterator, Sequence

from components.common.contracts import BootstrapResult, Comparison, Interval, RoundResult
from components.common.metrics import BASE_RECALL, OF_CAPFILT, VQA, Metric, change, meanings, metric
from components.common.programs import program
from components.common.progress import clock
from components.pages.verdict import certainty, verdict
from components.pages.views import QUESTIONS

SHOWN = (
    "eval/retrieval/mean_recall",
    "eval/retrieval/text_recall_at_1",
    "eval/retrieval/image_recall_at_1",
    "eval/caption/cider",
    "eval/caption/bleu_4",
    BASE_RECALL,
    VQA,
    "calibration/threshold",
    "calibration/purity",
    "calibration/yield",
    *OF_CAPFILT,
)
_LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` serves by itself
COMPARED_WITH = "changes: since round 0; of what CapFilt did, since its first pass"
Values = Sequence[float | None]


def print_result(result: BootstrapResult, pages: str = "") -> None:
    """The rounds side by side with their changes, the winner, and where to look, on stdout.

    Args:
        pages: the command that serves MLflow's and Prefect's pages of this bootstrap; empty where it is not known.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{result.name}: round 0 … {len(result.rounds) - 1}", title_justify="left")
    table.add_column("")
    for one in result.rounds:
        table.add_column(f"round {one.round}", justify="right")
        if one.round:
            table.add_column("change", justify="right")
    for entry, values in _rows(result.rounds):
        table.add_row(entry.label, *_rich_cells(entry, values, result.rounds))
    console.print(table)
    if sure := certainty(result.rounds):
        console.print(sure, soft_wrap=True)
    if len(result.rounds) > 2:
        console.print(COMPARED_WITH, soft_wrap=True)
    if words := meanings(name for one in result.rounds for name in one.metrics):
        console.print("; ".join(f"{word}: {meaning}" for word, meaning in words), soft_wrap=True)
    console.print(verdict(result.rounds, result.champion), soft_wrap=True)
    for one in result.rounds:
        if one.drift is not None and one.drift.worse:
            console.print(f"[yellow]warning:[/] round {one.round}: {one.drift.text}", soft_wrap=True)
    console.print(f"{result.outcome} ({'; '.join(result.reasons)})", soft_wrap=True)
    worked = [stage.seconds for stage in result.stages if not stage.cached]
    found = len(result.stages) - len(worked)
    console.print(f"stages: {len(worked)} worked in {clock(sum(worked))}, {found} found done")
    if result.report:
        console.print(f"report: {result.report}", soft_wrap=True)
    if pages:
        console.print(f"pages: {escape(pages)}   (MLflow and Prefect)", soft_wrap=True)
    for line in _mlflow_lines(result):
        console.print(line, soft_wrap=True, markup=False)


def _mlflow_lines(result: BootstrapResult) -> Iterator[str]:
    """Where MLflow shows it, by the question that a view answers."""
    if not result.mlflow_uri:
        return
    views = {QUESTIONS[key]: page for key, page in result.mlflow_views.items() if key in QUESTIONS}
    if not views:  # of an earlier release
        yield f"MLflow: {mlflow_words(result.mlflow_uri, result.mlflow_page or '')}"
        return
    served = result.mlflow_uri.startswith("http")
    root = result.mlflow_uri.rstrip("/") if served else _LOCAL
    yield f"MLflow: {root if served else f'{_command(result.mlflow_uri)}, then'}"
    width = max(map(len, views))
    for question, page in views.items():
        yield f"  {question:{width}}  {root}/{page}"


def _command(uri: str) -> str:
    return f"{program('mlflow')} ui --backend-store-uri {uri}"


def mlflow_words(uri: str, page: str) -> str:
    """Where the rounds are seen: an address, and before it, for a database file, the command that serves it."""
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/{page}"
    return f"{_command(uri)}, then {_LOCAL}/{page}"


def markdown_table(rounds: Sequence[RoundResult]) -> str:
    """The rounds side by side."""
    head = "| | " + " | ".join(f"round {one.round}" for one in rounds) + " |"
    lines = [head, "|---|" + "---:|" * len(rounds)]
    for entry, values in _rows(rounds):
        cells = [_markdown_cell(entry, values, at, one) for at, one in enumerate(rounds)]
        lines.append(f"| {entry.label} | {' | '.join(cells)} |")
    for note in (COMPARED_WITH if len(rounds) > 2 else "", certainty(rounds)):
        lines += ["", note] if note else []
    return "\n".join(lines)


def _rows(rounds: Sequence[RoundResult]) -> Iterator[tuple[Metric, Values]]:
    """What is shown and was measured in any round, each with its value per round."""
    for name in SHOWN:
        values = [one.metrics.get(name) for one in rounds]
        if any(value is not None for value in values):
            yield metric(name), values


def _rich_cells(entry: Metric, values: Values, rounds: Sequence[RoundResult]) -> list[str]:
    """Figures and changes, their intervals below them; what is within noise has no colour."""
    cells = []
    for at, one in enumerate(rounds):
        interval, weighed = _certainty(one, entry)
        cells.append(_value(entry, values[at]) + (f"\n[dim]{_between(interval)}[/]" if interval else ""))
        if at:
            moved, text = change(values, at) or 0.0, _change(entry, values, at)
            colour = "green" if moved * entry.better > 0 else "red"
            coloured = moved and entry.better and (weighed is None or weighed.verdict == "clear")
            text += f" {weighed.verdict}" if weighed else ""
            text = f"[{colour}]{text}[/]" if coloured else text
            cells.append(text + (f"\n[dim]{_signed(weighed.interval)}[/]" if weighed else ""))
    return cells


def _markdown_cell(entry: Metric, values: Values, at: int, one: RoundResult) -> str:
    interval, weighed = _certainty(one, entry)
    text = _change(entry, values, at)
    text += f", {_signed(weighed.interval)}: {weighed.verdict}" if weighed else ""
    return f"{_value(entry, values[at])}{f' [{_between(interval)}]' if interval else ''}{f' ({text})' if text else ''}"


def _certainty(one: RoundResult, entry: Metric) -> tuple[Interval | None, Comparison | None]:
    """The interval of a round's figure, and what its change since round 0 weighs."""
    known = one.uncertainty
    return (known.values.get(entry.name), known.changes.get(entry.name)) if known is not None else (None, None)


def _between(interval: Interval) -> str:
    return f"{interval.low:.3f}–{interval.high:.3f}"


def _signed(interval: Interval) -> str:
    return f"{interval.low:+.3f} … {interval.high:+.3f}"


def _value(entry: Metric, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if entry.unit == "count" else f"{value:.4f}"


def _change(entry: Metric, values: Values, at: int) -> str:
    moved = change(values, at)
    if moved is None:
        return ""
    return f"{moved:+,.0f}" if entry.unit == "count" else f"{moved:+.4f}"
