"""A perceptual hash: 64 bits that hardly change when an image is encoded again, scaled, or a little brighter.

The signs of the 63 lowest frequencies of the grey image against their median (pHash), on any decoded square. Two images
whose hashes differ in few bits look alike; the hash of the same image is the same on every machine.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from components.data.decoding import Pixels

_SIDE = 32  # pixels of the picture whose frequencies are looked at
_BANDS = 8
_GREY = np.array([299, 587, 114], np.float32) / 1000


def perceptual_hash(square: Pixels) -> int:
    """The hash of a square uint8 `[S, S, 3]`, 0 … 2⁶⁴ - 1; the first bit is always 0."""
    grey = square.astype(np.float32) @ _GREY
    bands = _projection(len(square))
    frequencies = (bands @ grey @ bands.T).ravel()[1:]  # without the first, which is the brightness
    bits = np.packbits(np.concatenate([[False], frequencies > np.median(frequencies)]))
    return int.from_bytes(bits.tobytes(), "big")


def hash_distance(a: int, b: int) -> int:
    """In how many of the 64 bits two hashes differ."""
    return (a ^ b).bit_count()


@cache
def _projection(side: int) -> npt.NDArray[np.float32]:
    """From pixels to the lowest frequencies along a side `[8, S]`: areas are averaged, then the cosine transform."""
    edges = np.linspace(0, side, _SIDE + 1)
    pixels = np.arange(side)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    average = covered.clip(0) * (_SIDE / side)
    angles = np.pi * np.arange(_BANDS)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
    return (np.cos(angles) @ average).astype(np.float32)
