"""Questions about sample-world pictures, with the answers of ten annotators each: made of the scenes alone.

Nothing that learns to caption reads them. They are the plain list that `components.data.vqa` imports:

    [{"image": "train_000001.jpg", "question_id": 0, "question": …, "answers": [ten texts], "kind": "colour"}]
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from components.common.seeding import key_seed
from components.data.sampleworld.config import SampleWorldConfig
from components.data.sampleworld.language import COLOUR_WORDS, RELATION_WORDS, SHAPE_WORDS, plural, word
from components.data.sampleworld.scene import COLOURS, SHAPES, Scene, Thing, relation_between
from components.data.sampleworld.world import human_scenes

REVISION = 1  # counts changes of what a config's questions are
ANNOTATORS = 10
KINDS = ("colour", "count", "shape", "place", "yes/no", "relation")

_NUMBERS = {0: ("zero", "none", "0"), 1: ("one", "1"), 2: ("two", "2"), 3: ("three", "3")}
_PLACES = {
    "top left": ("top left", "upper left"),
    "top": ("top",),
    "top right": ("top right", "upper right"),
    "left": ("left",),
    "middle": ("middle", "center"),
    "right": ("right",),
    "bottom left": ("bottom left", "lower left"),
    "bottom": ("bottom",),
    "bottom right": ("bottom right", "lower right"),
}
_RELATIONS = {
    "left": ("left",),
    "right": ("right",),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "inside": ("inside", "within"),
    "around": ("around",),
}
_NEGATED = 0.5  # share of yes/no questions about something that is not there


class Asked(NamedTuple):
    """A question and the words that its answer goes by, the commonest first."""

    question: str
    answers: tuple[str, ...]


def world_questions(config: SampleWorldConfig, split: str) -> list[dict[str, Any]]:
    """All questions about the human pictures of a split; equal configs give equal questions."""
    rows: list[dict[str, Any]] = []
    for name, scene in human_scenes(config, split):
        rng = random.Random(key_seed("sample-world-questions", config.seed, name))
        for kind, asked in scene_questions(scene, rng):
            answers = [word(asked.answers, rng) for _ in range(ANNOTATORS)]
            row = {
                "image": name,
                "question_id": len(rows),
                "question": asked.question,
                "answers": answers,
                "kind": kind,
            }
            rows.append(row)
    return rows


def scene_questions(scene: Scene, rng: random.Random) -> Iterator[tuple[str, Asked]]:
    """A question of every kind that has one right answer in this scene, by its kind."""
    makers = (_colour, _count, _shape, _place, _whether, _relation)
    for kind, make in zip(KINDS, makers, strict=True):
        if (asked := make(scene, rng)) is not None:
            yield kind, asked


def _colour(scene: Scene, rng: random.Random) -> Asked | None:
    thing = _one(scene, rng, lambda one, other: one.shape != other.shape)
    return (
        None if thing is None else Asked(f"what colour is the {_shape_word(thing, rng)} ?", COLOUR_WORDS[thing.colour])
    )


def _shape(scene: Scene, rng: random.Random) -> Asked | None:
    thing = _one(scene, rng, lambda one, other: one.colour != other.colour)
    return (
        None
        if thing is None
        else Asked(f"what shape is the {_colour_word(thing, rng)} thing ?", SHAPE_WORDS[thing.shape])
    )


def _place(scene: Scene, rng: random.Random) -> Asked | None:
    thing = _one(scene, rng, _differ)
    return None if thing is None else Asked(f"where is the {_named(thing, rng)} ?", _PLACES[thing.place])


def _count(scene: Scene, rng: random.Random) -> Asked:
    if rng.random() < 0.5:
        return Asked("how many shapes are there ?", _NUMBERS[len(scene.things)])
    shape = rng.choice(scene.things).shape if rng.random() < 0.7 else rng.choice(SHAPES)
    count = sum(thing.shape == shape for thing in scene.things)
    return Asked(f"how many {plural(word(SHAPE_WORDS[shape], rng))} are there ?", _NUMBERS[count])


def _whether(scene: Scene, rng: random.Random) -> Asked:
    """Whether there is a thing: one of the scene's, or one that differs from one of them in colour or shape."""
    thing = rng.choice(scene.things)
    shape, colour = thing.shape, thing.colour
    if rng.random() < _NEGATED:
        if rng.random() < 0.5:
            shape = rng.choice(SHAPES)
        else:
            colour = rng.choice(COLOURS)
    there = any((one.shape, one.colour) == (shape, colour) for one in scene.things)
    colour_word, shape_word = word(COLOUR_WORDS[colour], rng), word(SHAPE_WORDS[shape], rng)
    article = "an" if colour_word[0] in "aeiou" else "a"
    return Asked(f"is there {article} {colour_word} {shape_word} ?", ("yes",) if there else ("no",))


def _relation(scene: Scene, rng: random.Random) -> Asked | None:
    named = [one for one in scene.things if all(_differ(one, other) for other in scene.things if other is not one)]
    if len(scene.things) != 2 or len(named) != 2:
        return None
    first, second = rng.sample(named, 2)
    relation = relation_between(first, second)
    question = f"where is the {_named(first, rng)} seen from the {_named(second, rng)} ?"
    return Asked(question, _RELATIONS[relation]) if relation in RELATION_WORDS else None


def _one(scene: Scene, rng: random.Random, apart: Callable[[Thing, Thing], bool]) -> Thing | None:
    """A thing that can be told from all others by what is said of it; None if there is none."""
    found = [one for one in scene.things if all(apart(one, other) for other in scene.things if other is not one)]
    return rng.choice(found) if found else None


def _differ(one: Thing, other: Thing) -> bool:
    return (one.shape, one.colour) != (other.shape, other.colour)


def _named(thing: Thing, rng: random.Random) -> str:
    return f"{_colour_word(thing, rng)} {_shape_word(thing, rng)}"


def _shape_word(thing: Thing, rng: random.Random) -> str:
    return word(SHAPE_WORDS[thing.shape], rng)


def _colour_word(thing: Thing, rng: random.Random) -> str:
    return word(COLOUR_WORDS[thing.colour], rng)
