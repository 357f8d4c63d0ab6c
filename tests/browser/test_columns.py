"""The browser's columns say what the tables, `recut`, `diff` and `search` say, row by row."""

from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import capfilt
from components.common.errors import ConfigError, DataError
from components.common.storage import open_store
from components.data.candidates import Candidate, stored_candidates
from components.data.manifest import load_manifest
from components.data.versions.diff import diff
from components.data.web import import_web
from components.pages.browser.compare import Comparison
from components.pages.browser.marks import Caption, Marks, wilson
from components.pages.browser.state import Browser
from components.pages.browser.version import Version
from components.pages.browser.view import View, choose, sorts
from components.pages.browser.wording import fate
from components.regeneration.policy import Policy
from components.regeneration.recut import recut_dataset

SCORES = ["itm_probability", "itc_similarity"]


@pytest.fixture(scope="module")
def version(cut) -> Version:
    return Version(cut.before)


@pytest.fixture(scope="module")
def rows(cut) -> list[Candidate]:
    return all_rows(cut.before)


def all_rows(uri: str) -> list[Candidate]:
    shards = load_manifest(uri).shards
    return [row for entry in shards for row in stored_candidates(uri, entry.parquet).rows()]


def test_every_candidate_is_there_as_it_is_stored(version: Version, rows: list[Candidate]) -> None:
    assert len(version) == len(rows) and version.images == len({(row.key, row.image_sha256) for row in rows})
    assert list(version.scores) == SCORES and version.threshold == 0.5
    for at, row in enumerate(rows):
        assert version.text[at].as_py() == row.text and version.key(version.image[at]) == row.key
        assert version.kept[at] == row.kept and version.reason.names[version.reason.codes[at]] == row.reason
        assert version.source.names[version.source.codes[at]] == row.source
        score = version.scores["itm_probability"][at]
        assert (None if np.isnan(score) else score) == row.itm_probability
        assert at in version.rows_of(version.image[at])
        said = fate(version, at)
        assert said.startswith("Kept: its match") if row.kept else said.startswith(("Dropped: ", "Not judged: "))


