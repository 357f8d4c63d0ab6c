"""The table of rounds: on a terminal, and as markdown for Prefect's and MLflow's pages."""

from collections.abc import Sequence

from components.common.contracts import BootstrapResult, RoundResult
from components.common.progress import clock

# name, what it means in a few words, whether more is better (None: neither)
SHOWN: tuple[tuple[str, str, bool | None], ...] = (
    ("eval/retrieval/mean_recall", "retrieval, mean recall", True),
    ("eval/retrieval/text_recall_at_1", "image → text, recall at 1", True),
    ("eval/retrieval/image_recall_at_1", "text → image, recall at 1", True),
    ("eval/caption/cider", "captions, CIDEr", True),
    ("eval/caption/bleu_4", "captions, BLEU-4", True),
    ("capfilt/noise_ratio_web", "web texts rejected", None),
    ("capfilt/noise_ratio_synthetic", "synthetic texts rejected", None),
    ("capfilt/kept_pairs", "pairs kept by CapFilt", None),
    ("truth/web_true_before", "web texts true, before", None),
    ("truth/web_true", "web texts true, kept ones", True),
    ("truth/synthetic_true_before", "synthetic texts true, before", True),
    ("truth/synthetic_true", "synthetic texts true, kept ones", True),
    ("truth/pairs_true", "all kept texts true", True),
    ("truth/filter_precision", "filter precision", True),
    ("truth/filter_recall", "filter recall", True),
)
_COUNTS = frozenset({"capfilt/kept_pairs"})  # shown whole


def print_result(result: BootstrapResult) -> None:
    """The rounds side by side with their changes, the winner, and where to look, on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{result.name}: round 0 … {len(result.rounds) - 1}", title_justify="left")
    table.add_column("")
    for one in result.rounds:
        table.add_column(f"round {one.round}", justify="right")
        if one.round:
            table.add_column("change", justify="right")
    for name, label, better in SHOWN:
        values = [one.metrics.get(name) for one in result.rounds]
        if any(value is not None for value in values):
            table.add_row(label, *_rich_cells(name, values, better))
    console.print(table)
    console.print(f"champion: round {result.champion} ({'; '.join(result.reasons)})", soft_wrap=True)
    worked = [stage.seconds for stage in result.stages if not stage.cached]
    found = len(result.stages) - len(worked)
    console.print(f"stages: {len(worked)} worked in {clock(sum(worked))}, {found} found done")
    if result.report:
        console.print(f"report: {result.report}", soft_wrap=True)
    if result.mlflow_uri:
        console.print(f"MLflow: {mlflow_command(result.mlflow_uri)}   (run {result.mlflow_run})", soft_wrap=True)


def mlflow_command(uri: str) -> str:
    """What to do to see the runs: a command for a database file, else the server's address."""
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def markdown_table(rounds: Sequence[RoundResult]) -> str:
    """The rounds side by side."""
    head = "| | " + " | ".join(f"round {one.round}" for one in rounds) + " |"
    lines = [head, "|---|" + "---:|" * len(rounds)]
    for name, label, _ in SHOWN:
        values = [one.metrics.get(name) for one in rounds]
        if any(value is not None for value in values):
            cells = [_value(name, value) + _suffix(_change(name, values, index)) for index, value in enumerate(values)]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rich_cells(name: str, values: Sequence[float | None], better: bool | None) -> list[str]:
    cells = []
    for index, value in enumerate(values):
        cells.append(_value(name, value))
        if index:
            change = _change(name, values, index)
            colour = "green" if change and not change.startswith("-") else "red"
            cells.append(f"[{colour}]{change}[/]" if change and better else change)
    return cells


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if name in _COUNTS else f"{value:.4f}"


def _change(name: str, values: Sequence[float | None], index: int) -> str:
    value, before = values[index], values[index - 1] if index else None
    if value is None or before is None:
        return ""
    return f"{value - before:+,.0f}" if name in _COUNTS else f"{value - before:+.4f}"


def _suffix(change: str) -> str:
    return f" ({change})" if change else ""
