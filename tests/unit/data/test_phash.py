"""The same picture in another file has nearly the same hash, another picture does not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from components.data.decoding import decode_image, resize_square
from components.data.phash import hash_distance, perceptual_hash
from tests.helpers.webshards import encoded


def picture(seed: int, side: int = 256) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def hashed(data: bytes, side: int = 224) -> int:
    return perceptual_hash(resize_square(decode_image(data), side))


CHANGES = {
    "jpeg 95": lambda image: encoded(image, quality=95),
    "jpeg 30": lambda image: encoded(image, quality=30),
    "webp": lambda image: encoded(image, "WEBP"),
    "half as large": lambda image: encoded(image.resize((128, 128)), "PNG"),
    "grey": lambda image: encoded(image.convert("L"), "PNG"),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.15), "PNG"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_in_another_file_is_near(change: str) -> None:
    for seed in range(20):
        image = picture(seed)
        assert hash_distance(hashed(encoded(image, "PNG")), hashed(CHANGES[change](image))) <= 6


def test_another_picture_is_far_and_another_size_of_the_square_is_near() -> None:
    hashes = [hashed(encoded(picture(seed), "PNG")) for seed in range(40)]
    assert min(hash_distance(a, b) for n, a in enumerate(hashes) for b in hashes[:n]) > 12
    for seed in range(10):
        data = encoded(picture(seed), "PNG")
        assert max(hash_distance(hashed(data, side), hashes[seed]) for side in (48, 96, 384)) <= 6


def test_it_is_a_number_of_64_bits_and_the_same_everywhere() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint64).reshape(64, 64, 3).astype(np.uint8)).save(buffer, "PNG")
    assert 0 <= hashed(buffer.getvalue(), 64) < 1 << 63
    assert perceptual_hash(np.zeros((32, 32, 3), np.uint8)) == 0
