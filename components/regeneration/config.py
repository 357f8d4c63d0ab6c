"""CapFilt's settings. What changes the output is in the fingerprint; what only changes the speed is not."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from components.common.contracts import ScoreWeights
from components.common.identity import deciding, harmless
from components.common.precision import AnyPrecision
from components.data.config import pixel_limit, side_limit
from components.data.scores import ITM
from components.inference.config import EndpointConfig
from components.model.config import DecodingConfig
from components.regeneration.guard import GuardConfig
from components.regeneration.policy import Policy, TextChoice
from components.regeneration.rules import Rule
from components.regeneration.textfilters import Setting, settled_filters

OUTPUT_VERSION = 2  # 2: files named by content, seeds that belong to the image
"""Raised whenever the same input, models and config would give other bytes."""

OUTPUT, CALIBRATION = "output", "calibration"
"""What `identity.deciding` is asked for: what CapFilt makes, and how its filter is measured."""

_SPEED = harmless("only the speed")
_ROUNDING = harmless("the same calculation, rounded otherwise at most")
_CAPTIONING = harmless("human captions are measured, none are made", to=CALIBRATION)
_CHOOSING = harmless("scores are measured, nothing is kept or dropped", to=CALIBRATION)
_READING = harmless("which web images are read; human ones were chosen by their import", to=CALIBRATION)
_NEWER = harmless("it was so before it could be set", at=None)
_THRESHOLD = harmless("the threshold that was found decides, not how it was found", to=OUTPUT)


class CalibrationConfig(BaseModel):
    """How the filter is measured on human validation captions: see calibration.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(default=300, ge=2, description="first so many validation images are used")
    negatives: int = Field(
        default=5, ge=1, description="wrong texts per image: captions of the images that look most like it"
    )
    bad_share: float = Field(
        default=0.5, gt=0, lt=1, description="share of wrong texts before filtering that purity reckons with"
    )
    drift: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="change of purity or yield from round to round that is told as drift if it is beyond noise too",
        json_schema_extra=harmless("only what is told"),
    )


class CascadeConfig(BaseModel):
    """What is left out because it would hardly change a decision: see band.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    web: tuple[float, float] | None = Field(
        default=None,
        description="cosines (ITC) below which a web text is refused and above which it is accepted without ITM; -1 "
        "and 1: never; null: found on a sample",
    )
    synthetic: tuple[float, float] | None = Field(
        default=None, description="the same of synthetic texts, whose cosines lie elsewhere"
    )
    tolerance: float = Field(
        default=0.005,
        gt=0,
        lt=0.5,
        description="share of the decisions that may be others than those of a full pass: with 95 % certainty the "
        "bands that are found keep below it, and a run that is clearly above it stops",
    )
    sample: int = Field(
        default=2000, ge=100, description="images of the web data that are worked on in full to find the bands"
    )
    audit: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="share of the images, drawn by their keys, that are worked on in full, so that it can be said what "
        "the cascade changes",
    )

    @model_validator(mode="after")
    def _bands_are_bands(self) -> Self:
        if (self.web is None) != (self.synthetic is None):
            raise ValueError("set bands for web and for synthetic texts (-1 1: ITM always), or neither")
        for name in ("web", "synthetic"):
            low, high = getattr(self, name) or (-1, 1)
            if not -1 <= low <= high <= 1:
                raise ValueError(f"cascade.{name} {low:g} {high:g}: two cosines are needed, the lower one first")
        return self

    def band(self, source: str) -> tuple[float, float]:
        """The cosines of a source's texts between which ITM decides, ends included."""
        found = self.web if source == "web" else self.synthetic
        if found is None:
            raise ValueError("the bands have yet to be found")
        return found


