"""What stages hand to one another: small, frozen, JSON. Tensors and tars go through the store, never through here."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ModelRole = Literal["base", "captioner", "filter", "retrieval", "vqa"]


class Contract(BaseModel):
    """Base of all contracts: immutable, and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetRef(Contract):
    """A sealed dataset version. Its truth is `<uri>/manifest.json`; nobody lists a bucket to find it."""

    name: str = Field(description="dataset name, e.g. `web`, `human-train`, `web-capfilt-1`")
    uri: str = Field(description="root of this version: `<store>/datasets/<name>/<fingerprint>`")
    digest: str = Field(description="sha256 hex over the manifest: the version")
    images: int = Field(description="number of images with at least one kept caption")
    pairs: int = Field(description="number of kept image-text pairs")


class ModelRef(Contract):
    """A model folder in the store, loadable by transformers."""

    role: ModelRole
    uri: str = Field(description="folder with config.json, model.safetensors and tokenizer files")
    digest: str = Field(description="sha256 hex over the folder's files")
    registered_version: int | None = Field(default=None, description="MLflow registry version, if registered")


class EvalReport(Contract):
    """Measurements of one round's captioner and filter on the fixed human test split."""

    round: int
    metrics: dict[str, float] = Field(description="flat MLflow-style names, e.g. `eval/retrieval/mean_recall`")
    uri: str | None = Field(default=None, description="JSON with per-image details, for the report page")


class Interval(Contract):
    """A range that holds a value with the level of its config."""

    low: float = Field(description="lower end, in the metric's unit")
    high: float = Field(description="upper end")

    @property
    def beyond_noise(self) -> bool:
        """Whether it lies on one side of 0: of a difference, that it is no mere chance of the images."""
        return self.low > 0 or self.high < 0


class Comparison(Contract):
    """A metric of two rounds on the same test images."""

    metric: str = Field(description="as in the tracker, `eval/…` or `base/…`")
    before: float = Field(description="of the round compared with")
    after: float = Field(description="of the other")
    difference: float = Field(description="after - before")
    interval: Interval = Field(description="of the difference")
    verdict: Literal["clear", "within noise"] = Field(description="clear: the interval lies on one side of 0")


class Uncertainty(Contract):
    """How far a round's figures could be off by the choice of test images, and what its changes are worth."""

    level: float = Field(description="share of test splits that the intervals should be right for")
    values: dict[str, Interval] = Field(description="by metric: the round's own figures")
    changes: dict[str, Comparison] = Field(
        default_factory=dict, description="by metric: against round 0 on the same images; empty in round 0"
    )


class Weighed(Contract):
    """What the gate compared, and what it decided."""

    candidate: int = Field(description="the round that wanted to take the place")
    against: str = Field(description="who held it, e.g. `round 0` or `the registered champion (version 7)`")
    better: bool = Field(description="whether the gate lets the candidate take it")
    comparisons: tuple[Comparison, ...] = Field(description="the metrics that decide")


class TrainResult(Contract):
    """What a training stage leaves behind."""

    model: ModelRef
    steps: int = Field(description="optimizer steps taken in all, resumed ones included")
    metrics: dict[str, float] = Field(description="last smoothed training metrics, e.g. `train/loss_itc`")
    history_uri: str | None = Field(default=None, description="JSON lines with the training curve")
    seconds: float = Field(description="wall-clock seconds of training, start-up excluded")


class AskedData(Contract):
    """Questions about images with their answers, as imported datasets."""

    train: DatasetRef
    test: DatasetRef


class Answering(Contract):
    """What a round's model for questions is, and how well it answers."""

    training: TrainResult
    report: EvalReport


class CapfiltResult(Contract):
    """What CapFilt made of the web data."""

    dataset: DatasetRef
    metrics: dict[str, float] = Field(description="`capfilt/...` totals: noise ratios, kept, dropped, failed")


class PurityPoint(Contract):
    """What a filter lets through at a threshold."""

    threshold: float = Field(description="P(match) from which a text passes")
    purity: float = Field(description="share of right texts among those that pass: precision")
    yield_share: float = Field(description="share of the right texts that pass: recall")


