"""Images as callers have them: files, bytes, or Pillow images."""

import io
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from components.common.errors import ConfigError, DataError
from components.data.decoding import Pixels, decode_image

if TYPE_CHECKING:
    from PIL import Image

ImageLike: TypeAlias = "str | PathLike[str] | bytes | Image.Image"
Named = tuple[str, bytes]
"""What to call an image, and its file's bytes."""


def read_images(images: "Sequence[ImageLike]") -> list[Named]:
    """Every image as a file's bytes, named by its path, or by its place where it has none.

    Raises:
        ConfigError: files that do not exist, all of them named.
    """
    if isinstance(images, (str, bytes, PathLike)):
        raise ConfigError("images is a list of images: put the one image into brackets")
    paths = [Path(one) for one in images if isinstance(one, (str, PathLike))]
    if missing := [path for path in paths if not path.is_file()]:
        raise ConfigError("\n".join(f"there is no file {path}" for path in missing))
    return [_named(one, at) for at, one in enumerate(images)]


def _named(image: "ImageLike", place: int) -> Named:
    if isinstance(image, (str, PathLike)):
        return fspath(image), Path(image).read_bytes()
    if isinstance(image, bytes):
        return f"image {place}", image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")  # loses nothing of what is an image's colours
    return f"image {place}", buffer.getvalue()


def batches(images: Sequence[Named], size: int) -> Iterator[Sequence[Named]]:
    """The images in order, `size` at a time."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


class Limits(Protocol):
    """Which images are refused; settings that have these fields will do."""

    @property
    def max_pixels(self) -> int:
        """Pixels beyond which an image is refused undecoded."""

    @property
    def min_side(self) -> int:
        """Shortest side in pixels below which it is refused."""


def squares(images: Sequence[Named], side: int, config: Limits) -> Pixels:
    """Images as a model sees them, `[B, side, side, 3]`.

    Raises:
        DataError: one of them is none; names it.
    """
    return np.stack([_decoded(name, data, side, config) for name, data in images])


def pictures(images: Sequence[Named], size: int, config: Limits) -> Pixels | list[Pixels]:
    """Images as a model of this `size` takes them: squares, or each as it is.

    Raises:
        DataError: one of them is none; names it.
    """
    return squares(images, size, config) if size else [_decoded(name, data, size, config) for name, data in images]


def _decoded(name: str, data: bytes, size: int, config: Limits) -> Pixels:
    from components.inference.squares import image_at

    try:
        return image_at(decode_image(data, max_pixels=config.max_pixels, min_side=config.min_side), size)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
