"""What a training process is told: one JSON document, written by the launcher and read by every process."""

from pydantic import Field, model_validator

from components.common.contracts import Contract, DatasetRef, ModelRef
from components.common.identity import deciding
from components.common.seeding import digest_of
from components.model.config import BlipConfig
from components.training.config import CHECKPOINT, TrainConfig, TrainedRole


class DatasetUse(Contract):
    """A dataset in the mixture."""

    ref: DatasetRef
    repeat: int = Field(default=1, ge=1, description="times each of its pairs counts per epoch")


class TrainSpec(Contract):
    """One training, whole."""

    objective: TrainedRole
    revision: int = Field(default=1, description="counts changes of the code that make another model of the same spec")
    label: str = Field(description="what progress is shown under, e.g. `round-1/pretrain`")
    config: TrainConfig
    datasets: tuple[DatasetUse, ...] = Field(min_length=1, description="the mixture")
    model: BlipConfig | None = Field(default=None, description="network to start from scratch")
    base: ModelRef | None = Field(default=None, description="model to start from")
    tokenizer: str | None = Field(default=None, description="URI of the tokenizer of a model from scratch")
    store: str = Field(description="URI of the store that the trained model is published in")

    @model_validator(mode="after")
    def _has_a_start(self) -> "TrainSpec":
        if self.base is None and (self.model is None or self.tokenizer is None):
            raise ValueError("a training starts from a base model, or from a model config and a tokenizer")
        return self

    @property
    def fingerprint(self) -> str:
        """Digest of what decides the outcome; a checkpoint of another fingerprint is not resumed."""
        config = deciding(self.config, CHECKPOINT)
        start = self.base.digest if self.base else [self.model, self.tokenizer]
        data = [[use.ref.digest, use.repeat] for use in self.datasets]
        what = {"objective": self.objective, "revision": self.revision}
        return digest_of(what | {"config": config, "start": start, "data": data})
