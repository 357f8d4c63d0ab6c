"""What stages hand to one another: small, frozen, JSON. Tensors and tars go through the store, never through here."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ModelRole = Literal["base", "captioner", "filter", "vqa"]


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
    negatives: int = Field(description="wrong texts measured: images with near captions of others")
    bad_share: float = Field(description="share of wrong texts before filtering that purity reckons with")

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names, the same in every round."""
        chosen = self.chosen
        return {
            "calibration/threshold": chosen.threshold,
            "calibration/purity": chosen.purity,
            "calibration/yield": chosen.yield_share,
        }


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
    vqa: ModelRef | None = Field(default=None, description="its model that answers questions, where that was asked for")
    metrics: dict[str, float] = Field(
        description="`eval/…` and `calibration/…` of its models, `capfilt/…` and `truth/…` of its data, and each "
        "training's last figures, e.g. `pretrain/loss_itc`"
    )
    details_uri: str | None = Field(default=None, description="the evaluation's per-image details")
    answers_uri: str | None = Field(
        default=None, description="the answers to all test questions, where vqa is asked for"
    )
    histories: dict[str, str] = Field(
        default_factory=dict, description="where each training's curve lies, by role: `pretrain`, `captioner` …"
    )
    calibration: Calibration = Field(description="its filter measured on human captions")
    drift: Drift | None = Field(default=None, description="how its filter judges otherwise than the round's before")


class Promotion(Contract):
    """What became of the rounds at the gate."""

    champion: int | None = Field(description="the round that did best; None: the gate lets none of them pass")
    promoted: bool = Field(
        description="whether its models are the registered champion now; not if an earlier bootstrap's are better"
    )
    reasons: tuple[str, ...] = Field(description="why")


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
    datasets: tuple[DatasetRef, ...]
    models: tuple[ModelRef, ...]
    stages: tuple[StageReport, ...]
    report: str | None = Field(description="URI of the report page")
    mlflow_uri: str | None = None
    mlflow_run: str | None = None
    mlflow_page: str | None = Field(
        default=None, description="where MLflow's server shows the rounds, from its root on"
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
