"""Typed configuration of one training: what to optimise, how long, how it is launched and kept."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.common.identity import harmless
from components.common.precision import TrainPrecision
from components.data.config import LoaderConfig

TrainedRole = Literal["pretrain", "captioner", "filter", "vqa"]
"""What a training makes: the base model by pre-training, or one of those finetuned from it."""

Beta = Annotated[float, Field(ge=0, lt=1)]

CHECKPOINT = "checkpoint"
"""What `identity.deciding` is asked for where it matters whether a checkpoint can be gone on from."""

_ALIKE = harmless("all parts learned alike before there was this field", at=1.0)
_KEPT = harmless("what is kept of the way, not where it leads")
_MACHINE = harmless("which machines meet and how, not what they calculate")
_SHARED = harmless("a training that goes on keeps its global batch by accumulation", to=CHECKPOINT)


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimConfig(_Config):
    """AdamW and its learning rate over time."""

    lr: float = Field(default=3e-4, gt=0, description="peak learning rate, reached at the end of the warm-up")
    min_lr: float = Field(default=0.0, ge=0, description="learning rate that the decay ends at")
    lr_vision: float = Field(
        default=1.0,
        gt=0,
        description="learning rate of the vision transformer, in learning rates of what starts fresh",
        json_schema_extra=_ALIKE,
    )
    lr_text: float = Field(
        default=1.0,
        gt=0,
        description="learning rate of what BERT has (embeddings, self-attention, feed-forward blocks), in learning "
        "rates of what starts fresh (cross-attention, projections, heads)",
        json_schema_extra=_ALIKE,
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor of the learning rate per layer of vision and text, from the output to the embeddings",
        json_schema_extra=_ALIKE,
    )
    freeze: tuple[Literal["vision", "text"], ...] = Field(
        default=(),
        description="encoders that stay as they are: vision, text (of it what lr_text names)",
        json_schema_extra=harmless("all parts learned before there was this field", at=()),
    )
    warmup_lr: float = Field(default=1e-6, ge=0, description="learning rate of the first warm-up step")
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps of linear warm-up")
    schedule: Literal["cosine", "exponential", "constant"] = Field(
        default="cosine",
        description="after the warm-up: cosine per step to min_lr; or lr * decay_rate^epoch, changed once an epoch, "
        "never below min_lr (the reference's pre-training); or constant",
    )
    decay_rate: float = Field(default=0.9, gt=0, le=1, description="factor per epoch of the exponential schedule")
    cosine_per_epoch: bool = Field(
        default=False, description="change the cosine once an epoch and not every step, as the reference's finetuning"
    )
    warmup_first_epoch_only: bool = Field(
        default=False, description="the reference's defect: warm-up is cut off at the end of the first epoch"
    )
    weight_decay: float = Field(default=0.05, ge=0, description="decoupled weight decay")
    decay_everything: bool = Field(
        default=False, description="decay biases, norms and scalars too, as the reference does; else only matrices"
    )
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="AdamW's moment decay rates")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's denominator offset")
    clip: float = Field(default=0.0, ge=0, description="largest norm of the whole gradient; 0 switches clipping off")

    @model_validator(mode="after")
    def _falls(self) -> "OptimConfig":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr ({self.min_lr:g}) is above lr ({self.lr:g}): the decay would rise")
        return self


class CheckpointConfig(_Config):
    """When a training's state is written and how much of it stays."""

    every_steps: int = Field(
        default=500,
        ge=0,
        description="optimizer steps between checkpoints; 0: only on SIGTERM",
        json_schema_extra=_KEPT,
    )
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept", json_schema_extra=_KEPT)
    keep_best: bool = Field(
        default=True, description="keep the one with the lowest training loss besides", json_schema_extra=_KEPT
    )


class DeepSpeedConfig(_Config):
    """The engine's own settings."""

    zero_stage: int = Field(default=1, description="ZeRO stage 0, 1 or 2: what is partitioned over processes")
    shared_memory: bool = Field(
        default=False,
        description="on CPU, let several processes of one machine reduce through shared memory: DeepSpeed compiles "
        "an op for it at first use (needs a C++ compiler)",
        json_schema_extra=harmless("the way the same sums travel"),
    )
    extra: dict[str, Any] = Field(
        default_factory=dict, description="any DeepSpeed key, merged over ours, e.g. {zero_optimization: {...}}"
    )

    @model_validator(mode="after")
    def _refuse_zero_3(self) -> "DeepSpeedConfig":
        stage = self.extra.get("zero_optimization", {}).get("stage", self.zero_stage)
        if stage == 3:
            raise ValueError(
                "zero_stage 3 is refused: it empties parameters outside their own module's forward, so BLIP's tied "
                "text weights and the momentum encoders' update would silently see nothing; use 1 or 2, which hold "
                "every BLIP size on one GPU"
            )
        if stage not in (0, 1, 2):
            raise ValueError(f"zero_stage must be 0, 1 or 2, not {stage!r}")
        return self


