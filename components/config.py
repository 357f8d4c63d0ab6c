"""The whole bootstrap's config: composes the configs that live beside their owners, and loads them from YAML."""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.common.configfile import read_config
from components.common.errors import ConfigError, StorageError
from components.common.identity import harmless
from components.common.seeding import digest_of, key_seed
from components.common.storage import expand_home, normalise_uri, sha256_file
from components.data.sampleworld.config import SampleWorldConfig
from components.evaluation.config import EvaluationConfig
from components.model.config import AnsweringConfig, BlipConfig, EncodersConfig
from components.regeneration.config import CapfiltConfig
from components.training.config import TrainConfig

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
Task = Literal["captioning", "retrieval", "vqa"]
Training = Literal["pretrain", "captioner", "filter", "retrieval", "vqa"]
"""A training of a round, by the key of its settings."""
TASKS: tuple[Task, ...] = ("captioning", "retrieval")
"""What every round is finetuned and measured for."""
SAMPLE_CONFIG = CONFIGS / "sample.yaml"


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HumanConfig(_Config):
    """Human captions: COCO captions JSON or Karpathy JSON per split, and the image folder."""

    train: str | None = Field(default=None, description="URI of the training split's JSON")
    val: str | None = Field(default=None, description="URI of the validation split's JSON")
    test: str | None = Field(default=None, description="URI of the test split's JSON; null: the validation split")
    images: str | None = Field(default=None, description="URI of the image folder that file names are relative to")
    val_images: str | None = Field(default=None, description="image folder of the validation split, if another one")
    test_images: str | None = Field(default=None, description="image folder of the test split, if another one")


class QuestionsConfig(_Config):
    """Questions about images, for the task `vqa` with source: files; see `components.data.vqa` for the files' forms."""

    train: str | None = Field(default=None, description="URI of the training questions: VQA v2's or a plain list")
    train_annotations: str | None = Field(default=None, description="URI of VQA v2's annotations to them")
    test: str | None = Field(default=None, description="URI of the questions that are measured on")
    test_annotations: str | None = Field(default=None, description="URI of VQA v2's annotations to them")
    images: str | None = Field(default=None, description="URI of the image folder; null: data.human.images")
    test_images: str | None = Field(default=None, description="image folder of the test questions, if another one")
    image_name: str | None = Field(
        default=None, description="file of an image's number, e.g. `{:012d}.jpg`; null: as COCO 2014 names it"
    )


class DataConfig(_Config):
    """What the bootstrap starts from."""

    source: Literal["sampleworld", "files"] = Field(description="generate a sample world, or read the files given here")
    sampleworld: SampleWorldConfig = Field(
        default_factory=SampleWorldConfig, description="the sample world; its seed is combined with the bootstrap's"
    )
    human: HumanConfig = Field(default_factory=HumanConfig, description="human captions, for source: files")
    questions: QuestionsConfig = Field(
        default_factory=QuestionsConfig,
        description="questions about images, for the task vqa",
        json_schema_extra=harmless("nothing was asked before there was this field", at=QuestionsConfig()),
    )
    web: str | None = Field(default=None, description="URI of a folder of img2dataset tars, for source: files")
    human_limit: int | None = Field(default=None, ge=1, description="first N human training images only; null: all")
    web_limit: int | None = Field(default=None, ge=1, description="first N web samples only; null: all")
    human_repeat: int = Field(default=1, ge=1, description="times each human pair counts in the pre-training mixture")
    shard_size: int = Field(default=1000, ge=1, description="images per shard of the imported human data")

    def question_files(self, split: Literal["train", "test"]) -> dict[str, str | None]:
        """The files of a split's questions, as `components.data.vqa.import_questions` takes them."""
        questions = self.questions
        own = questions.test_images if split == "test" else None
        return {
            "questions_uri": questions.train if split == "train" else questions.test,
            "annotations_uri": questions.train_annotations if split == "train" else questions.test_annotations,
            "images_uri": own or questions.images or self.human.images,
            "image_name": questions.image_name,
        }

    @model_validator(mode="after")
    def _files_are_named(self) -> "DataConfig":
        if self.source == "files":
            needed = {"web": self.web, "human.train": self.human.train, "human.val": self.human.val}
            needed["human.images"] = self.human.images
            missing = [f"data.{name}" for name, value in needed.items() if not value]
            if missing:
                options = " ".join(f"--set {name}=…" for name in missing)
                raise ValueError(f"source is `files`, and these are not set: {', '.join(missing)}; add {options}")
        return self


