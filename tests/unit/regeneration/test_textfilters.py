"""Filters of texts: what each keeps, what is refused, and that no text can make one slow."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from components.common.errors import ConfigError
from components.config import load_config
from components.regeneration.config import OUTPUT, CapfiltConfig
from components.regeneration.policy import Text
from components.regeneration.textfilters import TEXT_FILTERS, TextFilters, settled_filters, words_of


def problems(settings: dict[str, str | list[str]], *texts: str) -> list[str | None]:
    found = TextFilters(settled_filters(settings)).marked([Text("web", text) for text in texts])
    return [one.problem for one in found]


def test_lengths() -> None:
    texts = ("one", "one two", "one two three", "one two three four")
    assert problems({"words": "2..3"}, *texts) == ["filtered_words", None, None, "filtered_words"]
    assert problems({"words": "3.."}, *texts) == ["filtered_words"] * 2 + [None] * 2
    assert problems({"characters": "..7"}, *texts) == [None, None, "filtered_characters", "filtered_characters"]


def test_block_lists_find_words_and_phrases_whole() -> None:
    block: dict[str, str | list[str]] = {"block": ["Sale", "click here", "STRASSE", "ﬁne print"]}
    bad = ("on sale now", "SALE!", "Click, here", "die Straße", "the fine print")
    assert problems(block, *bad) == ["filtered_block"] * len(bad)
    good = ("a wholesale market", "click there", "here, click", "a fine day", "")
    assert problems(block, *good) == [None] * len(good)


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.lists(st.text("ab ", max_size=8), max_size=4), st.text("ab -", max_size=20))
def test_block_lists_find_what_plain_comparison_finds(terms: list[str], text: str) -> None:
    wanted = [one for term in terms if (one := " ".join(words_of(term)))]
    if not wanted:
        return
    padded = f" {' '.join(words_of(text))} "
    expected = any(f" {term} " in padded for term in wanted)
    assert (problems({"block": terms}, text) == ["filtered_block"]) == expected


def test_a_text_with_a_problem_keeps_it_and_the_first_filter_of_the_table_is_the_reason() -> None:
    filters = TextFilters(settled_filters({"block": ["spam"], "words": "3.."}))
    texts = [Text("web", "spam", problem="empty_text"), Text("synthetic", "spam")]
    assert [one.problem for one in filters.marked(texts)] == ["empty_text", "filtered_words"]


def test_a_list_is_read_from_its_file_and_only_its_words_decide(tmp_path: Path) -> None:
    digests = set()
    for name, text in (("a.txt", "\ufeff# ours\nSpam\n\nclick  here\n"), ("b.txt", "click here\nspam\nspam\n")):
        (tmp_path / name).write_text(text)
        config = CapfiltConfig(text_filters={"block": str(tmp_path / name)})
        assert config.text_filters == {"block": ["click here", "spam"]}
        digests.add(str(config.effective()))
        assert CapfiltConfig.model_validate(config.model_dump(mode="json")) == config
    assert len(digests) == 1 and str(tmp_path) not in digests.pop()
    assert "text_filters" not in CapfiltConfig().effective() and OUTPUT


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"length": "3"}, "there is no text filter 'length': there are language, words, characters, block"),
        ({"words": "3"}, "write e.g. 3..40"),
        ({"words": ".."}, "write e.g. 3..40"),
        ({"words": "9..3"}, "keeps nothing"),
        ({"block": "nowhere.txt"}, "no list of words"),
        ({"block": ["--", "# x"]}, "no word in it"),
        ({"language": "xx"}, "ISO 639-1"),
        ({"language": ["en"]}, "one word is needed"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, str | list[str]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CapfiltConfig(text_filters=settings)


def test_a_config_file_may_have_them(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("spam\n")
    given = ["capfilt.text_filters.words=3..40", f"capfilt.text_filters.block={tmp_path / 'terms.txt'}"]
    assert load_config(None, given).capfilt.text_filters == {"words": "3..40", "block": ["spam"]}
    with pytest.raises(ConfigError, match="there is no text filter"):
        load_config(None, ["capfilt.text_filters.speed=fast"])


def test_languages_that_stand_out_are_dropped_and_doubtful_ones_stay() -> None:
    english = ("a dog runs along the beach", "two people sit at a table in front of a window", "cat", "iphone 12", "42")
    others = ("ein Hund läuft am Strand entlang", "deux personnes sont assises à une table", "犬が浜辺を走る",
              "собака бежит по пляжу")  # fmt: skip
    assert problems({"language": "EN"}, *english, *others) == [None] * 5 + ["filtered_language"] * 4


def test_reasons_are_named_after_their_filters() -> None:
    assert {one.reason for one in TEXT_FILTERS.values()} == {f"filtered_{name}" for name in TEXT_FILTERS}
