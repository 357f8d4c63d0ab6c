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
    image: str = Field(description="data URI of a small image (gallery.thumbnail makes it)")
    texts: tuple[ExampleText, ...]
    kind: str | None = Field(default=None, description="kind of the web text, where the truth is known")


class Texts(_Part):
    """The texts of one source that a CapFilt pass considered, counted."""

    source: Literal["web", "synthetic"]
    texts: int = Field(description="considered")
    kept: int
    distinct: int | None = Field(default=None, description="different ones; None: too many to remember")
    lengths: dict[int, tuple[int, int]] = Field(default_factory=dict, description="words to (kept, dropped)")
    scores: tuple[tuple[int, int], ...] = Field(
        default=(), description="(kept, dropped) in equal ranges of what decided, from 0 to 1"
    )
    repeated: tuple[tuple[str, int, int], ...] = Field(
        default=(), description="the commonest: text, how often considered, how often kept"
    )


class CapfiltReport(_Part):
    """What one CapFilt pass made of the web data."""

    made_by: int | None = Field(description="round whose captioner and filter worked; None: there are no rounds")
    dataset: DatasetRef | None = Field(default=None, description="what it wrote")
    images_in: int = Field(default=0, description="samples read")
    texts: tuple[Texts, ...] = Field(default=(), description="by source")
    outcomes: dict[str, int] = Field(default_factory=dict, description="written captions by what became of them")
    metrics: dict[str, float] = Field(description="`capfilt/…` and, where known, `truth/…`")
    failed: dict[str, int] = Field(default_factory=dict, description="samples that could not be used, by reason")
    dropped: dict[str, int] = Field(default_factory=dict, description="captions not kept, by reason")
    threshold: float | None = Field(default=0.5, description="score from which a text is kept; None: a coin decided")
    examples: tuple[Example, ...] = Field(default=(), description="of all passes the same images in the same order")
    wrongly_kept: tuple[Example, ...] = Field(default=(), description="with the wrong texts alone, the worst first")
    wrongly_refused: tuple[Example, ...] = Field(default=(), description="with right texts the filter refused")
    mistakes: tuple[int, int] | None = Field(
        default=None, description="texts wrongly kept and wrongly refused in all; None: the truth is not known"
    )

    @property
    def pairs(self) -> int:
        """Image-text pairs kept."""
        return sum(one.kept for one in self.texts)


class Told(_Part):
    """What a round's captioner says of a test image, and where its filter finds the image's texts."""

    round: int
    text: str
    cider: float = Field(description="against the references, 0..10")
    rank: float | None = Field(
        default=None, description="place of the first of its own texts; below 1: found first (ties count half)"
    )
    true: bool | None = Field(default=None, description="whether it is true of the image, where that is known")
    facts: tuple[int, int] | None = Field(default=None, description="facts it states that are right, of how many")


class CaptionedImage(_Part):
    """A human test image, what people said of it, and what the rounds say."""

    key: str
    image: str = Field(description="data URI of a small image")
    references: tuple[str, ...]
    told: tuple[Told, ...]


class CaptionRounds(_Part):
    """The captions of the test split through the rounds."""

    dataset: str = Field(description="URI of the test split")
    images: int
    rounds: tuple[int, int] = Field(description="the rounds that are held against one another")
    won: tuple[CaptionedImage, ...] = Field(default=(), description="whose CIDEr rose most, the largest gain first")
    lost: tuple[CaptionedImage, ...] = Field(default=(), description="whose CIDEr fell most")
    pinned: tuple[CaptionedImage, ...] = Field(default=(), description="chosen by their keys alone")
    better: int = Field(default=0, description="images whose CIDEr rose")
    worse: int = Field(default=0, description="images whose CIDEr fell")
    repeated: tuple[tuple[tuple[str, int], ...], ...] = Field(
        default=(), description="per round the commonest captions, of those said twice and more"
    )


class OtherBootstrap(_Part):
    """Another bootstrap of the same store."""

    label: str
    finished: datetime
    rounds: int
    champion: int | None
    metrics: dict[str, float] = Field(description="of the round that its verdict is about")
    word: str = Field(default="", description="what its change since round 0 is worth")
    differs: tuple[tuple[str, str, str], ...] = Field(default=(), description="setting, there, here")


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
    rounds: tuple[RoundReport, ...] = Field(default=(), description="none: CapFilt alone")
    captions: CaptionRounds | None = None
    others: tuple[OtherBootstrap, ...] = Field(default=(), description="of the same store, the last one first")
    human_pairs: int = Field(default=0, description="human pairs of every round's mixture, as often as each counts")
    links: dict[str, str] = Field(default_factory=dict, description="pages on servers, by name: MLflow …")
    commands: tuple[tuple[str, str], ...] = Field(default=(), description="what to do next: words and command")
    capfilt: tuple[CapfiltReport, ...] = ()
    stages: tuple[StageReport, ...] = ()
    champion: int | None = Field(default=None, description="the round that won; None: none, or not decided")
    promoted: bool | None = Field(default=None, description="whether the best round became champion; None: not decided")
    reasons: tuple[str, ...] = Field(default=(), description="the gate's reasons")
    config: dict[str, Any] = Field(default_factory=dict, description="the resolved config; it holds no secrets")
    facts: dict[str, str] = Field(default_factory=dict, description="further lineage, e.g. MLflow run, revision, store")
    finished: datetime | None = None
