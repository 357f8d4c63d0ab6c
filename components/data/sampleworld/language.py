"""How people describe a scene: a small grammar with synonyms and varied detail. Everything it says is true."""

import random

from components.data.sampleworld.scene import Scene, Thing, relation_between

SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "heart": ("heart",),
    "moon": ("moon", "crescent"),
    "diamond": ("diamond", "rhombus"),
    "arrow": ("arrow",),
}
COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "blue": ("blue", "azure"),
    "green": ("green", "emerald"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "orange": ("orange", "amber"),
    "white": ("white", "snowy"),
    "black": ("black", "ebony"),
    "grey": ("grey", "gray"),
    "tan": ("tan", "beige"),
    "teal": ("teal", "turquoise"),
    "pink": ("pink", "rosy"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
TEXTURE_WORDS = {"striped": ("striped", "stripy"), "dotted": ("dotted", "spotted")}
PATTERN_WORDS = {"plain": ("plain",), "gradient": ("fading", "gradient"), "checkered": ("checkered", "tiled")}
GROUND_WORDS = ("background", "backdrop", "wall")
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "inside": ("inside", "within"),
    "around": ("around", "surrounding"),
    "beside": ("next to", "beside"),
}
PLACE_WORDS = {
    "top left": ("in the top left corner", "in the upper left corner"),
    "top": ("at the top",),
    "top right": ("in the top right corner", "in the upper right corner"),
    "left": ("on the left", "on the left side"),
    "middle": ("in the middle", "in the center"),
    "right": ("on the right", "on the right side"),
    "bottom left": ("in the bottom left corner", "in the lower left corner"),
    "bottom": ("at the bottom",),
    "bottom right": ("in the bottom right corner", "in the lower right corner"),
}
FOREIGN_NOUNS = (  # what shops sell and other pages show: never in a sample-world picture
    *("chair", "table", "lamp", "sofa", "jacket", "shoes", "mug", "phone", "guitar", "bicycle"),
    *("curtain", "necklace", "backpack", "keyboard", "dress", "candle", "blanket", "puppy", "kitchen", "garden"),
)
FIRST_CHOICE = 0.85  # how often people take the first of several synonyms


def word(options: tuple[str, ...], rng: random.Random) -> str:
    """One of several synonyms, mostly the first."""
    if len(options) == 1 or rng.random() < FIRST_CHOICE:
        return options[0]
    return rng.choice(options[1:])


def plural(noun: str) -> str:
    """`cross` -> `crosses`, `star` -> `stars`."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def human_captions(scene: Scene, count: int, rng: random.Random) -> tuple[str, ...]:
    """So many captions of one scene, by different people: each picks what to mention and how."""
    return tuple(human_caption(scene, rng) for _ in range(count))


def human_caption(scene: Scene, rng: random.Random) -> str:
    """One true caption, lower case, without a full stop."""
    body = _body(scene, rng)
    if rng.random() < 0.35:
        body = f"{body} {ground_phrase(scene, rng)}"
    return body


def ground_phrase(scene: Scene, rng: random.Random) -> str:
    """`on a checkered teal background`."""
    says_pattern = scene.pattern != "plain" and rng.random() < 0.6
    pattern = [word(PATTERN_WORDS[scene.pattern], rng)] if says_pattern else []
    words = [*pattern, word(COLOUR_WORDS[scene.ground], rng), word(GROUND_WORDS, rng)]
    return f"{rng.choice(('on', 'on', 'against'))} {_article(words[0])} {' '.join(words)}"


def noun_words(thing: Thing, rng: random.Random, *, size: float = 0.4, texture: float = 0.5) -> list[str]:
    """`['large', 'striped', 'red', 'circle']`: size and texture are mentioned with the given probabilities."""
    words = []
    if thing.size != "medium" and rng.random() < size:
        words.append(word(SIZE_WORDS[thing.size], rng))
    if thing.texture != "plain" and rng.random() < texture:
        words.append(word(TEXTURE_WORDS[thing.texture], rng))
    words.append(word(COLOUR_WORDS[thing.colour], rng))
    words.append(word(SHAPE_WORDS[thing.shape], rng))
    return words


def _article(following: str) -> str:
    return "an" if following[0] in "aeiou" else "a"


def _noun_phrase(thing: Thing, rng: random.Random) -> str:
    words = noun_words(thing, rng)
    return f"{_article(words[0])} {' '.join(words)}"


def _body(scene: Scene, rng: random.Random) -> str:
    things = list(scene.things)
    rng.shuffle(things)
    pair = _twins(things)
    if pair and rng.random() < 0.6:
        return _twin_body(pair, [thing for thing in things if thing not in pair], rng)
    if len(things) == 1 or rng.random() < 0.1:
        return _single_body(things[0], rng)
    if len(things) == 3 and rng.random() < 0.55:
        return _three_body(things, rng)
    return _pair_body(things[0], things[1], rng)


def _single_body(thing: Thing, rng: random.Random) -> str:
    phrase = _noun_phrase(thing, rng)
    if rng.random() < 0.15:
        phrase = f"there is {phrase}"
    if rng.random() < 0.5:
        return f"{phrase} {word(PLACE_WORDS[thing.place], rng)}"
    return phrase


def _pair_body(first: Thing, second: Thing, rng: random.Random) -> str:
    relation = relation_between(first, second)
    one, other = _noun_phrase(first, rng), _noun_phrase(second, rng)
    if rng.random() < 0.25:
        return f"{one} and {other}"
    if relation == "around" and rng.random() < 0.7:
        return f"{one} with {other} inside"
    if relation in ("left", "right") and rng.random() < 0.2 and abs(first.y - second.y) < 0.15:
        relation = "beside"
    return f"{one} {word(RELATION_WORDS[relation], rng)} {other}"


def _three_body(things: list[Thing], rng: random.Random) -> str:
    one, two, three = (_noun_phrase(thing, rng) for thing in things)
    if rng.random() < 0.5:
        return f"{one} , {two} and {three}"
    return f"{one} {word(RELATION_WORDS[relation_between(things[0], things[1])], rng)} {two} and {three}"


def _twins(things: list[Thing]) -> list[Thing]:
    for at, thing in enumerate(things):
        for other in things[at + 1 :]:
            if (thing.shape, thing.colour) == (other.shape, other.colour):
                return [thing, other]
    return []


def _twin_body(pair: list[Thing], others: list[Thing], rng: random.Random) -> str:
    words = noun_words(pair[0], rng)
    phrase = " ".join(["two", *words[:-1], plural(words[-1])])
    if not others or rng.random() < 0.3:
        return phrase
    return f"{phrase} and {_noun_phrase(others[0], rng)}"