class TokenizerConfig(_Config):
    """The vocabulary: one that exists, or one trained on the corpus."""

    vocab_file: str | None = Field(
        default=None,
        description="WordPiece vocabulary, a token per line; null: train one. Relative to the config file",
        json_schema_extra=harmless("a place; the tokens that lie there are part of the tokenizer's digest"),
    )
    vocab_size: int = Field(default=1000, ge=64, description="tokens of a trained vocabulary, at most")


class TrackingConfig(_Config):
    """Where MLflow writes."""

    enabled: bool = Field(default=True, description="false: no MLflow at all")
    uri: str | None = Field(
        default=None, description="MLflow tracking URI; null: MLFLOW_TRACKING_URI, else a sqlite file beside the store"
    )
    experiment: str | None = Field(default=None, description="MLflow experiment; null: the bootstrap's name")


class BootstrapConfig(_Config):
    """One bootstrap: everything that decides what `capfilt run` does."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$", description="names the experiment, datasets and models")
    seed: int = Field(default=0, ge=0, description="varies everything: the sample world, weights, orders, captions")
    store: str = Field(
        description="root of everything written: a folder or s3://bucket/prefix",
        json_schema_extra=harmless("a place; a store that was moved holds the same bootstrap"),
    )
    rounds: int = Field(default=1, ge=0, le=20, description="times CapFilt is run and a model trained on its result")
    tasks: tuple[Task, ...] = Field(
        default=TASKS,
        description="what each round's base model is finetuned and measured for: captioning and retrieval, which "
        "CapFilt itself needs, and vqa, answering questions about images",
        json_schema_extra=harmless("all rounds did so before there was this field", at=TASKS),
    )
    init: Literal["scratch", "continue"] = Field(
        default="scratch", description="re-pre-training starts from scratch (the paper) or from the last base model"
    )
    data: DataConfig = Field(description="what the bootstrap starts from")
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig, description="the vocabulary")
    model: BlipConfig = Field(default_factory=BlipConfig, description="the network")
    encoders: EncodersConfig = Field(
        default_factory=EncodersConfig, description="pre-trained encoders that a model from scratch starts from"
    )
    pretrain: TrainConfig = Field(description="pre-training on web and human pairs: ITC, ITM and LM")
    captioner: TrainConfig = Field(description="finetuning of the captioner on human captions: LM")
    filter: TrainConfig = Field(description="finetuning of the filter on human captions: ITC and ITM")
    retrieval: TrainConfig | None = Field(
        default=None,
        description="finetuning on human captions of a model for retrieval alone, ITC and ITM as the filter's: what is "
        "not given is as under filter; null: the filter is measured",
        json_schema_extra=harmless("the filter was measured before there was this field", at=None),
    )
    vqa: TrainConfig | None = Field(
        default=None,
        description="finetuning on questions and answers, for the task vqa",
        json_schema_extra=harmless("nothing was asked before there was this field", at=None),
    )
    capfilt: CapfiltConfig = Field(default_factory=CapfiltConfig, description="captioning and filtering of web data")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="what each round is measured by")
    answering: AnsweringConfig = Field(
        default_factory=AnsweringConfig,
        description="how questions are answered where a round is measured, for the task vqa",
        json_schema_extra=harmless("nothing was asked before there was this field", at=AnsweringConfig()),
    )
    tracking: TrackingConfig = Field(
        default_factory=TrackingConfig,
        description="where MLflow writes",
        json_schema_extra=harmless("where it is told, not what"),
    )

    @model_validator(mode="before")
    @classmethod
    def _retrieval_as_filter(cls, values: Any) -> Any:
        """What the settings under `retrieval` leave open is as under `filter`."""
        if not isinstance(values, dict):
            return values
        own, filter = values.get("retrieval"), values.get("filter")
        if not isinstance(own, dict) or not isinstance(filter, dict):
            return values
        if own.keys() & {"steps", "epochs"}:  # either says how long
            filter = {name: value for name, value in filter.items() if name not in ("steps", "epochs")}
        return values | {"retrieval": _laid_over(filter, own)}

    @field_validator("store")
    @classmethod
    def _a_place(cls, value: str) -> str:
        try:
            place = normalise_uri(value)
        except StorageError as error:
            raise ValueError(str(error)) from error
        if "?" in place and not place.startswith("s3://"):
            raise ValueError(f"{value} holds a `?`, after which sqlite URLs have options: choose a folder without it")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> "BootstrapConfig":
        checks = (self._missing_parts, self._long_texts, self._cut_patches, self._lonely_pairs, self._frozen_noise)
        if faults := [fault for check in checks for fault in check()]:
            raise ValueError("\n".join(faults))
        return self

    def _missing_parts(self) -> Iterator[str]:
        """What the tasks need, and what is asked for without its task."""
        if lacking := [name for name in TASKS if name not in self.tasks]:
            yield f"`tasks` lacks {' and '.join(lacking)}: CapFilt itself needs the captioner and the filter"
        if not self.asks:
            gate = self.evaluation.gate
            if named := [name for name in (*gate.metrics, *gate.floors) if name.startswith("eval/vqa/")]:
                yield f"`evaluation.gate` names {named[0]}, which only the task vqa measures: add it to `tasks`"
            return
        if self.vqa is None:
            yield "`tasks` has vqa, and `vqa`, its finetuning, is not set: give it steps, optim … as `captioner` has"
        if self.model.vision.width != self.model.text.width:
            yield (
                f"`model.vision.width` is {self.model.vision.width} and `model.text.width` {self.model.text.width}: "
                "for vqa they must be equal, or transformers could not read the model"
            )
        if self.data.source == "files":
            wanted = {"train": self.data.questions.train, "test": self.data.questions.test}
            if missing := [f"data.questions.{name}" for name, uri in wanted.items() if not uri]:
                yield f"`tasks` has vqa, and these are not set: {', '.join(missing)}"

    def _long_texts(self) -> Iterator[str]:
        """Lengths beyond the model's positions, which would end a run only when the first such text is met."""
        most = self.model.text.max_positions
        lengths = {f"{role}.max_tokens": one.max_tokens for role, one in self.trainings().items()} | {
            "capfilt.max_tokens": self.capfilt.max_tokens,
            "capfilt.decoding.max_length": self.capfilt.decoding.max_length,
            "evaluation.decoding.max_length": self.evaluation.decoding.max_length,
            "evaluation.retrieval.max_tokens": self.evaluation.retrieval.max_tokens,
        }
        for name, length in lengths.items():
            if length > most:
                yield f"`{name}` is {length}, above model.text.max_positions, {most}: lower the one or raise the other"

    def _cut_patches(self) -> Iterator[str]:
        """Image sizes that are no whole number of patches."""
        patch = self.model.vision.patch_size
        sizes = {name: one.image_size for name, one in self.trainings().items()} | {"capfilt": self.capfilt.image_size}
        for name, size in sizes.items():
            if size is not None and size % patch:
                yield f"`{name}.image_size` is {size}: it must be a multiple of model.vision.patch_size, {patch}"

    def _lonely_pairs(self) -> Iterator[str]:
        """Batches without a wrong pair to learn from, of which a filter comes that accepts everything."""
        for role, training in self.trainings().items():
            launch = training.launch
            processes = launch.processes and launch.processes * launch.nodes
            if fault := training.lack_of_negatives(role, processes):
                yield fault

    def _frozen_noise(self) -> Iterator[str]:
        """Encoders that pre-training is to leave as they are, and which start from random weights."""
        for part in self.pretrain.optim.freeze:
            if part not in self.encoders.folders():
                yield (
                    f"`pretrain.optim.freeze` holds {part}, which starts from random weights and would stay so: "
                    f"give encoders.{part}, or take {part} out of pretrain.optim.freeze"
                )

    @property
    def bootstrap_id(self) -> str:
        """Digest of everything that decides the outcome: the same bootstrap again has the same id.

        Of encoders in local folders by what lies there, so that it is the same where a checkout was moved.
        """
        return digest_of(
            self._asked.model_copy(update={"encoders": self.encoders.model_copy(update=self.local_encoders)})
        )

    @property
    def local_encoders(self) -> dict[str, str]:
        """Digests of the encoders that lie in local folders, by part."""
        return {part: digest for part, uri in self.encoders.folders().items() if (digest := _local_digest(uri))}

    @property
    def former_bootstrap_id(self) -> str:
        """What releases that named encoders by their folders called it: equal to `bootstrap_id` without such ones."""
        return digest_of(self._asked)

    @property
    def _asked(self) -> "BootstrapConfig":
        """The config without what nobody asks for."""
        return self if self.asks else self.model_copy(update={"vqa": None, "answering": AnsweringConfig()})

    @property
    def asks(self) -> bool:
        """Whether rounds answer questions."""
        return "vqa" in self.tasks

    def trainings(self) -> dict[Training, TrainConfig]:
        """A round's trainings, by what they make."""
        roles = [role for role in get_args(Training) if role != "vqa" or self.asks]
        return {role: config for role in roles if (config := getattr(self, role)) is not None}

    def training(self, role: Training) -> TrainConfig:
        """A training's config, its seed combined with the bootstrap's (equal in every round: rounds are compared).

        Retrieval has the filter's seed: with the filter's settings, its model is the filter.

        Raises:
            ConfigError: the tasks have no such training.
        """
        config = self.trainings().get(role)
        if config is None:
            raise ConfigError(f"`tasks` has no {role}: add it, with its settings under `{role}`")
        purpose = "filter" if role == "retrieval" else role
        return config.model_copy(update={"seed": self._mixed(config.seed, purpose)})

    def captioning(self) -> CapfiltConfig:
        """CapFilt's config, its seed combined with the bootstrap's."""
        return self.capfilt.model_copy(update={"seed": self._mixed(self.capfilt.seed, "capfilt")})

    def world(self) -> SampleWorldConfig:
        """The sample world's config, its seed combined with the bootstrap's."""
        world = self.data.sampleworld
        return world.model_copy(update={"seed": self._mixed(world.seed, "sampleworld")})

    def tracking_uri(self, folder: Path) -> str | None:
        """Where MLflow writes: as configured, by MLFLOW_TRACKING_URI, or a sqlite file in `folder`."""
        if not self.tracking.enabled:
            return None
        return self.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db"

    def _mixed(self, seed: int, purpose: str) -> int:
        return key_seed(self.seed, seed, purpose) % 2**31


