"""What the report page shows, as frozen models for the flows to fill in. Figures that are not there are left out."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.common.contracts import Calibration, DatasetRef, ModelRef, StageReport, Uncertainty


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExampleText(_Part):
    """One candidate caption of an example image."""

    source: Literal["web", "synthetic"]
    text: str
    itm_probability: float | None = Field(default=None, description="P(match), 0..1")
    itc_similarity: float | None = Field(default=None, description="cosine, -1..1")
    score: float | None = Field(default=None, description="what decided, 0..1: P(match), or both scores weighed")
    kept: bool
    reason: str = Field(default="", description="why it was dropped")
    true: bool | None = Field(default=None, description="whether it is true of the image, where that is known")
    facts: tuple[int, int] | None = Field(default=None, description="facts it states that are right, of how many")


class Example(_Part):
    """A web image with its candidate captions."""

    key: str
    image: str = Field(description="data URI of a small JPEG (gallery.thumbnail makes it)")
    texts: tuple[ExampleText, ...]
    kind: str | None = Field(default=None, description="kind of the web text, where the truth is known")


class CapfiltReport(_Part):
    """What one CapFilt pass made of the web data."""

    made_by: int = Field(description="round whose captioner and filter worked")
    metrics: dict[str, float] = Field(description="`capfilt/…` and, where known, `truth/…`")
    failed: dict[str, int] = Field(default_factory=dict, description="samples that could not be used, by reason")
    dropped: dict[str, int] = Field(default_factory=dict, description="captions not kept, by reason")
    threshold: float | None = Field(default=0.5, description="score from which a text is kept; None: a coin decided")
    examples: tuple[Example, ...] = ()


class RoundReport(_Part):
    """One round: its measurements, its training curves, what it was trained on and what it made."""

    round: int
    metrics: dict[str, float] = Field(description="flat names, e.g. `eval/retrieval/mean_recall`")
    uncertainty: Uncertainty | None = Field(default=None, description="intervals, and what changes since round 0 weigh")
    curves: dict[str, tuple[tuple[float, float], ...]] = Field(
        default_factory=dict, description="`<stage>/<series>` to (step, value), e.g. `pretrain/loss_itc`"
    )
    datasets: tuple[DatasetRef, ...] = Field(default=(), description="what it was pre-trained on")
    models: tuple[ModelRef, ...] = ()
    calibration: Calibration | None = Field(default=None, description="its filter measured on human captions")
    drift: str = Field(default="", description="how its filter judges otherwise than the round's before; empty: alike")
    drift_worse: bool = Field(default=False, description="whether that is for the worse")


class ReportData(_Part):
    """Everything the page shows."""

    name: str = Field(description="name of the bootstrap")
    rounds: tuple[RoundReport, ...] = Field(min_length=1)
    capfilt: tuple[CapfiltReport, ...] = ()
    stages: tuple[StageReport, ...] = ()
    champion: int | None = Field(default=None, description="the round that won; None: none, or not decided")
    promoted: bool | None = Field(default=None, description="whether the best round became champion; None: not decided")
    reasons: tuple[str, ...] = Field(default=(), description="the gate's reasons")
    config: dict[str, Any] = Field(default_factory=dict, description="the resolved config; it holds no secrets")
    facts: dict[str, str] = Field(default_factory=dict, description="further lineage, e.g. MLflow run, revision, store")
    finished: datetime | None = None
