"""What a vision transformer that does not learn makes of images that never look different: computed once each.

Shapes: B images, S image side, N patches, D width.
"""

import torch
from torch import Tensor

from components.model.vision import VisionTransformer


class RememberedTokens:
    """Tokens of a frozen vision transformer by image.

    Each image goes through alone, the first time it is seen: its tokens are then the same bits whatever batch
    it came in, and wherever a training was stopped and gone on with.

    Args:
        vision: takes no gradient and draws nothing at random.
        images: different ones that will come, at most.
    """

    def __init__(self, vision: VisionTransformer, images: int) -> None:
        self._vision = vision
        self._rows: dict[int, int] = {}
        # One block, whose pages the system gives when they are written: see the loader's decoded images.
        self._tokens = torch.empty(images, 1 + vision.config.patches, vision.config.width)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, image_ids: Tensor) -> Tensor:
        """Tokens `[B, 1+N, D]` of images `[B, 3, S, S]` with ids `[B]`, on the CPU."""
        numbers: list[int] = image_ids.tolist()
        for at, number in enumerate(numbers):
            if number not in self._rows:
                self._tokens[len(self._rows)] = self._vision(pixels[at : at + 1])[0]
                self._rows[number] = len(self._rows)
        return self._tokens[[self._rows[number] for number in numbers]]


def bytes_needed(vision: VisionTransformer, images: int) -> int:
    """Bytes that so many images' tokens take."""
    return images * (1 + vision.config.patches) * vision.config.width * 4
