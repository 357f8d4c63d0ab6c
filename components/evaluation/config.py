"""What is measured after each round, and when a new model may take the champion's place."""

import difflib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.common.identity import harmless
from components.common.metrics import PRIMARY, measured
from components.common.precision import AnyPrecision
from components.common.resampling import IntervalConfig
from components.model.config import DecodingConfig

MEASUREMENT = "measurement"
"""What `identity.deciding` is asked for: what is measured, not what is concluded from it."""

_ROUNDING = harmless("the same calculation, rounded otherwise at most")
MEASURED = measured()
"""What has floors: everything that is measured of a round's finetuned models."""
_UNWEIGHED = ("eval/caption/distinct_captions", "eval/retrieval/itc_mean_recall")
WEIGHED = tuple(name for name in MEASURED if name not in _UNWEIGHED)
"""What can decide which round wins: what has intervals."""


class RetrievalConfig(BaseModel):
    """Image-text retrieval: ITC over all pairs, ITM re-ranking of the best (docs/facts.md 9)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(
        default=64, ge=10, description="candidates per query that ITM re-ranks; paper: 256 COCO, 128 Flickr"
    )
    image_batch: int = Field(default=64, ge=1, description="images encoded at a time", json_schema_extra=_ROUNDING)
    text_batch: int = Field(default=256, ge=1, description="texts encoded at a time", json_schema_extra=_ROUNDING)
    pair_batch: int = Field(
        default=256,
        ge=1,
        description="texts scored by ITM against one image at a time",
        json_schema_extra=_ROUNDING,
    )
    resident_images: int = Field(
        default=1024,
        ge=0,
        description="image keys and values kept between the two passes; more images are encoded twice",
        json_schema_extra=harmless("only memory and time"),
    )
    max_words: int = Field(default=30, ge=1, description="words a text is cut to, as in training")
    max_tokens: int = Field(default=35, ge=4, description="word pieces a text is cut to, [CLS] and [SEP] included")


class GateConfig(BaseModel):
    """When a round's model is promoted to champion: how far beyond noise it must be better, and what it may lose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: tuple[str, ...] = Field(
        default=PRIMARY,
        min_length=1,
        description="metrics that are compared with the champion's; higher is better",
    )
    min_gain: float = Field(
        default=0.0,
        ge=0,
        description="relative gain that the lower end of the interval must exceed in one of the metrics, e.g. 0.01 for "
        "one per cent; 0: any gain beyond noise",
    )
    max_loss: float = Field(
        default=0.02,
        ge=0,
        description="relative loss allowed in any single one of the metrics while it is within noise",
    )
    sure_of_no_loss: bool = Field(
        default=False,
        description="ask for certainty: no interval may reach below max_loss, so that metrics that the test images "
        "measure too coarsely refuse too",
    )
    floors: dict[str, float] = Field(
        default_factory=dict, description="least value of any named metric, champion or not"
    )

    @model_validator(mode="after")
    def _measured(self) -> "GateConfig":
        for names, known in ((self.metrics, WEIGHED), (self.floors, MEASURED)):
            for name in names:
                if name in MEASURED and name not in known:
                    raise ValueError(f"{name} has no interval, so it cannot decide; it may have a floor")
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"choose of {', '.join(known)}"
                    raise ValueError(f"no metric is called {name!r}; {hint}")
        return self


class EvaluationConfig(BaseModel):
    """How each round is measured on the human test split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoding: DecodingConfig = Field(
        default=DecodingConfig(method="beam", beams=3, min_length=5, max_length=20),
        description="how test captions are made; BLIP's COCO setting is beam search of 3, 5 to 20 tokens",
    )
    retrieval: RetrievalConfig = Field(default=RetrievalConfig(), description="how retrieval is measured")
    gate: GateConfig = Field(
        default=GateConfig(),
        description="when a model is promoted",
        json_schema_extra=harmless("it judges what was measured", to=MEASUREMENT),
    )
    intervals: IntervalConfig = Field(
        default=IntervalConfig(),
        description="how far figures and changes could be off by the choice of test images",
        json_schema_extra=harmless("it says how sure one can be of what was measured", to=MEASUREMENT),
    )
    base_models: bool = Field(
        default=True,
        description="measure the retrieval of base models too, as pre-training leaves them",
        json_schema_extra=harmless("they are measured apart", to=MEASUREMENT),
    )
    caption_batch: int = Field(default=64, ge=1, description="images captioned at a time", json_schema_extra=_ROUNDING)
    precision: AnyPrecision = Field(
        default="fp32",
        description="arithmetic of the models' forward passes, autocast but for fp32; auto: bf16 where a probe finds "
        "it 1.3 times faster, tried once per store and kept in its precision-evaluation.json",
    )
    limit: int | None = Field(default=None, ge=1, description="measure on the first so many test images only")
    position_zero: Literal["enc", "cls"] | None = Field(
        default=None, description="token at position 0 of the filter's texts; null: what the model folder says"
    )

    @model_validator(mode="after")
    def _deterministic(self) -> "EvaluationConfig":
        if self.decoding.method == "nucleus":
            raise ValueError("evaluation.decoding.method: use `beam` or `greedy`; sampled captions vary with the seed")
        return self
