import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from components.common.errors import DataError
from components.data.decoding import (
    BadImage,
    decode_image,
    image_size,
    resize_square,
    to_pixels,
)
from components.model.config import CLIP_MEAN, CLIP_STD


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: Image.Image | np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow_rgb(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def reason_of(data: bytes, **limits: int) -> str:
    with pytest.raises(BadImage) as caught:
        decode_image(data, **limits)
    assert isinstance(caught.value, DataError)
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
        ("TIFF", "CMYK"),
        ("GIF", "P"),
    ],
)
def test_every_kind_has_the_colours_of_pillow(kind: str, mode: str) -> None:
    data = encode(Image.fromarray(photo(33, 47)).convert(mode), kind)
    decoded = decode_image(data)
    assert decoded.shape == (33, 47, 3)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pillow_rgb(data))


def test_progressive_jpeg() -> None:
    data = encode(photo(40, 56), progressive=True)
    np.testing.assert_array_equal(decode_image(data), pillow_rgb(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = Image.fromarray(photo(24, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image, exif=exif, quality=95)
    decoded = decode_image(data)
    assert decoded.shape == ((24, 40, 3) if orientation <= 4 else (40, 24, 3))
    plain = pillow_rgb(encode(image, quality=95))
    turned = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1),
        7: plain.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(plain),
    }
    np.testing.assert_array_equal(decoded, turned[orientation])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_beyond_jpeg(kind: str) -> None:
    image = photo(24, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif, "lossless": True} if kind == "WEBP" else {"exif": exif}
    np.testing.assert_array_equal(decode_image(encode(image, kind, **options)), np.rot90(image, -1))


def test_damaged_exif_does_not_spoil_the_picture() -> None:
    data = encode(photo(24, 40))
    segment = b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x01"
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    np.testing.assert_array_equal(decode_image(broken), pillow_rgb(data))


def png_with(chunk: bytes, body: bytes, *, spoiled: bool = False) -> bytes:
    """A PNG with a chunk of one's own in front of its pixels."""
    data = encode(photo(24, 40), "PNG")
    checksum = zlib.crc32(chunk + body) ^ spoiled
    extra = struct.pack(">I", len(body)) + chunk + body + struct.pack(">I", checksum)
    return data[:33] + extra + data[33:]


@pytest.mark.parametrize(
    "data",
    [
        png_with(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3_000_000))),
        png_with(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        png_with(b"tEXt", b"a\0b", spoiled=True),
        png_with(b"iCCP", b"profile\0\0no zlib"),
        png_with(b"gAMA", b"1", spoiled=True),
        png_with(b"tRNS", b"", spoiled=True),
        png_with(b"eXIf", b"II*\0", spoiled=True),
    ],
)
def test_what_lies_beside_the_pixels_of_a_png_does_not_cost_it(data: bytes) -> None:
    np.testing.assert_array_equal(decode_image(data), photo(24, 40))


def test_a_png_with_spoiled_text_is_still_turned_and_still_transparent() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray(photo(24, 40)).convert("P")
    data = encode(palette, "PNG", exif=exif, transparency=bytes(range(256)))
    spoiled = data[:33] + b"\0\0\0\1tEXta\0\0\0\0" + data[33:]
    np.testing.assert_array_equal(decode_image(spoiled), decode_image(data))


def test_damage_to_the_pixels_of_a_png_with_spoiled_text_is_found() -> None:
    data = png_with(b"tEXt", b"a\0b", spoiled=True)
    assert reason_of(data[:-200]) in ("truncated", "corrupt")
    at = data.index(b"IDAT") + 20
    assert reason_of(data[:at] + b"\0\0\0\0" + data[at + 4 :]) in ("truncated", "corrupt")
    assert reason_of(data[:16] + b"\xff" + data[17:]) == "corrupt"  # its header: a PNG for certain, but no good one


def test_trailing_zeros_behind_a_png_are_not_work() -> None:
    np.testing.assert_array_equal(decode_image(encode(photo(24, 40), "PNG") + bytes(2_000_000)), photo(24, 40))


