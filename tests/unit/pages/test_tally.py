"""What is counted of a pass's texts."""

from components.data.candidates import Candidate
from components.pages import tally as module
from components.pages.tally import LONGEST, Tally


def row(source, text, score, kept, outcome=None):
    return Candidate("k", "0" * 64, source, text, score, None, kept, "" if kept else "below_threshold", outcome=outcome)


def test_texts_are_counted_by_source_length_and_score():
    tally = Tally(None)
    rows = [
        row("web", "a dog", 0.0, False),
        row("synthetic", "a dog", 1.0, True, "ok"),
        row("synthetic", "a dog", 0.5, True, "ok"),
        row("synthetic", " ".join(["word"] * 200), 0.49, False, "cut"),
        row("synthetic", "", None, False, "empty"),
    ]
    assert list(tally.watch(rows)) == rows
    web, written = tally.texts
    assert (web.texts, web.kept, web.repeated, web.lengths) == (1, 0, (), {2: (0, 1)})
    assert (written.texts, written.kept, written.distinct) == (4, 2, 3)
    assert written.lengths == {0: (0, 1), 2: (2, 0), LONGEST: (0, 1)}
    assert {at: counts for at, counts in enumerate(written.scores) if any(counts)} == {
        19: (0, 1), 20: (1, 0), 39: (1, 0),
    }  # fmt: skip
    assert written.repeated == (("a dog", 2, 2),)
    assert tally.outcomes == {"cut": 1, "empty": 1}
    assert tally.dropped == {"below_threshold": 3}


def test_of_very_many_different_texts_the_commonest_are_remembered(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 8)
    tally = Tally(None)
    for number in range(40):
        list(tally.watch([row("synthetic", "often", 0.9, True), row("synthetic", f"text {number}", 0.9, True)]))
    (written,) = tally.texts
    assert written.repeated[0] == ("often", 40, 40)
    assert written.distinct is None
    assert written.texts == 80
