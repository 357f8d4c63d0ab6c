"""Web shards for tests: good ones, and one of every kind of trouble."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Members = Mapping[str, bytes]


def photo(seed: int, height: int = 48, width: int = 64) -> Image.Image:
    """A smooth random image."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def good_sample(seed: int) -> dict[str, bytes]:
    """What img2dataset writes for one image."""
    return {
        "jpg": encoded(photo(seed)),
        "txt": f"an image numbered {seed}".encode(),
        "json": json.dumps({"url": f"http://x/{seed}.jpg", "status": "success", "width": 64}).encode(),
    }


def tar_bytes(samples: Sequence[tuple[str, Members]]) -> bytes:
    """A tar as other programs write it, with times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mtime, info.uname = len(data), 1_700_000_000, "somebody"
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_web(folder: Path, shards: int = 3, samples: int = 5) -> Path:
    """A folder of good shards with img2dataset's names and keys."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        keys = [f"{shard:05d}{index:04d}" for index in range(samples)]
        content = [(key, good_sample(100 * shard + index)) for index, key in enumerate(keys)]
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(content))
    return folder


def bomb_png(side: int = 30_000) -> bytes:
    """A small file that claims to be an enormous image."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_images() -> dict[str, tuple[bytes, str]]:
    """Key to the bytes of an image that cannot be used, and the reason that must be counted."""
    jpeg = encoded(photo(1))
    return {
        "empty": (b"", "empty"),
        "html": (b"<!DOCTYPE html><html>Not found</html>", "markup"),
        "text": (b"just words", "not_an_image"),
        "cut": (jpeg[: len(jpeg) * 9 // 10], "truncated"),
        "pixel": (encoded(photo(2, 1, 1)), "too_small"),
        "bomb": (bomb_png(), "too_many_pixels"),
    }


def odd_images() -> dict[str, bytes]:
    """Key to the bytes of an unusual image that must work."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16))
    frames = [photo(seed, 32, 32) for seed in (3, 4)]
    return {
        "cmyk": encoded(photo(5).convert("CMYK")),
        "sixteen": encoded(wide, "PNG"),
        "animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "rotated": encoded(photo(6), exif=exif),
        "grey": encoded(photo(7).convert("L")),
        "alpha": encoded(photo(8).convert("RGBA"), "PNG"),
    }