def test_the_slider_keeps_what_recut_keeps(version: Version, rows: list[Candidate], cut, tmp_path: Path) -> None:
    scores = sorted({row.itm_probability for row in rows if row.itm_probability is not None})
    thresholds = [scores[len(scores) // 3], scores[-3]]  # exactly a score, which passes
    counts = set()
    for number, (threshold, policy) in enumerate(product(thresholds, get_args(Policy))):
        store = open_store(str(tmp_path / str(number)))
        made = recut_dataset(cut.before, threshold=threshold, policy=policy, store=store, name="c").dataset
        kept = version.what_if.kept(threshold, policy)
        assert kept.tolist() == [row.kept for row in all_rows(made.uri)], (threshold, policy)
        assert made.pairs == kept.sum() and made.images == len(np.unique(version.image[kept]))
        counts.add(int(kept.sum()))
    assert len(counts) > 3  # the cases differ


def test_filters_and_orders_are_those_of_a_loop(version: Version, rows: list[Candidate]) -> None:
    def chosen(**query: str) -> list[int]:
        return choose(version, View.parse(query, SCORES), None).tolist()

    def among(test) -> list[int]:
        return [at for at, row in enumerate(rows) if test(row)]

    def score(row: Candidate) -> float:
        return np.nan if row.itm_probability is None else row.itm_probability

    assert chosen() == list(range(len(rows)))
    assert chosen(source="web", kept="no") == among(lambda row: row.source == "web" and not row.kept)
    assert chosen(reason="duplicate") == among(lambda row: row.reason == "duplicate") != []
    narrow = among(lambda row: 0.2 <= score(row) <= 0.6)
    assert chosen(**{"itm_probability-min": "0.2", "itm_probability-max": "0.6"}) == narrow
    assert chosen(near="0.25") == among(lambda row: abs(score(row) - 0.5) <= 0.25)
    assert chosen(near="0.1", at="0.2") == among(lambda row: abs(score(row) - 0.2) <= 0.1)
    words = among(lambda row: 2 <= len(row.text.split()) <= 4)
    assert chosen(**{"words-min": "2", "words-max": "4"}) == words != []
    assert chosen(text="NUMBERED 1") == among(lambda row: "numbered" in row.text and "1" in row.text) != []
    assert chosen(text="evil") == among(lambda row: row.key == "evil" or "evil" in row.text) != []
    by_score = chosen(sort="high:itm_probability")
    known = [score(rows[at]) for at in by_score if score(rows[at]) == score(rows[at])]
    assert known == sorted(known, reverse=True) and sorted(by_score) == list(range(len(rows)))
    assert [len(rows[at].text.split()) for at in chosen(sort="short")] == sorted(len(row.text.split()) for row in rows)
    assert sorted(chosen(sort="random")) == list(range(len(rows))) != chosen(sort="random")
    assert chosen(at="0.1", change="gained", policy="keep_both") == [
        at for at, kept in enumerate(version.what_if.kept(0.1, "keep_both")) if kept and not rows[at].kept
    ]


def test_disagreement_is_the_difference_of_ranks(version: Version, rows: list[Candidate]) -> None:
    pairs = [(row.itm_probability, row.itc_similarity) for row in rows]
    scored = [pair for pair in pairs if None not in pair]

    def rank(value: float, side: int) -> float:
        below = sum(pair[side] < value for pair in scored)
        equal = sum(pair[side] == value for pair in scored)
        return (below + (equal - 1) / 2) / (len(scored) - 1)

    wanted = [np.nan if None in pair else abs(rank(pair[0], 0) - rank(pair[1], 1)) for pair in pairs]
    assert version.disagreement == pytest.approx(wanted, abs=1e-6, nan_ok=True)


def test_an_address_says_all_and_nothing_else() -> None:
    query = {"source": "web", "itc_similarity-min": "-0.5", "near": "0.05", "at": "0.123456789", "like": "3"}
    query |= {"sort": "low:itc_similarity", "page": "4", "policy": "replace", "text": "a & b", "words-max": "7"}
    view = View.parse({**query, "kept": "", "reason": " "}, SCORES)
    assert view.query() == query and View.parse(view.query(), SCORES) == view
    for name in sorts(SCORES):
        View.parse({"sort": name}, SCORES)
    wrong = [{"sort": "up"}, {"at": "nan"}, {"near": "x"}, {"page": "-1"}, {"like": "1.5"}, {"x": "1"}, {"policy": "p"}]
    for one in wrong:
        with pytest.raises(ConfigError, match=next(iter(one))):
            View.parse(one, SCORES)


def test_two_versions_differ_as_diff_says(cut, version: Version) -> None:
    for a, b in ((cut.before, cut.after), (cut.after, cut.before), (cut.before, cut.before)):
        said, counts = diff(a, b)["captions"], Comparison(Version(a), Version(b)).counts
        assert counts["in_both"] == said["in_both"] and counts["otherwise"] == said["decided_otherwise"]
        assert counts["added"] + counts["removed"] + counts["otherwise"] == said["only_in_a"] + said["only_in_b"]
    other = Version(cut.after)
    comparison = Comparison(version, other)
    for one in comparison.select("otherwise").tolist():
        before, after = comparison.before[one], comparison.after[one]
        assert version.text[before] == other.text[after] and version.kept[before] != other.kept[after]


def test_images_are_found_as_search_finds_them(cut, version: Version) -> None:
    hits = capfilt.search(cut.before, "a red ball", top=100)
    assert version.index.width == 16
    for hit in hits[:5]:
        image = version.find(hit["key"], hit["shard"])
        found = version.similarities(version.vector(image))
        assert np.nanargmax(found) == image and version.picture(image) is not None
    assert int((~np.isnan(found)).sum()) == len(hits)
    view = View(like=image)
    first = choose(version, view, found)[0]
    assert version.image[first] == image
    broken = version.find("cut")
    with pytest.raises(DataError, match="no stored vector"):
        version.vector(broken)


def test_words_bring_images_in_the_order_of_search(cut, version: Version, tmp_path: Path) -> None:
    text = next(one for one, kept in zip(version.text.to_pylist(), version.kept, strict=True) if kept and one)
    words = " ".join(text.split()[:2])
    browser = Browser([version], Marks(tmp_path / "marks.jsonl"), tmp_path)
    shown = [(card.shard, card.key) for card in browser.results(View(find=words)).cards]
    hits = capfilt.search(cut.before, words, top=100)
    order = list(dict.fromkeys(shown))  # of a page
    assert order and order == [(hit["shard"], hit["key"]) for hit in hits][: len(order)]
    assert any(one["says"] and one["kept"] for one in hits[0]["captions"])


def test_a_dataset_without_scores_is_looked_at_too(cut, tmp_path: Path) -> None:
    imported = import_web(str(cut.folder / "web"), store=open_store(str(tmp_path)), name="web")
    version = Version(imported.uri)
    assert version.scores == {} and version.threshold is None and not version.can_be_cut
    version.get_ready()
    browser = Browser([version], Marks(tmp_path / "marks.jsonl"), tmp_path)
    for query in ({}, {"sort": "near"}, {"sort": "disagree"}, {"kept": "yes", "at": "0.3", "change": "lost"}):
        view = View.parse(query, [])
        results = browser.results(view)
        assert (results.candidates, results.pages) == ((0, 1) if "change" in query else (66, 2))
    assert browser.histogram == "" and version.picture(0) is not None
    with pytest.raises(DataError, match="capfilt index"):
        browser.results(View(find="a ball"))


def test_marks_are_kept_and_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    marks = Marks(path)
    one, two = (Caption("d", "00000", "k", "web", text) for text in ("odd\u2028line", "two"))
    for caption, kept, right in ((one, True, True), (two, True, False), (two, True, True), (one, False, None)):
        marks.set(caption, kept=kept, right=right)
    again = Marks(path)
    assert again.get(one) is None and again.get(two) is True and len(path.read_text().split("\n")) == 5
    share = again.share("d", kept=True)
    assert share is not None and (share.right, share.marked) == (1, 1) and again.share("d", kept=False) is None
    assert again.share("other", kept=True) is None
    path.write_text('{"right": true}\n')
    with pytest.raises(DataError, match=r"marks.jsonl:1: .*--marks"):
        Marks(path)


def test_wilson_is_the_published_interval() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    for right, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, of) == pytest.approx((low, high), abs=5e-5)
