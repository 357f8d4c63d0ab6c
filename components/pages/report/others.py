"""Other bootstraps of the store beside this one: their figures, and in what they were asked otherwise."""

from typing import NamedTuple

from components.common.metrics import HEADLINES, metric
from components.pages.report.figures import show
from components.pages.report.wording import title
from components.pages.report_data import OtherBootstrap, ReportData
from components.pages.verdict import spoken_of

MOST = 12


class OtherCard(NamedTuple):
    """Another bootstrap, and its headline figures: label, there, here."""

    told: OtherBootstrap
    figures: list[tuple[str, str, str]]
    before: bool
    """whether it is the one that ended last before this one"""


def other_cards(data: ReportData) -> list[OtherCard]:
    """The newest others, the run before this one first."""
    here = spoken_of(data.rounds, data.champion).metrics if data.rounds else {}
    finished = data.finished
    before = next((one for one in data.others if finished is not None and one.finished <= finished), None)
    ordered = sorted(data.others, key=lambda one: one is not before)[:MOST]
    return [OtherCard(one, _figures(one, here), one is before) for one in ordered]


def _figures(one: OtherBootstrap, here: dict[str, float]) -> list[tuple[str, str, str]]:
    names = [name for name in HEADLINES if name in one.metrics or name in here]
    return [
        (title(metric(name)), show(metric(name), one.metrics.get(name)), show(metric(name), here.get(name)))
        for name in names
    ]
