"""Damaged images of every supported format through `decode_image`: no escape, no hang, bounded memory.

python -m tests.reliability.fuzz_images --images 200000

Anything but pixels or `BadImage` is an escape. Exit code 1 after an escape, or an image that took more than two seconds
of the processor's time.
"""

import argparse
import io
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, PngImagePlugin

from components.data.decoding import BadImage, decode_image

SLOW_SECONDS = 2.0
NUMBERS = (
    b"\0\0",
    b"\0\1",
    b"\1\0",
    b"\x7f\xff",
    b"\xff\x7f",
    b"\x80\0",
    b"\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
)


@dataclass
class Found:
    """What became of the images: `ends` counts formats and outcomes."""

    ends: Counter[str] = field(default_factory=Counter)
    escapes: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slowest_image: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing escaped and nothing took too long."""
        return not self.escapes and self.slowest <= SLOW_SECONDS


def seeds() -> dict[str, bytes]:
    """Small good images of all supported formats and modes, with what may lie beside their pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((91, 67), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    words = PngImagePlugin.PngInfo()
    words.add_text("plain", "words")
    words.add_text("packed", "words " * 300, zip=True)
    words.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>', zip=True)
    wide = Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))
    frames = {"save_all": True, "append_images": [photo.rotate(90), photo.rotate(180)]}
    plans: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "jpeg": (photo, "JPEG", {"exif": exif}),
        "jpeg-progressive": (photo, "JPEG", {"progressive": True, "icc_profile": bytes(range(256)) * 8}),
        "jpeg-grey": (photo.convert("L"), "JPEG", {"xmp": b'<x tiff:Orientation="5"/>'}),
        "jpeg-cmyk": (photo.convert("CMYK"), "JPEG", {"exif": exif}),
        "png": (photo, "PNG", {"exif": exif, "pnginfo": words}),
        "png-palette": (photo.convert("P"), "PNG", {"transparency": bytes(range(256))}),
        "png-alpha": (photo.convert("RGBA"), "PNG", {}),
        "png-bits": (photo.convert("1"), "PNG", {}),
        "png-sixteen": (wide, "PNG", {"icc_profile": bytes(500)}),
        "png-animated": (photo, "PNG", frames),
        "webp": (photo, "WEBP", {"exif": exif}),
        "webp-lossless": (photo.convert("RGBA"), "WEBP", {"lossless": True}),
        "webp-animated": (photo, "WEBP", frames),
        "gif": (photo.convert("P"), "GIF", {"transparency": 3}),
        "gif-animated": (photo, "GIF", frames),
        "bmp": (photo, "BMP", {}),
        "bmp-palette": (photo.convert("P"), "BMP", {}),
        "tiff": (photo, "TIFF", {"exif": exif}),
        "tiff-lzw": (photo, "TIFF", {"compression": "tiff_lzw"}),
        "tiff-deflate": (photo.convert("CMYK"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff-jpeg": (photo, "TIFF", {"compression": "jpeg"}),
        "tiff-bits": (photo.convert("1"), "TIFF", {"compression": "group4"}),
        "tiff-pages": (photo, "TIFF", frames),
        "avif": (photo, "AVIF", {"exif": exif}),
        "avif-animated": (photo, "AVIF", frames),
        "jpeg2000": (photo, "JPEG2000", {}),
        "jpeg2000-tiles": (photo, "JPEG2000", {"tile_size": (32, 32), "num_resolutions": 3}),
        "jpeg2000-stream": (photo.convert("L"), "JPEG2000", {"no_jp2": True}),
        "ppm": (photo, "PPM", {}),
        "pgm": (photo.convert("L"), "PPM", {}),
    }
    return {name: _encoded(image, kind, options) for name, (image, kind, options) in plans.items()}


def _encoded(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _flip(data: bytearray, rng: random.Random, _: bytes) -> None:
    for _bit in range(rng.choice((1, 1, 2, 5, 20))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _number(data: bytearray, rng: random.Random, _: bytes) -> None:
    number, at = rng.choice(NUMBERS), _place(data, rng)
    data[at : at + len(number)] = number


def _noise(data: bytearray, rng: random.Random, _: bytes) -> None:
    at, size = _place(data, rng), rng.choice((1, 4, 30))
    data[at : at + size] = rng.randbytes(size)


def _cut(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random, _: bytes) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 12, 200))]


def _repeat(data: bytearray, rng: random.Random, _: bytes) -> None:
    at, size = _place(data, rng), rng.choice((1, 12, 100, 1000))
    data[at:at] = data[at : at + size] * rng.choice((1, 2, 50))


def _splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    """A piece of another image."""
    at, start, size = _place(data, rng), rng.randrange(len(other)), rng.choice((4, 50, 1000))
    data[at : at + size] = other[start : start + size]


MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    _flip, _flip, _number, _number, _noise, _cut, _remove, _repeat, _splice,
)  # fmt: skip


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, but half of the time in the header, where most of the decisions are made."""
    reach = min(len(data), rng.choice((64, 512, len(data), len(data))))
    return rng.randrange(max(1, reach)) if data else 0


def damaged(images: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged images, each decided by the seed and its number: `avif #17`, and its bytes."""
    originals = seeds()
    names = list(originals)
    for number in range(images):
        rng = random.Random(f"{seed}/{number}")
        name = names[number % len(names)]
        data = bytearray(originals[name])
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            if data:
                rng.choice(MUTATIONS)(data, rng, originals[rng.choice(names)])
        yield f"{name} #{number}", bytes(data)


def fuzz(images: int, seed: int = 0, on_image: Callable[[Found], object] = lambda _: None) -> Found:
    """Decode so many damaged images; what was found."""
    found = Found()
    for name, data in damaged(images, seed):
        started = time.process_time()
        end = _end(data, name, found)
        seconds = time.process_time() - started
        found.ends[f"{name.partition(' ')[0]}: {end}"] += 1
        if seconds > found.slowest:
            found.slowest, found.slowest_image = seconds, f"{name}, {len(data)} bytes, {end}"
        on_image(found)
    return found


def _end(data: bytes, name: str, found: Found) -> str:
    try:
        shape = decode_image(data).shape
        if len(shape) != 3 or shape[2] != 3:
            found.escapes.append(f"{name}: pixels of shape {shape}")
        return "pixels"
    except BadImage as error:
        return error.reason
    except BaseException as error:  # noqa: BLE001 - an escape is what this looks for, of any kind
        if isinstance(error, KeyboardInterrupt):
            raise
        found.escapes.append(f"{name}: {type(error).__name__}: {error}")
        return "ESCAPED"


def peak_bytes() -> int:
    """The most memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0, help="image N of a seed is always the same")
    options = parser.parse_args()
    started = time.monotonic()
    before = peak_bytes()

    def show(found: Found) -> None:
        done = found.ends.total()
        if done % 10_000 == 0:
            print(
                f"{done} of {options.images}: {len(found.escapes)} escapes, slowest {found.slowest:.2f} s", flush=True
            )

    found = fuzz(options.images, options.seed, show)
    for end, count in sorted(found.ends.items()):
        print(f"{count:8d}  {end}")
    print("\n".join(found.escapes[:20]))
    print(f"{options.images} images in {time.monotonic() - started:.0f} s, {len(found.escapes)} escapes")
    print(f"slowest: {found.slowest:.2f} s, {found.slowest_image}")
    print(f"memory: {before >> 20} MiB before, {peak_bytes() >> 20} MiB at most")
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
