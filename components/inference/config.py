"""Settings of those who run a model on images."""

from pydantic import BaseModel, ConfigDict, Field


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
