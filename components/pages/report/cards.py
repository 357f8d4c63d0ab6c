"""Cards of images whose texts are followed through rounds: what each said, and where it flipped."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from components.pages.report.figures import Mood
from components.pages.report_data import CapfiltReport, CaptionedImage, CaptionRounds, Example, ExampleText, Told


class Flip(NamedTuple):
    """A change of what was decided, or of what is so."""

    words: str
    mood: Mood


class Step(NamedTuple):
    """A text of an image in one pass."""

    where: str
    text: ExampleText
    same: bool
    """the same words as one step before"""
    threshold: float | None
    flips: tuple[Flip, ...]


class Card(NamedTuple):
    """An image, and its texts pass by pass."""

    key: str
    image: str
    kind: str | None
    command: str
    steps: tuple[Step, ...]


def explain(dataset: str, key: str) -> str:
    """The command that says everything of a sample."""
    return f"capfilt dataset explain {shlex.quote(dataset)} {shlex.quote(key)}"


def pinned_cards(passes: Sequence[CapfiltReport]) -> list[Card]:
    """The images of the last pass, each text followed through all of them."""
    if not passes:
        return []
    return [_pinned(one, passes) for one in passes[-1].examples]


def _pinned(one: Example, passes: Sequence[CapfiltReport]) -> Card:
    found = [(part, example) for part in passes for example in part.examples if example.key == one.key]
    steps: list[Step] = []
    for place in _places(example for _, example in found):
        before: ExampleText | None = None
        for part, example in found:
            text = _at(example, place)
            if text is not None:
                where = "" if part.made_by is None or len(passes) == 1 else f"by round {part.made_by}"
                same = before is not None and before.text == text.text
                steps.append(Step(where, text, same, part.threshold, _flips(before, text)))
                before = text
    dataset = passes[-1].dataset
    return Card(one.key, one.image, one.kind, explain(dataset.uri, one.key) if dataset else "", tuple(steps))


Place = tuple[str, int]
"""Source of a text, and its number among the image's texts of that source."""


def _places(examples: Iterable[Example]) -> list[Place]:
    """All there are in any pass, the web's first."""
    places = {place for example in examples for place, _ in _numbered(example)}
    return sorted(places, key=lambda place: (place[0] != "web", place[1]))


def _numbered(example: Example) -> list[tuple[Place, ExampleText]]:
    seen: dict[str, int] = {}
    numbered: list[tuple[Place, ExampleText]] = []
    for text in example.texts:
        number = seen.get(text.source, 0)
        seen[text.source] = number + 1
        numbered.append(((text.source, number), text))
    return numbered


def _at(example: Example, place: Place) -> ExampleText | None:
    return dict(_numbered(example)).get(place)


def _flips(before: ExampleText | None, now: ExampleText) -> tuple[Flip, ...]:
    """What turned since the pass before: the filter's word, and whether what is said is so."""
    if before is None:
        return ()
    flips = []
    if before.kept != now.kept:
        flips.append(Flip("dropped → kept", "flat") if now.kept else Flip("kept → dropped", "flat"))
    return (*flips, *_turned(before.true, now.true))


def _turned(before: bool | None, now: bool | None) -> tuple[Flip, ...]:
    if before is None or now is None or before == now:
        return ()
    return (Flip("wrong → right", "up"),) if now else (Flip("right → wrong", "down"),)


def mistake_cards(examples: Sequence[Example], one: CapfiltReport) -> list[Card]:
    """Single texts that the filter got wrong."""
    uri = one.dataset.uri if one.dataset else ""
    return [
        Card(
            example.key,
            example.image,
            example.kind,
            explain(uri, example.key) if uri else "",
            tuple(Step("", text, False, one.threshold, ()) for text in example.texts),
        )
        for example in examples
    ]


class Saying(NamedTuple):
    """What a round says of a test image."""

    told: Told
    same: bool
    moved: float | None
    flips: tuple[Flip, ...]


class SaidCard(NamedTuple):
    """A test image, and what the rounds say of it."""

    image: CaptionedImage
    command: str
    sayings: tuple[Saying, ...]


def said_cards(captions: CaptionRounds) -> Mapping[str, list[SaidCard]]:
    """Cards by group: `won` and `lost` with the two rounds that are compared, `pinned` with all."""
    return {
        "won": [_said_card(one, captions, captions.rounds) for one in captions.won],
        "lost": [_said_card(one, captions, captions.rounds) for one in captions.lost],
        "pinned": [_said_card(one, captions, None) for one in captions.pinned],
    }


def _said_card(one: CaptionedImage, captions: CaptionRounds, rounds: Sequence[int] | None) -> SaidCard:
    sayings: list[Saying] = []
    before: Told | None = None
    for told in one.told:
        if rounds is None or told.round in rounds:
            moved = None if before is None else told.cider - before.cider
            same = before is not None and before.text == told.text
            sayings.append(Saying(told, same, moved, _said_otherwise(before, told)))
            before = told
    return SaidCard(one, explain(captions.dataset, one.key), tuple(sayings))


def _said_otherwise(before: Told | None, now: Told) -> tuple[Flip, ...]:
    """Flips of the caption's truth, and of whether the image's own text is found first."""
    if before is None:
        return ()
    flips = _turned(before.true, now.true)
    if before.rank is None or now.rank is None or (before.rank < 1) == (now.rank < 1):
        return flips
    found = Flip("text found first", "up") if now.rank < 1 else Flip("text no longer found first", "down")
    return (*flips, found)