class CapfiltConfig(BaseModel):
    """How web texts are rewritten and cleaned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(
        default=0,
        description="seed of the sampled captions (each image has its own stream)",
        json_schema_extra=_CAPTIONING,
    )
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig, description="how captions are decoded", json_schema_extra=_CAPTIONING
    )
    captions_per_image: int = Field(
        default=1, ge=1, le=64, description="synthetic captions per image", json_schema_extra=_CAPTIONING
    )
    threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="value of the filter's score (BLIP: match probability) from which a text is kept; 0.5 is meant for "
        "BLIP, of another filter it must be set",
    )
    threshold_of: dict[str, str] = Field(
        default_factory=dict,
        description="for whom thresholds were found: a score's name to its scorer's digest, or the first 8 characters "
        "of it at least; with another scorer nothing is started",
        json_schema_extra=harmless("it refuses, and changes nothing"),
    )
    score: str | None = Field(
        default=None,
        description="name of the score that `threshold` and `best` mean; null: the filter's first (BLIP: itm)",
        json_schema_extra=_NEWER,
    )
    keep: str | None = Field(
        default=None,
        description="rule in the place of `threshold`, over the scores by name, words and source, e.g. `itm >= 0.5 and "
        "siglip >= 0.1`; policies then choose among the texts that it accepts; null: `threshold`",
        json_schema_extra=_NEWER,
    )
    weigh: str | None = Field(
        default=None,
        description="rule for a pair's weight in training, e.g. `siglip` or `2 * itm`: how often it is met in relation "
        "to others; 0 or less drops it; without `keep` it takes the place of `threshold`, and nothing else is dropped; "
        "null: every pair weighs 1",
        json_schema_extra=_NEWER,
    )
    check_captions: bool | None = Field(
        default=None,
        description="hold captions against rules for what is cut, repeated, empty, an echo or a refusal, and drop it; "
        "null: those of all captioners but BLIP",
        json_schema_extra=_NEWER,
    )
    text_filters: dict[str, Setting] = Field(
        default_factory=dict,
        description="what drops texts by themselves before any score is spent on them, by name: language (a code, "
        "`en`), words and characters (`3..40`), block (a file of words and phrases, one a line, or a list of them)",
        json_schema_extra=harmless("there were none before they could be set", at={}),
    )
    calibrated: Literal["itc", "both"] | None = Field(
        default=None,
        description="scores of a BLIP filter that a regression on human validation captions makes one probability of, "
        "which `threshold` and `best` then mean: itc (the cosine) | both (it and the match probability); null: none",
        json_schema_extra=_NEWER,
    )
    weights: ScoreWeights | None = Field(
        default=None,
        description="what the regression of `calibrated` found; null: fitted on human validation captions",
        json_schema_extra=_NEWER,
    )
    target_precision: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the kept texts that shall fit their image: the threshold is chosen for it on human "
        "validation captions and takes the place of `threshold`; the stage stops if no threshold reaches it; null: "
        "`threshold` as it stands",
        json_schema_extra=_THRESHOLD,
    )
    calibration: CalibrationConfig = Field(
        default_factory=CalibrationConfig,
        description="how purity and yield of the filter are measured",
        json_schema_extra=_THRESHOLD,
    )
    policy: Policy = Field(
        default="keep_both",
        description="keep_both (paper) | replace | best_of | best_each (the best web text and the best synthetic "
        "one, for several captions_per_image) | fallback",
        json_schema_extra=_CHOOSING,
    )
    text: TextChoice = Field(
        default="web",
        description="which of an image's kept captions becomes its .txt: web (the web text where it was kept, else the "
        "first synthetic one) | synthetic (the other way round) | best (the highest match probability) | random (drawn "
        "per image); the .json holds all",
        json_schema_extra=_CHOOSING,
    )
    cascade: CascadeConfig | None = Field(
        default=None,
        description="ask ITM only where ITC leaves the decision open, and for captions only where `fallback` needs "
        "one; null: every text is scored, every image captioned",
        json_schema_extra=_NEWER,
    )
    coin: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="control experiment: accept texts by a coin of this rate, not by score",
        json_schema_extra=_CHOOSING,
    )
    position_zero: Literal["enc", "cls"] = Field(
        default="enc",
        description="token at position 0 of the filter's texts: [ENC] as trained, [CLS] as in BLIP's demo",
    )
    image_size: int | None = Field(default=None, ge=16, description="image side in pixels; null: the model's own")
    max_words: int = Field(default=30, ge=1, description="words of a text that the filter reads")
    max_tokens: int = Field(default=35, ge=4, description="tokens of a text that the filter reads")
    max_pixels: int = pixel_limit(_READING)
    min_side: int = side_limit(_READING)
    precision: AnyPrecision = Field(
        default="auto",
        description="arithmetic of the models; auto: bf16 where a probe finds it 1.3 times faster than fp32, tried "
        "once per store and kept in its precision.json; fp16: for GPUs before Ampere, which have no bf16",
    )
    batch_size: int = Field(
        default=32, ge=1, description="images per batch; halved where memory runs out", json_schema_extra=_ROUNDING
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="first N images only, to try settings; null: all",
        json_schema_extra=_READING,
    )
    guard: GuardConfig = Field(
        default_factory=GuardConfig,
        description="when captions count as collapsed",
        json_schema_extra=harmless("it stops the work or lets it be, and changes no byte"),
    )
    endpoint: EndpointConfig = Field(
        default_factory=EndpointConfig,
        description="how a captioner behind a server is asked",
        json_schema_extra=harmless("how often and how fast the same is asked"),
    )
    engine: Literal["local", "ray"] = Field(
        default="local", description="this machine, or a Ray cluster", json_schema_extra=_SPEED
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="processes that hold the models (Ray: actors); 0: one per GPU, or one without any",
        json_schema_extra=_SPEED,
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="arithmetic threads per worker; 0: its share of the cores",
        json_schema_extra=_ROUNDING,
    )
    read_threads: int = Field(
        default=4, ge=1, description="threads that read and decode images", json_schema_extra=_SPEED
    )
    retries: int = Field(
        default=3,
        ge=0,
        description="times a shard is tried again after trouble that can heal",
        json_schema_extra=harmless("how often the same is tried"),
    )

    @field_validator("text_filters")
    @classmethod
    def _filters_are_filters(cls, settings: dict[str, Setting]) -> dict[str, Setting]:
        return settled_filters(settings)

    @model_validator(mode="after")
    def _several_captions_are_drawn(self) -> Self:
        if self.captions_per_image > 1 and self.decoding.method != "nucleus":
            raise ValueError(
                f"{self.decoding.method} search gives one caption per image: set decoding.method to nucleus for "
                f"{self.captions_per_image}"
            )
        return self

    @model_validator(mode="after")
    def _rules_are_rules(self) -> Self:
        for name, yields in (("keep", bool), ("weigh", float)):
            if (text := getattr(self, name)) is not None:
                try:
                    Rule(text, yields)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        ruled = "keep" if self.keep is not None else "weigh" if self.weigh is not None else None
        if ruled is not None and (self.target_precision is not None or self.coin is not None):
            other = "target_precision" if self.target_precision is not None else "coin"
            raise ValueError(f"{other} and {ruled} both say what is kept: set one of them")
        short = [digest for digest in self.threshold_of.values() if len(digest) < 8]
        if short:
            raise ValueError(f"threshold_of: {short[0]!r} is too short: give 8 characters of the digest")
        return self

    @model_validator(mode="after")
    def _weights_are_of_something(self) -> Self:
        if self.calibrated is None and self.weights is not None:
            raise ValueError("weights are what a regression found: set calibrated to both or itc, or leave them out")
        others = [name for name in ("coin", "score", "keep", "weigh") if getattr(self, name) is not None]
        if self.calibrated is not None and others:
            raise ValueError(
                f"calibrated and {others[0]} both say what decides: set one of them (calibrated: null leaves it out)"
            )
        return self

    @model_validator(mode="after")
    def _a_cascade_decides_by_a_threshold(self) -> Self:
        others = [name for name in ("coin", "keep", "weigh", "calibrated") if getattr(self, name) is not None]
        if self.score not in (None, ITM):
            others.append("score")
        if self.cascade is not None and others:
            raise ValueError(
                f"cascade spares ITM where a threshold of it decides, and {others[0]} decides otherwise: set one of "
                "them"
            )
        return self

    @model_validator(mode="after")
    def _a_target_means_something(self) -> Self:
        target, without = self.target_precision, 1 - self.calibration.bad_share
        if target is not None and self.coin is not None:
            raise ValueError(
                "target_precision chooses a threshold of scores, and a coin looks at none: set one of them"
            )
        if target is not None and target <= without:
            raise ValueError(
                f"target_precision {target:g} asks for no filter: with a bad_share of {self.calibration.bad_share:g} "
                f"the share of right texts is {without:g} before filtering; set it above that"
            )
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether a threshold or weights have yet to be found on human captions (calibration.settle)."""
        return self.target_precision is not None or (self.calibrated is not None and self.weights is None)

    @property
    def needs_band(self) -> bool:
        """Whether a cascade's bands have yet to be found on a sample (finding.settled_bands)."""
        return self.cascade is not None and self.cascade.web is None

    def effective(self) -> dict[str, Any]:
        """The settings that decide the output, as plain JSON: part of the fingerprint.

        A target is not among them: the threshold that was chosen for it is.
        """
        return deciding(self, OUTPUT)