class ScoreWeights(Contract):
    """A filter's two scores weighed into one probability that a text fits its image: a logistic regression."""

    itm: float = Field(description="per unit of the logit of the match probability (ITM)")
    itc: float = Field(description="per unit of the cosine (ITC)")
    bias: float = Field(description="what is added")

    def probability(self, itm_probability: float, itc_similarity: float) -> float:
        """The weighed score, 0 to 1, to six digits as the scores themselves have them."""
        match = min(max(itm_probability, 1e-6), 1 - 1e-6)
        logit = self.itm * math.log(match / (1 - match)) + self.itc * itc_similarity + self.bias
        return round(0.5 * (1 + math.tanh(logit / 2)), 6)


def score_weights(config: Mapping[str, Any]) -> ScoreWeights | None:
    """The weights that decided about a dataset, by its manifest's config; None: ITM did as it stands."""
    weights = config.get("weights")
    return None if weights is None else ScoreWeights.model_validate(weights)


ScoreKind = Literal["itm", "itc", "both"]


class ReliabilityBin(Contract):
    """Texts of which a filter says much the same, and how many of them are right."""

    said: float = Field(description="mean of what the filter says: the probability that decides")
    right: float = Field(description="share of right texts, among which wrong ones count as `bad_share` has it")
    texts: int


class Calibration(Contract):
    """A filter measured on human validation captions, and the threshold that follows from it."""

    filter: str = Field(description="digest of the filter")
    human: str = Field(description="digest of the validation captions")
    chosen: PurityPoint = Field(description="the threshold in use: chosen for the target, or the configured one")
    target: float | None = Field(description="purity asked for; None: the threshold was configured")
    reached: bool = Field(description="whether the chosen threshold reaches the target; if not, it is the purest one")
    curve: tuple[PurityPoint, ...] = Field(description="purity and yield over the same thresholds for every filter")
    images: int
    positives: int = Field(description="right texts measured: images with their own captions")
    negatives: int = Field(description="wrong texts measured: images with captions of others that look alike")
    bad_share: float = Field(description="share of wrong texts before filtering that purity reckons with")
    score: ScoreKind = Field(default="itm", description="what the threshold is of")
    weights: ScoreWeights | None = Field(default=None, description="how the two scores are weighed; null: ITM decides")
    reliability: tuple[ReliabilityBin, ...] = Field(default=(), description="what is said of texts against what is so")
    error: float | None = Field(default=None, description="mean distance of the two: expected calibration error")
    scores_uri: str | None = Field(default=None, description="JSON with the scores of every text, by image")

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names, the same in every round."""
        chosen = self.chosen
        figures = {
            "calibration/threshold": chosen.threshold,
            "calibration/purity": chosen.purity,
            "calibration/yield": chosen.yield_share,
        }
        return figures if self.error is None else figures | {"calibration/error": self.error}


class Drift(Contract):
    """A filter that judges otherwise than the one of the round before."""

    worse: bool = Field(description="whether its purity or its yield fell")
    text: str = Field(description="what moved from where to where, and what that usually means")


class StageReport(Contract):
    """One line of the run's story: which stage, how long, found done or worked."""

    stage: str = Field(description="e.g. `round-1/pretrain`")
    seconds: float
    cached: bool
    metrics: dict[str, float] = Field(default_factory=dict)


class SourceFiles(Contract):
    """Where a bootstrap's raw data lies: what the sample world wrote, or what the config names."""

    train: str = Field(description="captions JSON of the training split")
    val: str = Field(description="captions JSON of the validation split")
    test: str = Field(description="captions JSON of the test split")
    images: tuple[str, str, str] = Field(description="image folders of the three splits")
    web_folder: str = Field(description="folder of img2dataset tars")
    truth_uri: str | None = Field(default=None, description="kinds of the web texts: for scoring, never for learning")


class RawData(Contract):
    """The imported datasets that a bootstrap starts from."""

    train: DatasetRef
    val: DatasetRef
    test: DatasetRef
    web: DatasetRef
    truth_uri: str | None = Field(default=None, description="kinds of the web texts: for scoring, never for learning")