def _laid_over(values: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, of which `own` ones win."""
    inner = {
        name: _laid_over(values[name], value)
        for name, value in own.items()
        if isinstance(value, dict) and isinstance(values.get(name), dict)
    }
    return values | own | inner


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> BootstrapConfig:
    """Load and check a bootstrap's config.

    Args:
        path: a YAML file; None for the sample's.
        overrides: `a.b=value` in order, the value in YAML.

    Raises:
        ConfigError: all that is wrong, with the nearest valid name of an unknown key.
    """
    path = SAMPLE_CONFIG if path is None else Path(path)
    config = _with_own_encoders(read_config(BootstrapConfig, path, overrides), path)
    vocab = config.tokenizer.vocab_file
    if vocab is None:
        return config
    given = expand_home(vocab)
    found = next((place for place in (given, path.parent / given, CONFIGS / given) if place.is_file()), None)
    if found is None:
        raise ConfigError(f"{path}: `tokenizer.vocab_file`: there is no file {vocab}, nor beside the config file")
    tokenizer = config.tokenizer.model_copy(update={"vocab_file": str(found.resolve())})
    return config.model_copy(update={"tokenizer": tokenizer})


def _with_own_encoders(config: BootstrapConfig, path: Path) -> BootstrapConfig:
    """The config with encoders named in full that are not where they are named, but beside its file or the sample's.

    A copy of the sample's config, wherever it lies, finds the encoder that comes with it.
    """
    named = {part: uri for part, uri in config.encoders.folders().items() if "://" not in uri}
    missing = {part: uri for part, uri in named.items() if not expand_home(uri).exists()}
    places = {part: [folder / uri for folder in (path.parent, CONFIGS)] for part, uri in missing.items()}
    found = {part: next((one for one in known if one.is_dir()), None) for part, known in places.items()}
    full = {part: str(folder.resolve()) for part, folder in found.items() if folder is not None}
    return config.model_copy(update={"encoders": config.encoders.model_copy(update=full)}) if full else config


def _local_digest(uri: str) -> str | None:
    """Digest of an encoder in a local folder; None of another place, and of one that holds none."""
    if "://" in uri or not (folder := expand_home(uri)).is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors") and path.is_file())
    return _files_digest(tuple((path, path.stat().st_mtime_ns) for path in files)) if files else None


@lru_cache
def _files_digest(files: tuple[tuple[Path, int], ...]) -> str:
    """Digest of files by name and content; their times only tell that they are still the same."""
    return digest_of([[path.name, sha256_file(path)] for path, _ in files])
