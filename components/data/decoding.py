"""Images: from bytes of any kind to RGB arrays, squares and model pixels.

Shapes: H, W height and width of an image, S side of a square, B batch. Arrays are uint8 RGB `[H, W, 3]`.

Decoders and the resize were chosen by measurement: simplejpeg gives libjpeg's own pixels at 1.4 to 2 times Pillow's
speed, and torch's uint8 bicubic is Pillow's filter at 4 to 9 times its speed. OpenCV's resizers are other filters (up
to 20 levels away from Pillow's bicubic, which the released models were trained with), so none is used.
"""

import contextlib
import functools
import io
import re
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from components.common.errors import DataError
from components.data.config import MAX_PIXELS, MIN_SIDE
from components.model.config import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:  # whoever only looks at images, as a page does, must not wait seconds for it
    import torch

Pixels = NDArray[np.uint8]

# Named, so that an image cannot pick a decoder that runs programs (EPS) or has a history of holes.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg", b"<!--")
_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = 100_000  # encoders write one for every 8 kB at least: more are there to cost time
_JPEG_WORK = 1_000_000_000  # scans x pixels, about 2 seconds; 20 scans of 50 megapixels
_LARGE = 10_000_000  # pixels
_PIXELS_PER_BYTE = 5_000  # a page of text has fewer than 1,000, a photograph fewer than 50
_WAVELET_PIXELS_PER_BYTE = 100  # JPEG 2000 takes 0.1 s a megapixel, whatever is in it
_SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e][\x01-\x04]")  # a whole header: chance has FFDA in any long file


class BadImage(DataError):
    """Bytes that cannot be used as an image.

    Args:
        reason: short code for counting: `empty`, `too_many_bytes`, `markup`, `not_an_image`, `too_many_pixels`,
            `too_much_work`, `too_small`, `truncated` or `corrupt`.
        detail: what was found, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = 100_000_000, min_side: int = MIN_SIDE
) -> Pixels:
    """Decode an image as people see it: EXIF orientation applied, first frame of an animation, RGB `[H, W, 3]`.

    Colours are those of Pillow's `convert("RGB")`, as in BLIP's own loaders (CMYK and grey converted, alpha dropped);
    16-bit grey is scaled to 8 bits, where Pillow would clip it to white. The orientation is the one that Pillow's
    `exif_transpose` follows; values outside 1..8 turn nothing. What lies beside the pixels (comments, profiles, EXIF)
    never costs the image, however damaged or large it is.

    Args:
        data: the file's bytes; its name and announced type are not trusted.
        max_pixels: refused above this, judged by the header before anything is decoded (decompression bombs).
        max_bytes: refused above this.
        min_side: shortest side allowed, in pixels; tracking pixels are not images.

    Raises:
        BadImage: with the reason, whatever a decoder raised. Nothing else leaves this function.
    """
    _check_bytes(data, max_bytes)
    if data[:3] == b"\xff\xd8\xff":
        array = _decode_jpeg(data, max_pixels, min_side)
        if array is not None:
            return array
    elif data.startswith(_PNG):
        return _decode_png(data, max_pixels, min_side)
    return _decode_with_pillow(data, max_pixels, min_side)


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels by the header alone, EXIF orientation not applied.

    Raises:
        BadImage: if no header is recognised.
    """
    with _decoder_errors(), _open(data) as image:
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
    except Exception:  # noqa: BLE001 - whatever it is, Pillow says what is wrong
        return None
    _check_size(width, height, max_pixels, min_side)
    _check_scans(data, width * height)
    if colours not in ("YCbCr", "Gray", "RGB"):
        return None
    try:
        array: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except Exception:  # noqa: BLE001 - a warning: harmless bytes between segments, or a cut; Pillow tells them apart
        return None
    return _turn(array, _jpeg_orientation(data))


def _check_scans(data: bytes, pixels: int) -> None:
    """libjpeg goes over the whole image for each scan, and a scan of it can be a few bytes."""
    if data.count(b"\xff\xda") * pixels > _JPEG_WORK and (scans := len(_SCAN.findall(data))) * pixels > _JPEG_WORK:
        raise BadImage("too_much_work", f"{scans} scans of {pixels} pixels each")


def _jpeg_orientation(data: bytes) -> int:
    """Orientation 1..8 of a JPEG. Pillow's look at the header costs as much as a small image, so most are spared it."""
    head = data[: 1 << 20]
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return _orientation(image)
    except Exception:  # noqa: BLE001 - the pixels are good, whatever Pillow makes of what lies beside them
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


