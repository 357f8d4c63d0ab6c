"""Limits of images, and settings of the loader, which a training's config takes over as they are."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from components.common.identity import harmless

MAX_PIXELS = 50_000_000
"""Pixels beyond which an image is refused undecoded."""
MIN_SIDE = 2
"""Shortest side in pixels below which an image is refused: tracking pixels are none."""


def pixel_limit(mark: JsonDict | None = None) -> Any:
    """Field of a config that limits the pixels of images.

    Args:
        mark: why it does not decide there, where it does not (`identity.harmless`).
    """
    words = "pixels beyond which an image is refused undecoded"
    return Field(default=MAX_PIXELS, ge=1, description=words, json_schema_extra=mark)


def side_limit(mark: JsonDict | None = None) -> Any:
    """Field of a config that refuses small images; `mark` as of `pixel_limit`."""
    words = "shortest side in pixels below which an image is refused"
    return Field(default=MIN_SIDE, ge=1, description=words, json_schema_extra=mark)


_SPEED = harmless("how fast the same batches are made")


class LoaderConfig(BaseModel):
    """How pairs are shuffled, decoded and augmented."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=64, ge=1, description="pairs per process and micro-batch")
    image_size: int | None = Field(default=None, ge=8, description="pixels per side; default: the model's own")
    max_pixels: int = pixel_limit()
    augment: bool = Field(default=True, description="random views; without, every image is just squared")
    min_scale: float = Field(
        default=0.2, gt=0, le=1, description="smallest area share of the random crop; 1: the whole image is squared"
    )
    flip: bool = Field(default=True, description="mirror half of the images; off where captions say left and right")
    randaugment: bool = Field(default=True, description="random photometric and geometric operations on images")
    randaugment_operations: int = Field(default=2, ge=1, description="how many of them per image")
    randaugment_magnitude: int = Field(default=5, ge=0, le=10, description="their strength of 10")
    randaugment_as_released: bool = Field(
        default=False,
        description="the reference's magnitudes: at strength 5 brightness and sharpness do nothing, and images move "
        "by 5 pixels whatever their size",
    )
    max_words: int = Field(default=30, ge=1, description="words kept of a caption")
    shuffle_shards: int = Field(default=8, ge=1, description="shards whose pairs are shuffled together")
    loader_threads: int | None = Field(
        default=None, ge=1, description="threads decoding images; default: threads", json_schema_extra=_SPEED
    )
    prefetch: int = Field(default=3, ge=1, description="batches made ahead", json_schema_extra=_SPEED)
    cache_decoded_mb: int = Field(
        default=512,
        ge=0,
        description="RAM of each process for decoded images, MiB; what fits stays. The same again for what a frozen "
        "vision transformer makes of images that are shown without change, on CPUs, if all of it fits",
        json_schema_extra=_SPEED,
    )
    cache_dir: str | None = Field(
        default=None,
        description="folder for shards from S3; default: in the user's cache",
        json_schema_extra=harmless("a place for copies"),
    )
    cache_gb: float = Field(
        default=50.0,
        gt=0,
        description="size of that folder, GiB; shards unused longest go first",
        json_schema_extra=_SPEED,
    )

    @property
    def shows_alike(self) -> bool:
        """Whether an image is shown without change every time: squared as a whole, if anything."""
        return not self.augment or (self.min_scale == 1 and not self.flip and not self.randaugment)
