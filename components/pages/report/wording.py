"""Figures and times as the page words them."""

from collections.abc import Mapping
from typing import Any

from components.common.metrics import Metric


def clock(seconds: float) -> str:
    """`6.2 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def title(entry: Metric) -> str:
    """A metric's label at the beginning of a line."""
    return entry.label[0].upper() + entry.label[1:]


def amount(value: float) -> str:
    """A count."""
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """`48.1 %`, or `–` of nothing."""
    return f"{part / whole * 100:.1f} %" if whole else "–"


def as_yaml(config: Mapping[str, Any]) -> str:
    """Settings as a config file has them."""
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""
