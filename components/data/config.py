"""Settings of the loader."""

from pydantic import BaseModel, ConfigDict, Field


class LoaderConfig(BaseModel):
    """How pairs are shuffled, decoded and augmented."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=224, ge=8, description="side of the squares, pixels")
    batch_size: int = Field(default=64, ge=1, description="pairs per process and batch")
    augment: bool = Field(default=True, description="random views; without, every image is just squared")
    min_scale: float = Field(default=0.5, gt=0, le=1, description="smallest area share of the random crop")
    flip: bool = Field(default=True, description="random horizontal flip")
    randaugment: int = Field(default=2, ge=0, description="RandAugment operations per image")
    magnitude: int = Field(default=5, ge=0, le=10, description="their strength of 10")
    reference_quirks: bool = Field(default=True, description="RandAugment exactly as in BLIP's released code")
    max_words: int = Field(default=30, ge=1, description="words kept of a caption")
    threads: int = Field(default=2, ge=1, description="threads that decode and augment")
    prefetch: int = Field(default=3, ge=1, description="batches made ahead")
    shuffle_shards: int = Field(default=8, ge=1, description="shards whose pairs are shuffled together")
    cache_decoded_mb: int = Field(default=512, ge=0, description="RAM for decoded images, MiB; what fits stays")
    cache_dir: str | None = Field(default=None, description="folder for shards from S3; default: in the user's cache")
    cache_gb: float = Field(default=50.0, gt=0, description="size of that folder, GiB; shards unused longest go first")
    max_pixels: int = Field(default=50_000_000, ge=1, description="images with more pixels are refused")
