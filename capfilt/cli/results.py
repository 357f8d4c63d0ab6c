"""What CapFilt did to a dataset, in words: the end of `regenerate`, and of `dataset recut`."""

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.text import Text

from capfilt.cli.tables import next_step, table
from components.common.contracts import CapfiltResult
from components.common.metrics import CATALOGUE, Metric, metric

_FIRST = (
    "images_in", "images_kept", "dropped", "failed", "kept_pairs", "kept_web", "kept_synthetic", "dropped_pairs",
    "noise_ratio_web", "noise_ratio_synthetic",
)  # fmt: skip
_OF = {
    **dict.fromkeys(("images_kept", "dropped", "failed"), ("images_in",)),
    **dict.fromkeys(("kept_pairs", "kept_web", "kept_synthetic", "dropped_pairs"), ("kept_pairs", "dropped_pairs")),
}
"""Of which counts together some are a share."""
_ORDER = {entry.name: at for at, entry in enumerate(CATALOGUE)}


def told(result: CapfiltResult, page: str | None = None) -> Iterator[RenderableType]:
    """Counts and shares in words, where the dataset and its page are, and what to do with it."""
    ref = result.dataset
    rows = list(_rows(result.metrics))
    yield table(("CapFilt", "figure", "share"), rows, right=["figure", "share"])
    yield ""
    yield Text(f"{ref.images:,} images with {ref.pairs:,} texts in {ref.uri}, version {ref.digest[:12]}")
    if page is not None:
        yield Text(f"report: {page}")
    yield next_step(("browse", ref.uri), ("dataset", "show", ref.uri))


def _rows(metrics: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    """Every figure by its name for people: what matters most first, the rest in the catalogue's order."""
    entries = [(name, metric(name)) for name in metrics]
    first = {f"capfilt/{name}": at for at, name in enumerate(_FIRST)}
    entries.sort(key=lambda one: (first.get(one[0], len(first)), _ORDER.get(one[1].name, len(_ORDER)), one[0]))
    for name, entry in entries:
        yield _label(name, entry), _figure(metrics[name], entry), _share(name, metrics)


def _label(name: str, entry: Metric) -> str:
    """A metric's words; one of a family says which it is."""
    start, family, _ = entry.name.partition("<")
    return f"{entry.label.partition(', by ')[0]}: {name[len(start) :].replace('_', ' ')}" if family else entry.label


def _figure(value: float, entry: Metric) -> str:
    if entry.unit == "share":
        return f"{value:.1%}"
    return f"{value:,.0f}" if entry.unit == "count" else f"{value:,.4g}"


def _share(name: str, metrics: Mapping[str, float]) -> str:
    """A count as a share of what it is a part of; empty where it is none."""
    whole = sum(metrics.get(f"capfilt/{one}", 0.0) for one in _OF.get(name.removeprefix("capfilt/"), ()))
    return f"{metrics[name] / whole:.1%}" if whole else ""
