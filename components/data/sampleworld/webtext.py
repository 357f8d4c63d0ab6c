"""Texts as the web has them beside pictures: right but in web style, another picture's, half right, alt text, junk."""

import random
from dataclasses import replace
from typing import Literal

from components.data.sampleworld import language
from components.data.sampleworld.judge import judge_caption
from components.data.sampleworld.scene import COLOURS, GROUND_COLOURS, SHAPES, TEXTURES, Scene, Thing, sample_scene

Kind = Literal["match", "other-image", "alt-text", "junk", "half-right"]
KINDS: tuple[Kind, ...] = ("match", "other-image", "alt-text", "junk", "half-right")

_SHOPS = ("MyShop", "PrintBay", "ArtHub", "ClipWorld", "PosterPlanet", "Etsio")
_GOODS = ("Wall Art", "Poster", "Clipart", "Sticker", "Canvas Print", "Vector", "Stock Photo", "Wallpaper")
_OFFERS = ("Free Shipping", "50% Off", "Buy Now", "Best Price", "Sale", "HD", "4K", "Royalty Free")
_STYLES = ("Vintage", "Modern", "Wooden", "Leather", "Handmade", "Cheap", "Luxury", "Waterproof")
_USES = ("for Kids", "for Women", "for Men", "for Home", "Gift Idea", "Set of 4", "Size M", "Review")
_JUNK = (
    "IMG_{n}.JPG",
    "DSC{n}.jpg",
    "click to enlarge",
    "image {n}",
    "untitled-{n}.png",
    "photo {n} of {n}",
    "thumbnail {n}x{n}",
    "image not found",
    "loading...",
    "screenshot {n}",
    "no caption",
    "default.gif",
)
_TRIES = 200


def web_text(kind: Kind, scene: Scene, rng: random.Random) -> str:
    """A text of the given kind for a picture of this scene."""
    if kind == "match":
        return styled_text(scene, rng)
    if kind == "alt-text":
        return _alt_text(rng)
    if kind == "junk":
        return rng.choice(_JUNK).format(n=rng.randrange(100, 9999))
    return _wrong_text(kind, scene, rng)


def styled_text(scene: Scene, rng: random.Random) -> str:
    """True of the scene, in the style of shops and stock-photo pages."""
    things = list(scene.things)
    rng.shuffle(things)
    if len(things) > 1 and rng.random() < 0.2:
        things = things[:1]
    roll = rng.random()
    if roll < 0.3:
        return f"{_dress(language.human_caption(scene, rng), rng)}"
    listing = [" ".join(language.noun_words(thing, rng, size=0.25, texture=0.4)) for thing in things]
    if roll < 0.45:
        return " ".join("#" + entry.replace(" ", " #") for entry in listing)
    text = rng.choice((" & ", ", ", " + ", " and ")).join(listing)
    if rng.random() < 0.25:
        text = f"{text} {language.ground_phrase(scene, rng)}"
    return _dress(text.title(), rng)


def _dress(text: str, rng: random.Random) -> str:
    shop, goods, offer = rng.choice(_SHOPS), rng.choice(_GOODS), rng.choice(_OFFERS)
    forms = (
        f"{text} - {goods} | {shop}",
        f"{goods}: {text}",
        f"{text} {goods} - {offer}",
        f"{shop} | {text}",
        f"{offer}! {text}",
        f"{text} ({goods.lower()})",
    )
    return rng.choice(forms)


def _alt_text(rng: random.Random) -> str:
    noun = rng.choice(language.FOREIGN_NOUNS).title()
    colour = f"{rng.choice(COLOURS).title()} " if rng.random() < 0.3 else ""
    text = f"{rng.choice(_STYLES)} {colour}{noun} {rng.choice(_USES)}"
    return rng.choice((f"{text} | {rng.choice(_SHOPS)}", f"{text} - {rng.choice(_OFFERS)}", text))


def _wrong_text(kind: Kind, scene: Scene, rng: random.Random) -> str:
    """Of another scene, or of this one with one thing changed; drawn again while it happens to be true."""
    for _ in range(_TRIES):
        told = sample_scene(rng) if kind == "other-image" else _altered(scene, rng)
        text = styled_text(told, rng)
        verdict = judge_caption(scene, text)
        if not verdict.true and (kind == "other-image" or len(verdict.wrong) == 1 < verdict.claims):
            return text
    raise RuntimeError(f"no {kind} text found in {_TRIES} tries for the scene {scene.to_json()}")


def _altered(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one attribute of one thing, or of the ground, changed, or two things in each other's place."""
    what = rng.choices(("colour", "shape", "texture", "ground", "swap"), (5, 5, 1, 1, 2))[0]
    at = rng.randrange(len(scene.things))
    thing = scene.things[at]
    if what == "colour":
        return _with(scene, at, replace(thing, colour=_other(COLOURS, thing.colour, rng)))
    if what == "shape":
        return _with(scene, at, replace(thing, shape=_other(SHAPES, thing.shape, rng)))
    if what == "texture":
        return _with(scene, at, replace(thing, texture=_other(TEXTURES, thing.texture, rng)))
    if what == "ground":
        return replace(scene, ground=_other(GROUND_COLOURS, scene.ground, rng))
    return _swapped(scene)


def _swapped(scene: Scene) -> Scene:
    first, *rest = scene.things
    if not rest:
        return scene
    second, *more = rest
    moved = (replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y), *more)
    return replace(scene, things=moved)


def _with(scene: Scene, at: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:at], thing, *scene.things[at + 1 :]))


def _other(options: tuple[str, ...], than: str, rng: random.Random) -> str:
    return rng.choice([option for option in options if option != than])