def _decode_png(data: bytes, max_pixels: int, min_side: int) -> Pixels:
    """A PNG as it is, or else without what Pillow refuses to read beside the pixels."""
    bare = _bare_png(data)
    try:
        return _decode_with_pillow(data, max_pixels, min_side)
    except BadImage as error:
        if error.reason not in ("corrupt", "not_an_image") or bare == data:
            raise
    try:
        return _decode_with_pillow(bare, max_pixels, min_side)
    except BadImage as error:
        raise BadImage("corrupt", "a damaged PNG") if error.reason == "not_an_image" else error from None


def _bare_png(data: bytes) -> bytes:
    """The chunks of a PNG that make its pixels, transparency and orientation, as they are; a cut stays a cut.

    Pillow stops at more than 1 MB of text or profile and at a wrong checksum in either, which no browser minds.
    """
    kept, position, kind = [_PNG], len(_PNG), b""
    for _ in range(_PNG_CHUNKS):
        if position >= len(data) or kind == b"IEND":
            return b"".join(kept)
        chunk = data[position : position + 12 + int.from_bytes(data[position : position + 4], "big")]
        kind = chunk[4:8]
        if kind[:1].isupper() or (kind in (b"tRNS", b"eXIf") and _checksum_holds(chunk)):
            kept.append(chunk)
        position += len(chunk)
    raise BadImage("too_much_work", f"a PNG of more than {_PNG_CHUNKS} chunks")


def _checksum_holds(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _decode_with_pillow(data: bytes, max_pixels: int, min_side: int) -> Pixels:
    with _decoder_errors(), _open(data) as image:
        _check_size(*image.size, max_pixels, min_side)
        _check_density(image.width * image.height, len(data), image.format)
        image.load()
        return _turn(np.array(_to_rgb(image), dtype=np.uint8), _orientation(image))


def _check_density(pixels: int, size: int, kind: str | None) -> None:
    """Large images in next to no bytes are blank, or made to cost memory and seconds."""
    per_byte = _WAVELET_PIXELS_PER_BYTE if kind == "JPEG2000" else _PIXELS_PER_BYTE
    if pixels > max(_LARGE, per_byte * size):
        raise BadImage("too_much_work", f"{pixels} pixels of {kind} in {size} bytes")


def _orientation(image: Image.Image) -> int:
    """Orientation 1..8 as Pillow's `exif_transpose` finds it; 1 where there is none, or one that says nothing."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything; the pixels are still good
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextlib.contextmanager
def _decoder_errors() -> Iterator[None]:
    """Whatever a decoder raises, as BadImage: RuntimeError (AVIF), MemoryError, struct.error and many more."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not_an_image", "no known image format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too_many_pixels", str(error)) from error
    except Exception as error:  # noqa: BLE001 - a bad image is a failure of its sample, never of the run
        text = str(error) or type(error).__name__
        cut = "truncated" in text or "unexpected end" in text.lower() or isinstance(error, EOFError)
        raise BadImage("truncated" if cut else "corrupt", text) from error


def resize_square(image: Pixels, size: int) -> Pixels:
    """Resize to `[S, S, 3]` with Pillow's antialiased bicubic filter, ignoring the aspect ratio as BLIP does.

    Within 2 of 255 levels of `Image.resize((S, S), BICUBIC)` of Pillow 13 for every image (measured, tested): the
    same filter in the same order of passes, with other rounding.
    """
    import torch

    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    planes = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
    # Both libraries round and clip between the passes, so the order shows at hard edges. Pillow takes the rows first
    # when that is the cheaper order and they shrink.
    vertical_first = height > size and 2 * width < height + size
    planes = _bicubic(planes, (size, width) if vertical_first else (height, size))
    return np.ascontiguousarray(_bicubic(planes, (size, size))[0].permute(1, 2, 0).numpy())


def within(image: Pixels, side: int) -> Pixels:
    """The image, its longer side brought down to `side` pixels where it is longer; else the very same."""
    import torch

    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= side:
        return image
    size = (max(1, round(height * side / longest)), max(1, round(width * side / longest)))
    planes = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
    return np.ascontiguousarray(_bicubic(planes, size)[0].permute(1, 2, 0).numpy())


def _bicubic(planes: "torch.Tensor", size: tuple[int, int]) -> "torch.Tensor":
    import torch

    if tuple(planes.shape[2:]) == size:
        return planes
    return torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)


def to_pixels(
    batch: "Pixels | torch.Tensor",
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
    *,
    device: "torch.device | str | None" = None,
) -> "torch.Tensor":
    """Normalise squares uint8 `[B, S, S, 3]` to float32 `[B, 3, S, S]`: `(value / 255 - mean) / std` per channel.

    The bytes travel to `device` before they become floats: a quarter of the traffic.
    """
    import torch

    tensor = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(batch)
    tensor = tensor.to(device=device) if device is not None else tensor
    scale = torch.tensor([1.0 / (255.0 * value) for value in std], device=tensor.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=tensor.device)
    return torch.addcmul(shift, tensor.to(torch.float32), scale).permute(0, 3, 1, 2).contiguous()
