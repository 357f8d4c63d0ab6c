"""Random views of training images: crop, mirror and RandAugment, as BLIP's loaders make them.

Shapes: S side of a square in pixels; arrays are uint8 RGB `[H, W, 3]`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.config import LoaderConfig
from components.data.decoding import Pixels, resize_square


class TrainAugmentation:
    """Random resized crop, mirror, RandAugment: what BLIP's loaders do to training images.

    BLIP crops to 0.2 of the area and more in pre-training, 0.5 in finetuning, and draws two operations of strength 5.
    As released, brightness and sharpness have factor 1 at that strength, so do nothing, and translation is 5 px at any
    image size; here factors are 1 ± 0.09 per magnitude, and translation grows with the image.

    Args:
        size: side of the result in pixels.
        config: which of it, and how strongly.
    """

    def __init__(self, size: int, config: LoaderConfig) -> None:
        self.size, self.config = size, config

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """One random view `[S, S, 3]` of an image, decided by `rng` alone."""
        top, left, height, width = self._crop(image.shape[0], image.shape[1], rng)
        view = resize_square(image[top : top + height, left : left + width], self.size)
        if self.config.flip and rng.random() < 0.5:
            view = np.ascontiguousarray(view[:, ::-1])
        for _ in range(self.config.randaugment_operations if self.config.randaugment else 0):
            name = _OPERATIONS[int(rng.integers(len(_OPERATIONS)))]
            applied, negative = rng.random() < 0.5, rng.random() < 0.5
            if applied:
                view = self._apply(name, view, -1.0 if negative else 1.0)
        return view

    def _crop(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height, width: ten tries at a random area and aspect ratio in 3/4..4/3, else the centre."""
        if self.config.min_scale == 1.0:
            return 0, 0, height, width
        for _ in range(10):
            area = height * width * rng.uniform(self.config.min_scale, 1.0)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        return (height - h) // 2, (width - w) // 2, h, w

    def _apply(self, name: str, view: Pixels, sign: float) -> Pixels:
        strength = self.config.randaugment_magnitude / 10
        released = self.config.randaugment_as_released
        factor = strength * 1.8 + 0.1 if released else 1.0 + sign * 0.9 * strength
        shift = 10 * strength if released else 10 * strength * self.size / 224
        if name == "autocontrast":
            return _stretch(view)
        if name == "equalize":
            return _equalize(view)
        if name == "brightness":
            return view if factor == 1.0 else _lookup(view, np.arange(256) * factor)
        if name == "sharpness":
            return view if factor == 1.0 else _sharpen(view, factor)
        if name == "identity":
            return view
        return _warp(view, _matrix(name, sign, strength, shift, self.size))


_OPERATIONS = (
    "identity", "autocontrast", "brightness", "sharpness", "equalize",
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
)  # fmt: skip


def _cv2() -> Any:
    import cv2  # takes a moment to load, and only augmentation needs it

    return cv2


def _lookup(view: Pixels, table: NDArray[Any]) -> Pixels:
    """Map every value through a table `[256]` or `[256, 3]`, clipped to 0..255."""
    table = np.clip(table, 0, 255).astype(np.uint8)
    return table[view] if table.ndim == 1 else np.stack([table[view[..., c], c] for c in range(3)], axis=-1)


def _stretch(view: Pixels) -> Pixels:
    """Autocontrast: stretch every channel to 0..255."""
    low, high = view.min(axis=(0, 1)).astype(np.float64), view.max(axis=(0, 1)).astype(np.float64)
    scale = np.where(high > low, 255.0 / np.maximum(high - low, 1), 1.0)
    return _lookup(view, (np.arange(256)[:, None] - np.where(high > low, low, 0)) * scale)


def _equalize(view: Pixels) -> Pixels:
    """Flatten every channel's histogram, by Pillow's integer rule."""
    tables = []
    for channel in range(3):
        counts = np.bincount(view[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if np.count_nonzero(counts) <= 1 or step == 0:
            tables.append(np.arange(256))
        else:
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            tables.append((before + step // 2) // step)
    return _lookup(view, np.stack(tables, axis=-1))


def _sharpen(view: Pixels, factor: float) -> Pixels:
    """Blend with a smoothed copy; the one-pixel border stays as it is."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = _cv2().filter2D(view, -1, kernel / 13)
    blended = view.copy()
    inner = view[1:-1, 1:-1].astype(np.float32) * factor + smooth[1:-1, 1:-1].astype(np.float32) * (1 - factor)
    blended[1:-1, 1:-1] = np.clip(inner, 0, 255).astype(np.uint8)
    return blended


def _matrix(name: str, sign: float, strength: float, shift: float, size: int) -> NDArray[np.float32]:
    """The 2 x 3 forward affine matrix of a geometric operation."""
    if name == "rotate":
        rotation: NDArray[np.float32] = _cv2().getRotationMatrix2D((size / 2, size / 2), sign * 30 * strength, 1)
        return rotation
    matrix = np.eye(2, 3, dtype=np.float32)
    row = 0 if name.endswith("_x") else 1
    if name.startswith("shear"):
        matrix[row, 1 - row] = sign * 0.3 * strength
    else:
        matrix[row, 2] = -sign * shift
    return matrix


def _warp(view: Pixels, matrix: NDArray[np.float32]) -> Pixels:
    cv2 = _cv2()
    warped: Pixels = cv2.warpAffine(
        view, matrix, (view.shape[1], view.shape[0]), flags=cv2.INTER_LINEAR, borderValue=(128, 128, 128)
    )
    return warped
