"""The table of rounds: on a terminal, and as markdown for Prefect's and MLflow's pages."""

from collections.abc import Sequence

from components.common.contracts import BootstrapResult, RoundResult
from components.common.programs import program
from components.common.progress import clock

# name, what it means in a few words, whether more is better (None: neither)
SHOWN: tuple[tuple[str, str, bool | None], ...] = (
    ("eval/retrieval/mean_recall", "retrieval, mean recall", True),
    ("eval/retrieval/text_recall_at_1", "image → text, recall at 1", True),
    ("eval/retrieval/image_recall_at_1", "text → image, recall at 1", True),
    ("eval/caption/cider", "captions, CIDEr", True),
    ("eval/caption/bleu_4", "captions, BLEU-4", True),
    ("calibration/threshold", "filter, threshold", None),
    ("calibration/purity", "filter, purity on human captions", True),
    ("calibration/yield", "filter, yield on human captions", True),
    ("capfilt/noise_ratio_web", "web texts rejected", None),
    ("capfilt/noise_ratio_synthetic", "synthetic texts rejected", None),
    ("capfilt/kept_pairs", "pairs kept by CapFilt", None),
    ("truth/web_true_before", "web texts true, before", None),
    ("truth/web_true", "web texts true, kept ones", True),
    ("truth/synthetic_true_before", "synthetic texts true, before", True),
    ("truth/synthetic_true", "synthetic texts true, kept ones", True),
    ("truth/web_facts_right_before", "facts right in web texts, before", None),
    ("truth/web_facts_right", "facts right in web texts, kept ones", True),
    ("truth/synthetic_facts_right_before", "facts right in synthetic texts, before", True),
    ("truth/synthetic_facts_right", "facts right in synthetic texts, kept", True),
    ("truth/facts_right_by_chance", "facts right by chance", None),
    ("truth/pairs_true", "all kept texts true", True),
    ("truth/filter_precision", "filter precision", True),
    ("truth/filter_recall", "filter recall", True),
)
COUNTS = ("capfilt/kept_pairs",)
EXPLAINED = (
    "true: everything a text says fits its image; facts right: the share of what it says (a colour, a shape, "
    "a place …) that does; by chance: the same captions under other images"
)


def print_result(result: BootstrapResult, pages: str) -> None:
    """The rounds side by side with their changes, the winner, and where to look, on stdout.

    Args:
        pages: the command that serves MLflow's and Prefect's pages of this bootstrap.
    """
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
            table.add_row(label, *_rich_cells(values, better, count=name in COUNTS))
    console.print(table)
    if any("truth/synthetic_facts_right" in one.metrics for one in result.rounds):
        console.print(EXPLAINED, soft_wrap=True)
    console.print(f"champion: round {result.champion} ({'; '.join(result.reasons)})", soft_wrap=True)
    worked = [stage.seconds for stage in result.stages if not stage.cached]
    found = len(result.stages) - len(worked)
    console.print(f"stages: {len(worked)} worked in {clock(sum(worked))}, {found} found done")
    if result.report:
        console.print(f"report: {result.report}", soft_wrap=True)
    console.print(f"pages: {pages}   (MLflow and Prefect)", soft_wrap=True)
    if result.mlflow_uri:
        console.print(f"MLflow: {mlflow_words(result.mlflow_uri, result.mlflow_page or '')}", soft_wrap=True)


def mlflow_words(uri: str, page: str) -> str:
    """Where the rounds are seen: an address, and before it, for a database file, the command that serves it."""
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/{page}"
    return f"{program('mlflow')} ui --backend-store-uri {uri}, then http://127.0.0.1:5000/{page}"


def markdown_table(rounds: Sequence[RoundResult]) -> str:
    """The rounds side by side."""
    head = "| | " + " | ".join(f"round {one.round}" for one in rounds) + " |"
    lines = [head, "|---|" + "---:|" * len(rounds)]
    for name, label, _ in SHOWN:
        values = [one.metrics.get(name) for one in rounds]
        if any(value is not None for value in values):
            count = name in COUNTS
            cells = [_value(value, count) + _suffix(_change(values, at, count)) for at, value in enumerate(values)]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rich_cells(values: Sequence[float | None], better: bool | None, *, count: bool) -> list[str]:
    cells = []
    for index, value in enumerate(values):
        cells.append(_value(value, count))
        if index:
            change = _change(values, index, count)
            colour = "green" if change and not change.startswith("-") else "red"
            cells.append(f"[{colour}]{change}[/]" if change and better else change)
    return cells


def _value(value: float | None, count: bool) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if count else f"{value:.4f}"


def _change(values: Sequence[float | None], index: int, count: bool) -> str:
    value, before = values[index], values[index - 1] if index else None
    if value is None or before is None:
        return ""
    return f"{value - before:+,.0f}" if count else f"{value - before:+.4f}"


def _suffix(change: str) -> str:
    return f" ({change})" if change else ""
