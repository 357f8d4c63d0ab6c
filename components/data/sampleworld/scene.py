"""What a sample-world picture shows: one to three coloured shapes on a background, and how they stand to one another.

Positions and radii are shares of the image side: x grows to the right, y grows downwards.
"""

import json
import math
import random
from dataclasses import asdict, dataclass
from typing import Literal

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon", "diamond", "arrow")
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
SIZES = ("small", "medium", "large")
TEXTURES = ("plain", "striped", "dotted")
GROUND_COLOURS = ("grey", "tan", "teal", "pink")
GROUND_PATTERNS = ("plain", "gradient", "checkered")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
Relation = Literal["left", "right", "above", "below", "inside", "around", "beside"]

RADIUS = {"small": 0.08, "medium": 0.115, "large": 0.15}
ROOMY = ("circle", "square", "heart", "diamond")  # shapes wide enough in the middle to hold another one
_OUTER_RADIUS = 0.34
_INNER_RADIUS = 0.12
_LINES = (1 / 6, 3 / 6, 5 / 6)  # centres of a 3 x 3 grid: two large shapes side by side do not touch
_JITTER = 0.015
_APART = 0.2  # smallest distance along an axis at which one thing is left of, or above, another


@dataclass(frozen=True)
class Thing:
    """One drawn shape."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float

    @property
    def place(self) -> str:
        """Which ninth of the picture the centre lies in, one of PLACES."""
        return PLACES[3 * _third(self.y) + _third(self.x)]


@dataclass(frozen=True)
class Scene:
    """A whole picture: things in drawing order (a later one covers an earlier one), and the ground behind them."""

    things: tuple[Thing, ...]
    ground: str
    pattern: str

    def to_json(self) -> str:
        """One line of JSON; `Scene.from_json` reads it back."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        return cls(tuple(Thing(**thing) for thing in raw["things"]), raw["ground"], raw["pattern"])


def _third(value: float) -> int:
    return min(2, int(value * 2.999))


def holds(relation: str, first: Thing, second: Thing) -> bool:
    """Whether `first` stands in this relation to `second`. Diagonal pairs are both, say, left of and above."""
    dx, dy = second.x - first.x, second.y - first.y
    near = math.hypot(dx, dy)
    if relation == "inside":
        return near < 0.1 and first.radius < second.radius
    if relation == "around":
        return near < 0.1 and first.radius > second.radius
    if relation == "beside":
        return abs(dx) >= _APART > abs(dy)
    return {"left": dx, "right": -dx, "above": dy, "below": -dy}[relation] >= _APART


def relation_between(first: Thing, second: Thing) -> Relation:
    """The relation a person would name: containment first, else the axis along which the two lie farther apart."""
    if holds("inside", first, second):
        return "inside"
    if holds("around", first, second):
        return "around"
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) >= abs(dy) - _APART / 2:
        return "left" if dx > 0 else "right"
    return "above" if dy > 0 else "below"


def sample_scene(rng: random.Random) -> Scene:
    """Draw a scene. Two things of a scene never share both shape and colour unless they are twins."""
    ground = rng.choice(GROUND_COLOURS)
    pattern = rng.choices(GROUND_PATTERNS, (2, 1, 1))[0]
    count = rng.choices((1, 2, 3), (8, 10, 2))[0]
    if count == 2 and rng.random() < 0.2:
        return Scene(_nested(rng), ground, pattern)
    return Scene(_spread(rng, count), ground, pattern)


def _nested(rng: random.Random) -> tuple[Thing, Thing]:
    x, y = 0.5 + _jitter(rng), 0.5 + _jitter(rng)
    outer_colour, inner_colour = rng.sample(COLOURS, 2)
    outer = Thing(rng.choice(ROOMY), outer_colour, "large", "plain", x, y, _OUTER_RADIUS)
    inner = Thing(rng.choice(SHAPES), inner_colour, "small", _texture(rng), x, y, _INNER_RADIUS)
    return outer, inner


def _spread(rng: random.Random, count: int) -> tuple[Thing, ...]:
    things: list[Thing] = []
    twins = count > 1 and rng.random() < 0.15
    for x, y in _spots(rng, count):
        if twins and things:
            shape, colour, texture, size = things[0].shape, things[0].colour, things[0].texture, things[0].size
            twins = False
        else:
            shape, colour = _new_kind(rng, things)
            texture, size = _texture(rng), rng.choice(SIZES)
        things.append(Thing(shape, colour, size, texture, x + _jitter(rng), y + _jitter(rng), RADIUS[size]))
    return tuple(things)


def _spots(rng: random.Random, count: int) -> list[tuple[float, float]]:
    """Cell centres: any of the nine for one thing or three, two of the same row or column for two."""
    if count == 2:
        across, row = rng.choice(_LINES), rng.random() < 0.5
        spots = [(along, across) if row else (across, along) for along in rng.sample(_LINES, 2)]
    else:
        spots = rng.sample([(x, y) for x in _LINES for y in _LINES], count)
    rng.shuffle(spots)
    return spots


def _new_kind(rng: random.Random, others: list[Thing]) -> tuple[str, str]:
    while True:
        kind = rng.choice(SHAPES), rng.choice(COLOURS)
        if all(kind != (other.shape, other.colour) for other in others):
            return kind


def _texture(rng: random.Random) -> str:
    return rng.choices(TEXTURES, (2, 1, 1))[0]


def _jitter(rng: random.Random) -> float:
    return round(rng.uniform(-_JITTER, _JITTER), 3)