class TokenizerRef(Contract):
    """A tokenizer in the store."""

    uri: str = Field(description="folder with tokenizer.json")
    digest: str
    file_uri: str = Field(description="its last written file")


class RoundResult(Contract):
    """What a round had and made, and how good that is: all that is shown of it."""

    round: int
    web: DatasetRef = Field(description="the web data of this round: as imported in round 0, regenerated later")
    base: ModelRef
    captioner: ModelRef
    filter: ModelRef
    retrieval: ModelRef | None = Field(
        default=None, description="its model for retrieval, where it was finetuned apart; null: the filter is it"
    )
    vqa: ModelRef | None = Field(default=None, description="its model that answers questions, where that was asked for")
    metrics: dict[str, float] = Field(
        description="`eval/…` and `calibration/…` of its models, `capfilt/…` and `truth/…` of its data, and each "
        "training's last figures, e.g. `pretrain/loss_itc`"
    )
    details_uri: str | None = Field(default=None, description="the evaluation's per-image details")
    base_details_uri: str | None = Field(default=None, description="the same of the base model's own retrieval")
    uncertainty: Uncertainty | None = Field(
        default=None, description="intervals of `eval/…` and `base/…`; null: there are no details of two images"
    )
    answers_uri: str | None = Field(
        default=None, description="the answers to all test questions, where vqa is asked for"
    )
    histories: dict[str, str] = Field(
        default_factory=dict, description="where each training's curve lies, by role: `pretrain`, `captioner` …"
    )
    calibration: Calibration = Field(description="its filter measured on human captions")
    drift: Drift | None = Field(default=None, description="how its filter judges otherwise than the round's before")

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """All that it made."""
        made = (self.base, self.captioner, self.filter, self.retrieval, self.vqa)
        return tuple(model for model in made if model is not None)


class Promotion(Contract):
    """What became of the rounds at the gate."""

    champion: int | None = Field(description="the round that did best; None: the gate lets none of them pass")
    promoted: bool = Field(
        description="whether its models are the registered champion now; not if an earlier bootstrap's are better"
    )
    reasons: tuple[str, ...] = Field(description="why")
    weighed: tuple[Weighed, ...] = Field(default=(), description="who was compared with whom, in order")


class BootstrapResult(Contract):
    """The end of a bootstrap: its rounds, which one won, and where to look. Table and pages are made from it alone."""

    name: str
    bootstrap: str = Field(description="digest of everything that decides the outcome")
    store: str = Field(description="URI of the store that everything was written to")
    finished: datetime = Field(description="when, with its time zone")
    raw: RawData = Field(description="what it started from")
    config: dict[str, Any] = Field(description="the resolved config, as plain JSON")
    rounds: tuple[RoundResult, ...]
    champion: int | None = Field(description="the round that did best; None: the gate lets none of them pass")
    promoted: bool = Field(description="whether the champion's models are the registered ones now")
    reasons: tuple[str, ...] = Field(description="why")
    weighed: tuple[Weighed, ...] = Field(default=(), description="whom the gate compared with whom, in order")
    datasets: tuple[DatasetRef, ...]
    models: tuple[ModelRef, ...]
    stages: tuple[StageReport, ...]
    report: str | None = Field(description="URI of the report page")
    mlflow_uri: str | None = None
    mlflow_run: str | None = None
    mlflow_page: str | None = Field(
        default=None, description="where MLflow's server shows the rounds, from its root on"
    )
    mlflow_views: dict[str, str] = Field(
        default_factory=dict, description="the same of each saved view: `rounds`, `bootstraps`, `datasets`"
    )

    @property
    def outcome(self) -> str:
        """Which round won, and whether it was promoted, in a few words."""
        if self.champion is None:
            return "champion: none"
        return f"champion: round {self.champion}" + ("" if self.promoted else ", not promoted")

    @property
    def label(self) -> str:
        """Names it among others of its name: in MLflow, and in the keys of its files in the store."""
        return f"{self.name}-{self.bootstrap[:8]}"