class LaunchConfig(_Config):
    """Processes, threads and machines."""

    processes: int | None = Field(
        default=None,
        ge=1,
        description="processes per machine, of which each adds a micro-batch to a step; default: one per GPU, else 1",
        json_schema_extra=_SHARED,
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads per process; default: cores / processes",
        json_schema_extra=harmless("the same calculation, rounded otherwise at most"),
    )
    nodes: int = Field(default=1, ge=1, description="machines, unless a hostfile says", json_schema_extra=_SHARED)
    hostfile: str | None = Field(
        default=None,
        description="DeepSpeed's hostfile, a line `host slots=8` per machine; the first is machine 0",
        json_schema_extra=harmless("a place; as many processes as the machines it lists have, as where none are set"),
    )
    node_rank: int | None = Field(
        default=None,
        ge=0,
        description="this machine's number; default: NODE_RANK, else 0",
        json_schema_extra=_MACHINE,
    )
    master: str | None = Field(
        default=None,
        description="host:port of machine 0; default: MASTER_ADDR:MASTER_PORT",
        json_schema_extra=_MACHINE,
    )
    timeout_minutes: float = Field(
        default=30.0,
        gt=0,
        description="longest wait of a process for the others, minutes",
        json_schema_extra=_MACHINE,
    )
    grace_seconds: float = Field(
        default=120.0,
        gt=0,
        description="seconds that a stopped training (SIGTERM, Ctrl-C) has to finish its step and save, before its "
        "processes are killed: the longest step and the slowest checkpoint. Who stops us must wait longer than that: "
        "Kubernetes by terminationGracePeriodSeconds (30 unless set); Slurm by `#SBATCH --signal=B:TERM@180`, which "
        "asks the job script 180 s before its time is up (let it end with `exec capfilt run …`), or by KillWait",
        json_schema_extra=harmless("a training that could not save in time goes on with a longer one"),
    )


class TrainConfig(LoaderConfig):
    """One training stage; how pairs are loaded is the loader's config, under the same keys."""

    steps: int | None = Field(default=None, ge=1, description="optimizer steps; give either steps or epochs")
    epochs: float | None = Field(default=None, gt=0, description="passes over the data mixture")
    accumulation: int = Field(default=1, ge=1, description="micro-batches per optimizer step")
    optim: OptimConfig = Field(default_factory=OptimConfig)
    precision: TrainPrecision = Field(
        default="fp32",
        description="bf16: autocast, while parameters, optimizer and momentum stay fp32; auto: bf16 where a probe "
        "finds it 1.3 times faster than fp32, tried once per store and kept in its precision-training.json",
    )
    checkpointed_layers: bool | int | None = Field(
        default=None,
        description="recompute activations of the last N vision blocks (true: of all) in the backward pass: less "
        "memory, up to a third more time; default: as the model's config says",
        json_schema_extra=harmless("only memory and time: what is recomputed comes out the same"),
    )
    joint_positives: bool = Field(
        default=True, description="captions of the same image in batch and queue are all positives of ITC"
    )
    all_rank_negatives: bool = Field(
        default=False, description="draw hard ITM negatives from the batches of all processes, not of one"
    )
    negative_temperature: float | None = Field(
        default=None,
        gt=0,
        description="lowest temperature that hard ITM negatives are drawn at; default: the learned one, as the paper. "
        "Raise it (0.1, 0.2) where captions fit several images, or the filter rejects most right texts",
    )
    same_image_negatives: bool = Field(
        default=False,
        description="the reference's defect: in pre-training, draw other captions of the same image as ITM negatives",
    )
    teacher_dropout: bool = Field(
        default=False, description="dropout in the momentum encoders too, as the reference leaves it on"
    )
    alpha_ramp_epochs: float | None = Field(
        default=None,
        ge=0,
        description="epochs in which soft targets gain weight; default: 2 to pre-train, 1 to filter",
    )
    reference_quirks: bool = Field(
        default=False,
        description="train as BLIP's own code does: sets optim.warmup_first_epoch_only, optim.decay_everything, "
        "teacher_dropout and randaugment_as_released, and in pre-training same_image_negatives and joint_positives: "
        "false",
    )
    compile: bool = Field(default=False, description="torch.compile the objective")
    max_tokens: int = Field(
        default=30, ge=4, description="tokens kept of a caption or question, [CLS] and [SEP] included"
    )
    max_answer_tokens: int = Field(
        default=12,
        ge=3,
        description="vqa: tokens kept of an answer, [DEC] and [SEP] included",
        json_schema_extra=harmless("nothing had answers before there was this field", at=12),
    )
    prompt: str = Field(default="a picture of ", description="the captioner's prompt, not part of the loss")
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    log_every: int = Field(
        default=20, ge=1, description="optimizer steps between lines of the training curve", json_schema_extra=_KEPT
    )
    seed: int = Field(default=0, ge=0, description="seed of initial weights, dropout and data order")

    def lack_of_negatives(self, role: str, processes: int | None = None) -> str | None:
        """Why a training of this role would learn of no wrong pair; None if it does.

        A match is learned beside texts and images of other pairs in the same micro-batch: without one, accepting
        everything is perfect.

        Args:
            role: what is trained, as its settings are named.
            processes: in all, where that is known already.
        """
        others = self.all_rank_negatives and processes != 1
        if role in ("captioner", "vqa") or self.batch_size > 1 or others:
            return None
        return (
            f"`{role}.batch_size` is {self.batch_size}: wrong pairs are made of the others in a process's micro-batch, "
            "and without one everything is learned to match; use 2 at least, as many as fit for hard ones "
            "(accumulation does not help), or several processes with all_rank_negatives"
        )

    def with_quirks(self, objective: TrainedRole) -> "TrainConfig":
        """The config with the named options of `reference_quirks` set, if it is on."""
        if not self.reference_quirks:
            return self
        optim = self.optim.model_copy(update={"warmup_first_epoch_only": True, "decay_everything": True})
        quirks: dict[str, Any] = {"optim": optim, "teacher_dropout": True, "randaugment_as_released": True}
        if objective == "pretrain":
            quirks |= {"joint_positives": False, "same_image_negatives": True}
        return self.model_copy(update=quirks)

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps (optimizer steps) and epochs (passes over the data)")
        if self.steps is not None and self.optim.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.optim.warmup_steps}) is longer than steps ({self.steps})")
        return self
