"""Images of a dataset as the models want them."""

from collections.abc import Sequence

import numpy as np

from components.data.decoding import Pixels, decode_image, resize_square, within
from components.data.views import EvalImage
from components.inference.families import WHOLE_SIDE
from components.inference.protocols import WHOLE


def image_at(image: Pixels, size: int) -> Pixels:
    """An image as a model of this `size` takes it: a square, or (WHOLE) as it is, sides beyond WHOLE_SIDE shrunk."""
    return within(image, WHOLE_SIDE) if size == WHOLE else resize_square(image, size)


def images_of(images: Sequence[EvalImage], size: int) -> Pixels | list[Pixels]:
    """Decoded images of a dataset as a model of this `size` takes them.

    Raises:
        BadImage: one of them cannot be decoded.
    """
    if size != WHOLE:
        return squares_of(images, size)
    return [image_at(decode_image(image.image), size) for image in images]


def squares_of(images: Sequence[EvalImage], size: int) -> Pixels:
    """Decoded and squared, uint8 `[B, S, S, 3]`, as CapFilt shows web images to the models.

    Raises:
        BadImage: one of them cannot be decoded.
    """
    return np.stack([resize_square(decode_image(image.image), size) for image in images])
