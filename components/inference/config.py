"""Settings of models at work on single images. Light to import: the command line makes its options of them."""

from typing import Literal

from pydantic import Field

from components.common.identity import harmless
from components.model.config import AnsweringConfig

_READING = harmless("it decides whether an image is read, not what is said of it")


class AskConfig(AnsweringConfig):
    """How questions about single images are answered."""

    image_size: int | None = Field(default=None, ge=16, description="image side in pixels; null: the model's own")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="arithmetic of the model; auto: bf16 where it is faster, else fp32"
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        description="images per batch",
        json_schema_extra=harmless("the same calculation, rounded otherwise at most"),
    )
    max_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="pixels beyond which an image is refused undecoded",
        json_schema_extra=_READING,
    )
    min_side: int = Field(
        default=2,
        ge=1,
        description="shortest side in pixels below which an image is refused",
        json_schema_extra=_READING,
    )
