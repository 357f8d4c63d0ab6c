"""Images: from bytes of any kind to RGB arrays, squares and model pixels.

Shapes: H, W height and width of an image, S side of a square, B batch. Arrays are uint8 RGB `[H, W, 3]`.

Decoders and the resize were chosen by measurement: simplejpeg gives libjpeg's own pixels at 1.4 to 2 times Pillow's
speed, and torch's uint8 bicubic is Pillow's filter at 4 to 9 times its speed. OpenCV's resizers are other filters (up
to 20 levels away from Pillow's bicubic, which the released models were trained with), so none is used.
"""

import contextlib
import functools
import io
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from components.common.errors import DataError

Pixels = NDArray[np.uint8]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means BLIP was trained with, of values in 0..1."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations BLIP was trained with, of values in 0..1."""

# Named, so that an image cannot pick a decoder that runs programs (EPS) or has a history of holes.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg", b"<!--")
_ORIENTATION = 0x0112


class BadImage(DataError):
    """Bytes that cannot be used as an image.

    Args:
        reason: short code for counting: `empty`, `too_many_bytes`, `markup`, `not_an_image`, `too_many_pixels`,
            `too_small`, `truncated` or `corrupt`.
        detail: what was found, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def decode_image(
    data: bytes, *, max_pixels: int = 50_000_000, max_bytes: int = 100_000_000, min_side: int = 2
) -> Pixels:
    """Decode an image as people see it: EXIF orientation applied, first frame of an animation, RGB `[H, W, 3]`.

    Colours are those of Pillow's `convert("RGB")`, as in BLIP's own loaders (CMYK and grey converted, alpha dropped);
    16-bit grey is scaled to 8 bits, where Pillow would clip it to white.

    Args:
        data: the file's bytes; its name and announced type are not trusted.
        max_pixels: refused above this, judged by the header before anything is decoded (decompression bombs).
        max_bytes: refused above this.
        min_side: shortest side allowed, in pixels; tracking pixels are not images.

    Raises:
        BadImage: with the reason.
    """
    _check_bytes(data, max_bytes)
    if data[:3] == b"\xff\xd8\xff":
        array = _decode_jpeg(data, max_pixels, min_side)
        if array is not None:
            return array
    return _decode_with_pillow(data, max_pixels, min_side)


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels by the header alone, EXIF orientation not applied.

    Raises:
        BadImage: if no header is recognised.
    """
    with _pillow_errors(), _open(data) as image:
        return int(image.width), int(image.height)


def _check_bytes(data: bytes, max_bytes: int) -> None:
    if not data:
        raise BadImage("empty", "no bytes at all")
    if len(data) > max_bytes:
        raise BadImage("too_many_bytes", f"{len(data)} bytes, the limit is {max_bytes}")
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        raise BadImage("markup", "a web page or XML under an image's name")


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise BadImage("too_many_pixels", f"{width} x {height} pixels, the limit is {max_pixels} in all")
    if min(width, height) < min_side:
        raise BadImage("too_small", f"{width} x {height} pixels, the shortest side must be at least {min_side}")


def _decode_jpeg(data: bytes, max_pixels: int, min_side: int) -> Pixels | None:
    """The fast way for ordinary JPEGs; None where Pillow must look (CMYK, anything libjpeg warns about)."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size(width, height, max_pixels, min_side)
    if colours not in ("YCbCr", "Gray", "RGB"):
        return None
    try:
        array: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # a warning of libjpeg: harmless bytes between segments, or a cut; Pillow tells them apart
        return None
    return _turn(array, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    """EXIF orientation 1..8 of a JPEG; 1 where there is none or it is damaged (the pixels are still good)."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, position + 2)
        if data[position + 1] == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return _tiff_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    return 1


def _tiff_orientation(block: bytes) -> int:
    """Look the orientation up in the first directory of a TIFF block (EXIF 2.3, section 4.5)."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return 1
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", block, entry)
        if tag == _ORIENTATION:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def _turn(array: Pixels, orientation: int) -> Pixels:
    """Turn and mirror stored pixels the way EXIF says they are to be seen."""
    if orientation >= 5:
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of our formats that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_formats())


def _decode_with_pillow(data: bytes, max_pixels: int, min_side: int) -> Pixels:
    with _pillow_errors(), _open(data) as image:
        _check_size(*image.size, max_pixels, min_side)
        image.load()
        return _turn(np.array(_to_rgb(image), dtype=np.uint8), _orientation(image))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where it is absent or the EXIF block is damaged."""
    with contextlib.suppress(Exception):  # damaged EXIF raises anything; the pixels are still good
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextlib.contextmanager
def _pillow_errors() -> Iterator[None]:
    """Pillow's many exceptions as BadImage."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not_an_image", "no known image format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too_many_pixels", str(error)) from error
    except (Warning, OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError) as error:
        text = str(error) or type(error).__name__
        cut = "truncated" in text or "unexpected end" in text.lower() or isinstance(error, EOFError)
        raise BadImage("truncated" if cut else "corrupt", text) from error


def resize_square(image: Pixels, size: int) -> Pixels:
    """Resize to `[S, S, 3]` with Pillow's antialiased bicubic filter, ignoring the aspect ratio as BLIP does.

    Within 2 of 255 levels of `Image.resize((S, S), BICUBIC)` of Pillow 13 for every image (measured, tested): the
    same filter in the same order of passes, with other rounding.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    planes = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
    # Both libraries round and clip between the passes, so the order shows at hard edges. Pillow takes the rows first
    # when that is the cheaper order and they shrink.
    vertical_first = height > size and 2 * width < height + size
    planes = _bicubic(planes, (size, width) if vertical_first else (height, size))
    return np.ascontiguousarray(_bicubic(planes, (size, size))[0].permute(1, 2, 0).numpy())


def _bicubic(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(planes.shape[2:]) == size:
        return planes
    return torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)


def to_pixels(
    batch: Pixels | torch.Tensor,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
    *,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Normalise squares uint8 `[B, S, S, 3]` to float32 `[B, 3, S, S]`: `(value / 255 - mean) / std` per channel.

    The bytes travel to `device` before they become floats: a quarter of the traffic.
    """
    tensor = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(batch)
    tensor = tensor.to(device=device) if device is not None else tensor
    scale = torch.tensor([1.0 / (255.0 * value) for value in std], device=tensor.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=tensor.device)
    return torch.addcmul(shift, tensor.to(torch.float32), scale).permute(0, 3, 1, 2).contiguous()
