"""Settings of those who run a model on images. Light to import: the command line makes its options of them."""

from pydantic import BaseModel, ConfigDict, Field

from components.common.identity import harmless
from components.common.precision import AnyPrecision
from components.data.config import pixel_limit, side_limit
from components.model.config import AnsweringConfig

_READING = harmless("it decides whether an image is read, not what is said of it")


class AskConfig(AnsweringConfig):
    """How questions about single images are answered."""

    image_size: int | None = Field(default=None, ge=16, description="image side in pixels; null: the model's own")
    precision: AnyPrecision = Field(
        default="auto", description="arithmetic of the model; auto: bf16 where it is faster, else fp32"
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        description="images per batch",
        json_schema_extra=harmless("the same calculation, rounded otherwise at most"),
    )
    max_pixels: int = pixel_limit(_READING)
    min_side: int = side_limit(_READING)


class EndpointConfig(BaseModel):
    """How a server is asked; what it is asked is `decoding`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=16, ge=1, le=1024, description="requests under way at once")
    timeout: float = Field(default=120.0, gt=0, description="seconds until a request must be answered")
    attempts: int = Field(default=5, ge=1, description="times a request is sent before its caption counts as failed")
    pause: float = Field(
        default=1.0, ge=0, description="seconds before the second attempt; doubled for each further one"
    )
    give_up_after: int = Field(default=20, ge=1, description="captions failed in a row after which the run ends")
    max_requests: int | None = Field(default=None, ge=0, description="requests a run may send; null: any number")
    max_tokens: int | None = Field(default=None, ge=0, description="tokens a run may be answered; null: any number")
