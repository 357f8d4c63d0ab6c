"""Is a caption true of its scene? Reads the sample world's closed vocabulary, in any order a model may produce it.

A text is read as mentions (`a large red circle`), relations between neighbouring mentions, places, and a ground.
Mentions are matched with different things of the scene such that as few claims as possible are wrong.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from components.data.sampleworld import language
from components.data.sampleworld.scene import PLACES, Scene, Thing, holds

_MOST_MENTIONS = 4  # a scene holds three things at most: a fourth mention is wrong already


@dataclass(frozen=True)
class Judgement:
    """The judgement of one text: whether all it claims is true, how many claims it makes, and which are wrong.

    A thing that is not there is one entry of `wrong`, and as many `false` claims as were made of it.
    """

    true: bool
    claims: int
    wrong: tuple[str, ...]
    false: int

    @property
    def share(self) -> float | None:
        """Share of the claims that hold, 0..1; None for a text that claims nothing."""
        return 1 - self.false / self.claims if self.claims else None


@dataclass
class Mention:
    """One thing spoken of: attribute claims as (attribute, value) pairs, and the places claimed for it."""

    claims: set[tuple[str, str]] = field(default_factory=set)
    places: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many claims it makes."""
        return len(self.claims) + len(self.places)


@dataclass
class Reading:
    """A text as claims. `relations` are (index of first mention, relation, index of second)."""

    mentions: list[Mention] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    ground: set[tuple[str, str]] = field(default_factory=set)
    loose: list[tuple[str, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def judge_caption(scene: Scene, text: str) -> Judgement:
    """Whether everything a text claims is true of the scene; a text that names no thing is not true."""
    reading = read_caption(text)
    wrong = [f"{name}={value}" for name, value in sorted(reading.ground) if getattr(scene, name, None) != value]
    wrong += [value for name, value in reading.loose if not _somewhere(scene, name, value)]
    wrong += reading.foreign
    surplus = reading.mentions[_MOST_MENTIONS:]
    of_things = [(_spoken(mention), mention.size) for mention in surplus] + _best_match(scene, reading)
    false = len(wrong) + sum(claims for _, claims in of_things)
    wrong += [words for words, _ in of_things]
    named = sum(mention.size for mention in reading.mentions)
    others = len(reading.relations) + len(reading.ground) + len(reading.loose) + len(reading.foreign)
    return Judgement(bool(reading.mentions) and not wrong, named + others, tuple(wrong), false)


def read_caption(text: str) -> Reading:
    """Take a text apart. Words outside the vocabulary are skipped."""
    reader = _Reader()
    for token in _tokens(text):
        reader.take(token)
    return reader.finish()


def _somewhere(scene: Scene, name: str, value: str) -> bool:
    """Attributes without a noun (`red , dotted`) are true if anything in the picture has them."""
    if name == "pattern" or (name == "colour" and value == scene.ground):
        return value in (scene.pattern, scene.ground)
    return any(getattr(thing, name) == value for thing in scene.things)


def _spoken(mention: Mention) -> str:
    return " ".join(value for _, value in sorted(mention.claims)) or "thing"


def _best_match(scene: Scene, reading: Reading) -> list[tuple[str, int]]:
    """What is wrong, and how many claims that is, under the kindest assignment of mentions to different things (-1: no
    thing left for it): the one with fewest things wrong, then with fewest claims."""
    mentions = reading.mentions[:_MOST_MENTIONS]
    best: list[tuple[str, int]] | None = None
    for owners in _assignments(len(mentions), len(scene.things)):
        wrong = list(_wrong_claims(scene.things, mentions, reading.relations, owners))
        if best is None or _badness(wrong) < _badness(best):
            best = wrong
        if not best:
            break
    return best or []


def _badness(wrong: list[tuple[str, int]]) -> tuple[int, int]:
    return len(wrong), sum(claims for _, claims in wrong)


def _assignments(mentions: int, things: int) -> Iterator[tuple[int, ...]]:
    spare = max(0, mentions - things)
    yield from itertools.permutations((*range(things), *[-1] * spare), mentions)


def _wrong_claims(
    things: tuple[Thing, ...], mentions: list[Mention], relations: list[tuple[int, str, int]], owners: tuple[int, ...]
) -> Iterator[tuple[str, int]]:
    """What is wrong under one assignment, each with the number of claims it stands for."""
    for mention, owner in zip(mentions, owners, strict=True):
        if owner < 0:
            yield _spoken(mention), mention.size
            continue
        yield from ((value, 1) for name, value in sorted(mention.claims) if not _has(things[owner], name, value))
        yield from ((f"place={place}", 1) for place in mention.places if not _placed(things[owner], place))
    for first, relation, second in relations:
        inside = max(first, second) < len(owners) and min(owners[first], owners[second]) >= 0
        if not inside or not holds(relation, things[owners[first]], things[owners[second]]):
            yield relation, 1


def _has(thing: Thing, name: str, value: str) -> bool:
    return name == "thing" or getattr(thing, name, None) == value


def _placed(thing: Thing, place: str) -> bool:
    """`left` is true of everything in the left third, `top left` only of that corner."""
    return thing.place == place or (" " not in place and place in thing.place.split())


class _Reader:
    """Collects claims token by token. Attributes wait until a noun says what they belong to."""

    def __init__(self) -> None:
        self.reading = Reading()
        self.waiting: list[tuple[str, str]] = []
        self.number = 0  # a number word, until a noun takes it
        self.relation = ""
        self.last: list[int] = []  # mentions of the last noun: two after `two circles`

    def take(self, token: tuple[str, str]) -> None:
        kind, value = token
        if kind in ("colour", "size", "texture", "pattern"):
            self.waiting.append(token)
        elif kind == "number":
            self.number = int(value)
        elif kind in ("shape", "shapes", "thing", "things"):
            self._mention(kind, value)
        elif kind == "groundword":
            self.reading.ground.update(("ground" if name == "colour" else name, value) for name, value in self.waiting)
            self.waiting, self.number, self.relation = [], 0, ""
        elif kind == "relation":
            self.relation = value
        elif kind == "place" and self.last:
            self.reading.mentions[self.last[-1]].places.append(value)
        elif kind == "foreign":
            self.reading.foreign.append(value)
            self.waiting, self.number = [], 0
        elif kind == "break":
            self._let_go()

    def finish(self) -> Reading:
        self._let_go()
        if self.relation in ("inside", "around") and len(self.reading.mentions) >= 2:
            self._relate(self.last, [self.last[0] - 1])  # `a circle with a star inside`
        return self.reading

    def _let_go(self) -> None:
        self.reading.loose.extend(self.waiting)
        self.waiting, self.number = [], 0

    def _mention(self, kind: str, value: str) -> None:
        many = kind.endswith("s")
        count = max(self.number, 2) if many else max(self.number, 1)
        claims = {*self.waiting, (kind.rstrip("s"), value)}
        start = len(self.reading.mentions)
        fresh = list(range(start, start + min(count, _MOST_MENTIONS + 1)))
        self.reading.mentions.extend(Mention(set(claims)) for _ in fresh)
        if self.relation and self.last:
            self._relate(self.last, fresh)
        self.last, self.waiting, self.number, self.relation = fresh, [], 0, ""

    def _relate(self, first: list[int], second: list[int]) -> None:
        self.reading.relations.extend((one, self.relation, other) for one in first for other in second)
        self.relation = ""


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for found in _pattern().finditer(text.lower().replace("_", " ")):
        token = _lexicon().get(" ".join(found.group().split()))
        if token:
            yield token


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """Longest entries first, so that `left of` wins over `left`; other words are matched and skipped."""
    entries = sorted(_lexicon(), key=len, reverse=True)
    words = "|".join(r"\s+".join(re.escape(part) for part in entry.split()) for entry in entries if entry[0].isalpha())
    return re.compile(rf"\b(?:{words})\b|[a-z]+|[,|.:;!()&/+-]")


@lru_cache(maxsize=1)
def _lexicon() -> dict[str, tuple[str, str]]:
    """Every word or phrase of the world -> (kind, value)."""
    table: dict[str, tuple[str, str]] = {}
    groups = (
        ("shape", language.SHAPE_WORDS),
        ("colour", language.COLOUR_WORDS),
        ("size", language.SIZE_WORDS),
        ("texture", language.TEXTURE_WORDS),
        ("pattern", language.PATTERN_WORDS),
        ("relation", language.RELATION_WORDS),
    )
    for kind, words in groups:
        table.update({entry: (kind, value) for value, entries in words.items() for entry in entries})
    for value, entries in language.SHAPE_WORDS.items():
        table.update({language.plural(entry): ("shapes", value) for entry in entries})
    table.update(dict.fromkeys(language.GROUND_WORDS, ("groundword", "ground")))
    table.update({"shape": ("thing", "thing"), "shapes": ("things", "thing")})
    table.update({entry: ("foreign", entry) for entry in language.FOREIGN_NOUNS})
    table.update({"one": ("number", "1"), "two": ("number", "2"), "three": ("number", "3"), "four": ("number", "4")})
    table.update(dict.fromkeys(("in a", "in an", "in the"), ("relation", "inside")))
    table.update({mark: ("break", mark) for mark in ",|.:;!()&/+-"})
    table.update(dict(_place_entries()))
    return table


def _place_entries() -> Iterator[tuple[str, tuple[str, str]]]:
    for place in PLACES:
        yield from ((entry, ("place", place)) for entry in language.PLACE_WORDS[place])