def with_exif(data: bytes, block: bytes, before: bytes = b"") -> bytes:
    """A JPEG with an EXIF block of its own right behind its start, and what shall stand before that."""
    body = b"Exif\0\0" + block
    return data[:2] + before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def orientation_block(value: int, order: str = ">", kind: int = 3, count: int = 1) -> bytes:
    """A TIFF block that says nothing but the orientation, as SHORT (3), LONG (4), BYTE (1) …"""
    field = struct.pack(f"{order}{ {1: 'Bxxx', 3: 'Hxx', 4: 'I', 9: 'i'}[kind] }", value)
    mark = b"MM" if order == ">" else b"II"
    return mark + struct.pack(f"{order}HIHHHI", 42, 8, 1, 0x0112, kind, count) + field + bytes(4)


@pytest.mark.parametrize(
    ("block", "before", "turned"),
    [
        (orientation_block(6), b"", True),
        (orientation_block(6, "<"), b"", True),
        (orientation_block(6, kind=4), b"", True),
        (orientation_block(6, "<", kind=4), b"", True),
        (orientation_block(6, kind=9), b"", True),
        (orientation_block(6), b"\xff\xff\xff", True),
        (orientation_block(6), b"\xff\xe2\x00\x04ab", True),
        (orientation_block(0), b"", False),
        (orientation_block(9), b"", False),
        (orientation_block(300), b"", False),
        (orientation_block(65541, kind=4), b"", False),
        (orientation_block(6, count=0), b"", False),
        (orientation_block(6)[:14], b"", False),
        (b"II*\0" + b"\xff" * 8, b"", False),
    ],
)
def test_the_orientation_of_a_jpeg_is_pillows(block: bytes, before: bytes, turned: bool) -> None:
    data = with_exif(encode(photo(24, 40)), block, before)
    assert decode_image(data).shape[:2] == ((40, 24) if turned else (24, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == ((24, 40) if turned else (40, 24))


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("JPEG", "CMYK")])
@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_that_says_nothing_turns_nothing(kind: str, mode: str, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = encode(Image.fromarray(photo(24, 40)).convert(mode), kind, exif=exif)
    assert decode_image(data).shape == (24, 40, 3)


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to decode"), MemoryError(), struct.error("x"), AssertionError()]
)
def test_whatever_a_decoder_raises_is_a_bad_image(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> None:
        raise error

    data = encode(photo(24, 40), "AVIF")
    assert decode_image(data).shape == (24, 40, 3)
    monkeypatch.setattr("PIL.AvifImagePlugin.AvifImageFile.load", fail)
    assert reason_of(data) == "corrupt"


def test_a_broken_avif_is_a_bad_image() -> None:
    data = bytearray(encode(photo(64, 96), "AVIF"))
    data[-200:-150] = bytes(50)
    assert reason_of(bytes(data)) == "corrupt"


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_costs_minutes() -> None:
    image = np.zeros((4000, 4000), np.uint8)
    data = encode(image, progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert reason_of(data[:-2] + scan * 1000 + data[-2:]) == "too_much_work"
    assert decode_image(data + bytes(3000) + b"\xff\xda" * 3000).shape == (4000, 4000, 3)  # a video behind a photo


def jpeg2000_of_claimed_height(height: int) -> bytes:
    """A stream of 91 x 67 pixels whose header says more: 0.7 ms for every 67 rows."""
    data = bytearray(encode(Image.fromarray(photo(67, 91)).convert("L"), "JPEG2000", no_jp2=True))
    at = data.index(b"\xff\x51") + 10
    data[at : at + 4] = struct.pack(">I", height)
    return bytes(data)


def test_next_to_no_bytes_are_not_decoded_to_a_large_image() -> None:
    assert reason_of(jpeg2000_of_claimed_height(500_000)) == "too_much_work"
    assert decode_image(jpeg2000_of_claimed_height(67)).shape == (67, 91, 3)
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (7000).to_bytes(3, "little") * 2
    assert reason_of(bytes(data)) == "too_much_work"
    assert decode_image(encode(Image.new("1", (3000, 3000)), "PNG")).shape == (3000, 3000, 3), "blank, but no burden"


def test_fuzzed_images_neither_escape_nor_hang() -> None:
    from tests.reliability.fuzz_images import fuzz, seeds

    assert all(decode_image(data).ndim == 3 for data in seeds().values())
    found = fuzz(600, seed=7)
    assert found.escapes == [] and found.slowest < 2.0, found
    assert found.ends.total() == 600 and len({end.partition(": ")[2] for end in found.ends}) >= 4


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    decoded = decode_image(encode(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=-1))


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_image(data)[10, 10].tolist() == [255, 0, 0], kind


def test_transparent_palette_raises_no_warning() -> None:
    image = Image.fromarray(photo(16, 16)).convert("P")
    decode_image(encode(image, "PNG", transparency=bytes(range(256))))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "markup"),
        (b"\n <html>gone</html>", "markup"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "markup"),
        (b"hello, I am a text file", "not_an_image"),
        (b"\xff\xd8\xff" + b"\0" * 50, "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_an_image"),
    ],
)
def test_what_is_no_picture_says_why(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_file_is_not_a_half_grey_picture(kind: str) -> None:
    data = encode(photo(120, 160), kind)
    assert reason_of(data[: len(data) // 2]) in ("truncated", "corrupt")


def test_a_cut_jpeg_is_called_truncated() -> None:
    data = encode(photo(120, 160))
    assert reason_of(data[: len(data) // 2]) == "truncated"


def test_damage_inside_a_png_is_found() -> None:
    data = bytearray(encode(photo(120, 160), "PNG"))
    data[len(data) // 2 : len(data) // 2 + 8] = b"\0" * 8
    assert reason_of(bytes(data)) in ("truncated", "corrupt")


def test_limits() -> None:
    data = encode(photo(40, 50))
    assert reason_of(data, max_pixels=1999) == "too_many_pixels"
    assert decode_image(data, max_pixels=2000).shape == (40, 50, 3)
    assert reason_of(data, max_bytes=100) == "too_many_bytes"
    assert reason_of(encode(photo(1, 1)), min_side=2) == "too_small"
    assert decode_image(encode(photo(1, 1)), min_side=1).shape == (1, 1, 3)


def png_of_claimed_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    assert reason_of(png_of_claimed_size(side, side)) == "too_many_pixels"


def test_image_size_reads_the_header() -> None:
    assert image_size(encode(photo(40, 50))) == (50, 40)
    with pytest.raises(BadImage):
        image_size(b"nothing")


@pytest.mark.parametrize("size", [32, 64, 224])
def test_resize_is_pillows_bicubic_within_two_levels(size: int) -> None:
    rng = np.random.default_rng(size)
    for step in range(40):
        height, width = (int(side) for side in rng.integers(2, 600, 2))
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = noise if step % 2 else photo(height, width, step)
        expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        worst = np.abs(resize_square(image, size) - expected).max()
        assert worst <= 2, (height, width, size, worst)


def test_resize_of_a_view_and_of_the_right_size() -> None:
    image = photo(100, 90)
    view = image[10:70, 5:65]
    np.testing.assert_array_equal(resize_square(view, 24), resize_square(view.copy(), 24))
    np.testing.assert_array_equal(resize_square(view, 60), view)


def test_pixels_are_normalised_per_channel() -> None:
    batch = np.stack([photo(16, 16, seed) for seed in range(3)])
    pixels = to_pixels(batch, CLIP_MEAN, CLIP_STD)
    expected = (torch.from_numpy(batch) / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    assert pixels.shape == (3, 3, 16, 16)
    assert pixels.is_contiguous()
    torch.testing.assert_close(pixels, expected.permute(0, 3, 1, 2), atol=2e-6, rtol=0)
