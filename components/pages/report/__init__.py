"""The page of a bootstrap, or of CapFilt alone: one HTML file with all it needs, to be opened years later.

`ReportData` is what the flows fill in; `write_report` turns it into the page. Each section has a module that makes its
figures and drawings, and a template that lays them out.
"""

import math
from pathlib import Path
from typing import Any

from components.pages.filters import filter_card
from components.pages.report.cards import mistake_cards, pinned_cards, said_cards
from components.pages.report.curves import curve_groups, progress_charts
from components.pages.report.figures import data_rows, explained, tables_of
from components.pages.report.first import contents, headline, kept, sureness, tiles
from components.pages.report.others import other_cards
from components.pages.report.passes import kinds, losses, text_cards
from components.pages.report.sieve import sieve
from components.pages.report.stages import stage_bars
from components.pages.report.wording import amount, as_yaml, clock
from components.pages.report_data import CapfiltReport, Example, ExampleText, ReportData, RoundReport
from components.pages.verdict import gained, spoken_of, word

__all__ = ["CapfiltReport", "Example", "ExampleText", "ReportData", "RoundReport", "render_report", "write_report"]
_HERE = Path(__file__).parent


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, one self-contained HTML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(data), encoding="utf-8")


def render_report(data: ReportData) -> str:
    """The page as text."""
    from components.pages.templates import templates  # jinja2 comes with it

    environment = templates(_HERE / "templates", _HERE.parent)
    environment.filters |= {"clock": clock, "amount": amount}
    shown = {**_first(data), **_rounds(data), **_passes(data), **_rest(data)}
    return environment.get_template("page.html.j2").render(data=data, **shown)


def _first(data: ReportData) -> dict[str, Any]:
    """What stands on the first screen."""
    shown = spoken_of(data.rounds, data.champion) if data.rounds else None
    found = word(shown) if shown else None
    return {
        "headline": headline(data),
        "word": found,
        "word_mood": {"clear": "yes" if shown and gained(shown) else "no"}.get(found or "", ""),
        "sureness": sureness(data),
        "warnings": [(one.round, one.drift) for one in data.rounds if one.drift and one.drift_worse],
        "kept": kept(data.capfilt[-1]) if data.capfilt and data.rounds else "",
        "tiles": tiles(data),
        "contents": contents(data),
    }


def _rounds(data: ReportData) -> dict[str, Any]:
    """What is shown of rounds."""
    return {
        "tables": tables_of(data.rounds),
        "round_heads": [f"round {one.round}" for one in data.rounds],
        "progress_charts": progress_charts(data.rounds),
        "filters": [filter_card(one, one.calibration) for one in data.rounds if one.calibration is not None],
        "curve_groups": curve_groups(data.rounds),
        "said_cards": said_cards(data.captions) if data.captions else {},
    }


def _passes(data: ReportData) -> dict[str, Any]:
    """What is shown of CapFilt's passes."""
    last = data.capfilt[-1] if data.capfilt else None
    return {
        "last": last,
        "pass_heads": ["" if one.made_by is None else f"by round {one.made_by}" for one in data.capfilt],
        "data_rows": data_rows(data.capfilt),
        "explained": explained({name for one in data.capfilt for name in one.metrics}),
        "kinds": kinds(data.capfilt),
        "sieves": [drawn for one in data.capfilt if (drawn := sieve(one, data.human_pairs)) is not None],
        "text_cards": text_cards(data.capfilt),
        "pinned": pinned_cards(data.capfilt),
        "wrongly_kept": mistake_cards(last.wrongly_kept, last) if last else [],
        "wrongly_refused": mistake_cards(last.wrongly_refused, last) if last else [],
        "losses": losses(data.capfilt),
    }


def _rest(data: ReportData) -> dict[str, Any]:
    """Time, other bootstraps, settings."""
    return {
        "stages": stage_bars(data.stages),
        "seconds": math.fsum(stage.seconds for stage in data.stages),
        "cached": sum(stage.cached for stage in data.stages),
        "others": other_cards(data),
        "config": as_yaml(data.config),
    }
