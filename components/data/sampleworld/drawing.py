"""Pictures of scenes: anti-aliased shapes (masks drawn four times larger and averaged down), textured, as JPEG.

S = image side in pixels, K = the supersampling factor.
"""

import math
import random
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from components.data.sampleworld.scene import Scene, Thing

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]  # canvases [S, S, 3], colours [3], strengths and coordinates [S, S]

RGB = {
    "red": (214, 40, 40),
    "blue": (38, 70, 220),
    "green": (30, 150, 50),
    "yellow": (245, 220, 40),
    "purple": (130, 40, 170),
    "orange": (245, 135, 20),
    "white": (252, 252, 252),
    "black": (18, 18, 18),
    "grey": (140, 140, 140),
    "tan": (205, 170, 125),
    "teal": (50, 145, 150),
    "pink": (245, 165, 190),
}
_SUPERSAMPLE = 4
_COLOUR_JITTER = 10  # levels of 255, per thing and channel: no two reds are quite the same


def draw_scene(scene: Scene, size: int, rng: random.Random) -> Image:
    """Paint a scene: uint8 RGB [S, S, 3]. The generator gives colours and angles their small variation."""
    canvas = _ground(scene, size, rng)
    for thing in scene.things:
        _paint(canvas, thing, size, rng)
    picture: Image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return picture


def encode_jpeg(image: Image, quality: int) -> bytes:
    """JPEG bytes of an RGB image [H, W, 3] at a quality of 1 to 100."""
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(
            "OpenCV could not encode a JPEG; its build lacks the codec: reinstall opencv-python-headless"
        )
    return data.tobytes()


def _tint(name: str, rng: random.Random) -> Floats:
    spread = _COLOUR_JITTER
    return np.array([channel + rng.uniform(-spread, spread) for channel in RGB[name]], np.float32)


def _ground(scene: Scene, size: int, rng: random.Random) -> Floats:
    colour = _tint(scene.ground, rng)
    rows, columns = _grid(size)
    if scene.pattern == "gradient":
        ramp = rows if rng.random() < 0.5 else rows[::-1]
        shade = 0.55 + 0.6 * ramp
    elif scene.pattern == "checkered":
        cells = np.floor(rows * 8) + np.floor(columns * 8)
        shade = np.where(cells % 2 == 0, np.float32(1.1), np.float32(0.82))
    else:
        shade = np.ones((size, size), np.float32)
    ground: Floats = (shade[:, :, None] * colour).astype(np.float32)
    return ground


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Floats, Floats]:
    """Pixel-centre coordinates in shares of the side: rows [S, S] and columns [S, S]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.repeat(line[:, None], size, axis=1), np.repeat(line[None, :], size, axis=0)


def _paint(canvas: Floats, thing: Thing, size: int, rng: random.Random) -> None:
    """Blend one thing into the canvas, in its bounding box only."""
    mask = _mask(thing, size, rng.uniform(-0.12, 0.12))
    colour = _tint(thing.colour, rng)
    reach = thing.radius * 1.25
    top, bottom = _span(thing.y, reach, size)
    left, right = _span(thing.x, reach, size)
    rows, columns = _grid(size)
    box = np.s_[top:bottom, left:right]
    marks = _marks(thing, rows[box], columns[box])[:, :, None]
    paint = colour + marks * (_contrast(colour) - colour)
    alpha = mask[box][:, :, None]
    canvas[box] += alpha * (paint - canvas[box])


def _span(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(0, math.floor((centre - reach) * size)), min(size, math.ceil((centre + reach) * size))


def _contrast(colour: Floats) -> Floats:
    """Marks are a much darker tone of a light colour, and a much lighter tone of a dark one."""
    marks: Floats = colour * np.float32(0.35) if colour.mean() > 100 else colour + np.float32(0.6) * (255 - colour)
    return marks


def _marks(thing: Thing, rows: Floats, columns: Floats) -> Floats:
    """Strength of the texture's marks in [0, 1] at each pixel of the box."""
    u, v = columns - thing.x, rows - thing.y
    marks: Floats = np.zeros_like(u)
    if thing.texture == "striped":
        marks = np.clip(0.5 + 2.5 * np.sin((u + v) * 62), 0, 1).astype(np.float32)
    elif thing.texture == "dotted":
        marks = np.clip(4.0 * (np.cos(u * 70) + np.cos(v * 70) - 0.9), 0, 1).astype(np.float32)
    return marks


def _mask(thing: Thing, size: int, angle: float) -> Floats:
    """Coverage of each pixel by the shape, [S, S] in [0, 1]."""
    large = np.zeros((size * _SUPERSAMPLE, size * _SUPERSAMPLE), np.uint8)
    centre = np.array([thing.x, thing.y])
    scale = size * _SUPERSAMPLE

    def fill(points: npt.NDArray[np.float64], value: int = 255) -> None:
        cosine, sine = math.cos(angle), math.sin(angle)
        turned = points @ np.array([[cosine, sine], [-sine, cosine]])
        place = (centre + turned * thing.radius) * scale
        cv2.fillPoly(large, [np.round(place * 16).astype(np.int32)], value, lineType=cv2.LINE_8, shift=4)

    for points, value in outline(thing.shape):
        fill(points, value)
    small = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
    coverage: Floats = small.astype(np.float32) / np.float32(255)
    return coverage


@lru_cache(maxsize=32)
def outline(shape: str) -> tuple[tuple[npt.NDArray[np.float64], int], ...]:
    """Polygons of a shape around the origin with radius 1, each with 255 (fill) or 0 (cut out), in drawing order."""
    circle = _round(1.0)
    if shape == "circle":
        return ((circle * 0.95, 255),)
    if shape == "ring":
        return ((circle, 255), (circle * 0.55, 0))
    if shape == "moon":
        return ((circle, 255), (circle * 0.85 + np.array([0.45, 0.0]), 0))
    return ((_polygon(shape), 255),)


def _round(radius: float) -> npt.NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _polygon(shape: str) -> npt.NDArray[np.float64]:
    if shape == "star":
        turn = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, 1.1, 0.45)
        return np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1)
    if shape == "heart":
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        x = 16 * np.sin(turn) ** 3
        y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        return np.stack([x, -y - 2.5], axis=1) / 15.5
    return np.array(_CORNERS[shape], np.float64)


_CORNERS = {
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "diamond": ((0, -1.15), (0.8, 0), (0, 1.15), (-0.8, 0)),
    "triangle": ((0, -1.05), (1.05, 0.85), (-1.05, 0.85)),
    "cross": (
        *((-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)),
        *((0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33)),
    ),
    "arrow": ((0, -1.1), (0.9, 0), (0.35, 0), (0.35, 1.05), (-0.35, 1.05), (-0.35, 0), (-0.9, 0)),
}
