"""How large the sample world is, and how bad its web texts are."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.data.sampleworld.webtext import Kind


class NoiseProfile(BaseModel):
    """Shares of the kinds among the bad web texts; they add up to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    other_image: float = Field(default=0.35, ge=0, le=1, description="share of texts that belong to another picture")
    alt_text: float = Field(default=0.2, ge=0, le=1, description="share of shop texts about something unrelated")
    junk: float = Field(default=0.15, ge=0, le=1, description="share of file names and page furniture")
    half_right: float = Field(default=0.3, ge=0, le=1, description="share of texts with one wrong attribute")

    @model_validator(mode="after")
    def _whole(self) -> "NoiseProfile":
        total = self.other_image + self.alt_text + self.junk + self.half_right
        if abs(total - 1) > 1e-6:
            raise ValueError(f"other_image + alt_text + junk + half_right is {total:g}; the shares must add up to 1")
        return self

    def shares(self) -> dict[Kind, float]:
        """Kind of bad text -> its share among the bad ones."""
        return {
            "other-image": self.other_image,
            "alt-text": self.alt_text,
            "junk": self.junk,
            "half-right": self.half_right,
        }


class SampleWorldConfig(BaseModel):
    """A sample world; equal configs give equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, description="seed of everything in the world")
    image_size: int = Field(
        default=72, ge=24, le=1024, description="side of the square pictures, pixels; a third of it holds one thing"
    )
    jpeg_quality: int = Field(default=92, ge=1, le=100, description="JPEG quality, 1 to 100")
    human_train: int = Field(default=400, ge=1, description="pictures with human captions to train on")
    human_val: int = Field(default=100, ge=1, description="pictures with human captions to choose by")
    human_test: int = Field(default=300, ge=1, description="pictures with human captions to measure on")
    captions_per_image: int = Field(default=5, ge=1, le=20, description="human captions of each of those pictures")
    web: int = Field(default=2500, ge=1, description="web pictures, each with one text")
    bad_share: float = Field(default=0.55, ge=0, le=1, description="share of web texts that do not match their picture")
    noise: NoiseProfile = Field(default=NoiseProfile(), description="what kinds the bad web texts are of")
    shard_size: int = Field(default=500, ge=1, le=10_000, description="web pictures per shard")
