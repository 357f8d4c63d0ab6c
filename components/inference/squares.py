"""Images of a dataset as the models want them."""

from collections.abc import Sequence

import numpy as np

from components.data.decoding import Pixels, decode_image, resize_square
from components.data.views import EvalImage


def squares_of(images: Sequence[EvalImage], size: int) -> Pixels:
    """Decoded and squared, uint8 `[B, S, S, 3]`, as CapFilt shows web images to the models.

    Raises:
        BadImage: one of them cannot be decoded.
    """
    return np.stack([resize_square(decode_image(image.image), size) for image in images])
