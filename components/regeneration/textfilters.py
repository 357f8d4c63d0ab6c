"""Filters of texts by the text alone, before any scorer is asked: one table, and a row is all that a new one needs.

| name         | setting                           | drops as              | what stays                   |
|--------------|-----------------------------------|-----------------------|------------------------------|
| `language`   | ISO 639-1 code, `en`              | `filtered_language`   | what may be in that language |
| `words`      | `3..40`, `3..` or `..40`          | `filtered_words`      | as many words                |
| `characters` | the same                          | `filtered_characters` | as many characters           |
| `block`      | a file, or a list, of terms       | `filtered_block`      | what has none of them        |

They apply to web texts and to synthetic ones alike, in the order of the table; the first that drops a text is its
reason. A list of words is read when a config is made, so that its words, and not where they lay, decide.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from components.common.errors import StorageError
from components.common.storage import normalise_uri, open_store, split_uri
from components.regeneration.language import check_language, language_engine, speaks
from components.regeneration.policy import Text

Setting = str | list[str]
Keeps = Callable[[str], bool]
"""Whether a text stays."""

_RANGE = re.compile(r"(?P<low>\d{1,6})?\.\.(?P<high>\d{1,6})?")
_WORD = re.compile(r"\w+")
_LONGEST = 12  # words of a phrase
_MOST = 20_000  # terms: they stand in the plan and the manifest


class TextFilter(NamedTuple):
    """A kind of filter."""

    name: str
    settled: Callable[[Setting], Setting]
    """The setting as it is kept in a config, checked; ValueError where it is none."""
    opened: Callable[[Setting], Keeps]
    """The filter of a settled setting."""
    engine: Callable[[], dict[str, str]] = dict
    """What decides besides: versions of libraries."""

    @property
    def reason(self) -> str:
        """Why a text was dropped."""
        return f"filtered_{self.name}"


def _plain(setting: Setting) -> str:
    if not isinstance(setting, str):
        raise ValueError(f"{setting!r} is a list, and one word is needed")
    return setting.strip()


def _settled_range(setting: Setting) -> str:
    """`LOW..HIGH`, one of which may be left out."""
    text = _plain(setting)
    match = _RANGE.fullmatch(text)
    if match is None or not (match["low"] or match["high"]):
        raise ValueError(f"{text!r} is no range: write e.g. 3..40, 3.. or ..40")
    if match["low"] and match["high"] and int(match["low"]) > int(match["high"]):
        raise ValueError(f"{text!r} keeps nothing: its first number is the larger one")
    return text


def _within(setting: Setting, count: Callable[[str], int]) -> Keeps:
    low, _, high = _plain(setting).partition("..")
    least, most = int(low or 0), int(high) if high else None
    return lambda text: least <= count(text) and (most is None or count(text) <= most)


def words_of(text: str) -> list[str]:
    """The words of a text, as lists of words are compared: letters alike in form and case."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _settled_block(setting: Setting) -> list[str]:
    """The terms, from a list or a file with one a line, each once; empty lines and those that begin with # are none."""
    lines = _lines(setting) if isinstance(setting, str) else setting
    terms = sorted({" ".join(words_of(line)) for line in lines if not line.lstrip().startswith("#")} - {""})
    if not terms:
        raise ValueError(f"{setting!r} has no word in it: give one word or phrase a line")
    if long := next((term for term in terms if len(term.split()) > _LONGEST), None):
        raise ValueError(f"{long!r} is longer than a phrase: {_LONGEST} words at most")
    if len(terms) > _MOST:
        raise ValueError(f"a list of {len(terms)} terms is too long: {_MOST} at most")
    return terms


def _lines(uri: str) -> list[str]:
    try:
        folder, name = split_uri(normalise_uri(uri))
        return open_store(folder).read(name).decode("utf-8-sig").splitlines()
    except (StorageError, UnicodeDecodeError) as error:
        raise ValueError(f"{uri} is no list of words: {error}; give a text file in UTF-8, one a line") from error


def _without(setting: Setting) -> Keeps:
    """Whether a text has none of the terms: looked up word by word, so that no text and no term can make it slow."""
    terms = frozenset(tuple(term.split()) for term in setting)
    sizes = sorted({len(term) for term in terms})

    def keeps(text: str) -> bool:
        words = words_of(text)
        return not any(tuple(words[at : at + size]) in terms for size in sizes for at in range(len(words) - size + 1))

    return keeps


TEXT_FILTERS: dict[str, TextFilter] = {
    one.name: one
    for one in (
        TextFilter(
            "language", lambda code: check_language(_plain(code)), lambda code: speaks(_plain(code)), language_engine
        ),
        TextFilter("words", _settled_range, lambda given: _within(given, lambda text: len(text.split()))),
        TextFilter("characters", _settled_range, lambda given: _within(given, len)),
        TextFilter("block", _settled_block, _without),
    )
}
"""All filters by name."""

FILTERED = frozenset(one.reason for one in TEXT_FILTERS.values())
"""Reasons of texts that a filter dropped."""


def settled_filters(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings, checked, files read, in the order in which they apply.

    Raises:
        ValueError: there is no such filter, or the setting is none.
    """
    for name in settings:
        if name not in TEXT_FILTERS:
            raise ValueError(f"there is no text filter {name!r}: there are {', '.join(TEXT_FILTERS)}")
    return {name: _named(name, settings[name]) for name in TEXT_FILTERS if name in settings}


def _named(name: str, setting: Setting) -> Setting:
    try:
        return TEXT_FILTERS[name].settled(setting)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def filter_engines(settings: Mapping[str, Setting]) -> dict[str, dict[str, str]]:
    """What decides besides the settings, by a role for the plan."""
    engines = {f"text_filter:{name}": TEXT_FILTERS[name].engine() for name in settings}
    return {role: engine for role, engine in engines.items() if engine}


class TextFilters:
    """The filters of a run.

    Args:
        settings: settled ones, by name, in the order in which they apply.
    """

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self._filters: Sequence[tuple[str, Keeps]] = [
            (TEXT_FILTERS[name].reason, TEXT_FILTERS[name].opened(setting)) for name, setting in settings.items()
        ]

    def marked(self, texts: Sequence[Text]) -> list[Text]:
        """The texts of an image; one that is dropped says why in its `problem`, unless it had one before."""
        if not self._filters:
            return list(texts)
        return [one if one.problem else one._replace(problem=self._problem(one.text)) for one in texts]

    def _problem(self, text: str) -> str | None:
        return next((reason for reason, keeps in self._filters if not keeps(text)), None)
