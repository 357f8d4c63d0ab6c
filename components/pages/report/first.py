"""The first screen: the outcome in a sentence, the figures it is about, what was kept, and the page's contents."""

from typing import NamedTuple

from components.common.metrics import HEADLINES, change, metric
from components.pages.charts import number
from components.pages.report.figures import Mood, show, worded
from components.pages.report.wording import amount, share, title
from components.pages.report_data import CapfiltReport, ReportData
from components.pages.verdict import certainty, spoken_of, verdict


class Tile(NamedTuple):
    """A figure at the top of the page."""

    label: str
    value: str
    note: str
    mood: Mood


def headline(data: ReportData) -> str:
    """The outcome in one sentence: which round is better, or without rounds what was kept."""
    if data.rounds:
        return verdict(data.rounds, data.champion)
    return kept(data.capfilt[-1]) if data.capfilt else "Nothing was done."


def sureness(data: ReportData) -> str:
    """What the intervals say, beside the verdict."""
    words = certainty(data.rounds)
    return f"{words[0].upper()}{words[1:]}." if words else ""


def kept(one: CapfiltReport) -> str:
    """What a pass left of the web's texts and of the written ones."""
    names = {"web": "web texts", "synthetic": "written captions"}
    parts = [
        f"{amount(texts.kept)} of {amount(texts.texts)} {names[texts.source]} ({share(texts.kept, texts.texts)})"
        for texts in one.texts
    ]
    if not parts:
        return "Kept: nothing, for there was no text."
    images = f" over {amount(one.dataset.images)} of {amount(one.images_in)} images" if one.dataset else ""
    return f"Kept {' and '.join(parts)}: {amount(one.pairs)} pairs{images}."


def tiles(data: ReportData) -> list[Tile]:
    """The headline figures, with their changes."""
    return [*_of_rounds(data), *_of_data(data)]


def _of_rounds(data: ReportData) -> list[Tile]:
    if not data.rounds:
        return []
    first, best = data.rounds[0], spoken_of(data.rounds, data.champion)
    weighed = best.uncertainty.changes if best.uncertainty else {}
    found = []
    for name in HEADLINES:
        if name in best.metrics:
            entry = metric(name)
            words, mood = worded(entry, change([first.metrics.get(name), best.metrics[name]], 1), weighed.get(name))
            told = f", {weighed[name].verdict}" if name in weighed else ""
            compared = best is not first and words
            note = f"{words} against round {first.round}{told}" if compared else f"round {best.round}"
            found.append(Tile(title(entry), show(entry, best.metrics[name]), note, mood if compared else "flat"))
    return found


def _of_data(data: ReportData) -> list[Tile]:
    if not data.capfilt:
        return []
    metrics, found = data.capfilt[-1].metrics, []
    for name, note in (("capfilt/noise_ratio_web", "as noise"), ("capfilt/noise_ratio_synthetic", "by the filter")):
        if name in metrics and (name.endswith("web") or not data.rounds):
            found.append(Tile(title(metric(name)), number(metrics[name], True), note, "flat"))
    before, after = metrics.get("truth/web_true_before"), metrics.get("truth/web_true")
    if before is not None and after is not None:
        entry = metric("truth/web_true")
        words, mood = worded(entry, change([before, after], 1))
        found.append(Tile(title(entry), number(after, True), f"{words} by the filter", mood))
    return found


def contents(data: ReportData) -> list[tuple[str, str]]:
    """(anchor, words) of the sections that the page has."""
    last = data.capfilt[-1] if data.capfilt else None
    captions = data.captions
    wanted: list[tuple[str, str, object]] = [
        ("rounds", "Rounds", any(one.metrics for one in data.rounds)),
        ("filter", "Filter", any(one.calibration for one in data.rounds)),
        ("data", "Web data", last),
        ("texts", "Texts", last and last.texts),
        ("images", "Web images", last and last.examples),
        ("mistakes", "Mistakes", last and (last.wrongly_kept or last.wrongly_refused)),
        ("captions", "Test captions", captions),
        ("lost", "Left out", any(one.dropped or one.failed or one.outcomes for one in data.capfilt)),
        ("curves", "Training", any(one.curves for one in data.rounds)),
        ("time", "Time", data.stages),
        ("others", "Other bootstraps", data.others),
        ("lineage", "Lineage", True),
    ]
    return [(anchor, words) for anchor, words, there in wanted if there]
