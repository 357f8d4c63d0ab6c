"""Pre-training as a stage of the loop, and as a flow of its own."""

from collections.abc import Sequence

from prefect import flow

from components.common.contracts import DatasetRef, ModelRef, TokenizerRef, TrainResult
from components.config import load_config
from flows.preparation import make_tokenizer, prepare
from flows.stages import BootstrapContext, Stage, StageContext, open_bootstrap
from flows.witness import orderly

Mixture = Sequence[tuple[DatasetRef, int]]


def pretrain(
    context: BootstrapContext, number: int, mixture: Mixture, tokenizer: TokenizerRef, init: ModelRef | None
) -> TrainResult:
    """Pre-train the base model of a round on a mixture; from `init`, or from fresh weights."""
    from components.training import pretrain as component

    config, training = context.config, context.training("pretrain")
    depends = {
        "config": training,
        "model": config.model,
        "tokenizer": tokenizer.digest,
        "mixture": [(ref.digest, repeat) for ref, repeat in mixture],
        "init": init.digest if init else None,
    }

    name = f"round-{number}/pretrain"

    def work(stage: StageContext) -> TrainResult:
        return component.run_pretraining(
            mixture,
            config.model,
            training,
            tokenizer=tokenizer.uri,
            init=init,
            store=stage.model_store,
            tracker=stage.tracker,
            work_dir=stage.work_dir,
            label=name,
        )

    return context.run(Stage(name, "pretrain", component.REVISION, depends, TrainResult, work))


def start_model(context: BootstrapContext, tokenizer: TokenizerRef) -> ModelRef | None:
    """What the configured encoders and fresh weights make; None without encoders: then the training makes it."""
    from components.model import encoders
    from components.model.checkpoints.publishing import reference_model

    config = context.config
    found = {name: reference_model(uri, "base") for name, uri in config.encoders.folders().items()}
    if not found:
        return None
    seed = config.training("pretrain").seed
    depends = {"encoders": {name: ref.digest for name, ref in found.items()}, "model": config.model, "seed": seed}
    depends |= {"tokenizer": tokenizer.digest, "as_released": config.encoders.as_released}

    def work(stage: StageContext) -> ModelRef:
        return encoders.publish_start(
            config.model,
            found,
            tokenizer=tokenizer.uri,
            seed=seed,
            store=stage.model_store,
            work_dir=stage.work_dir,
            as_released=config.encoders.as_released,
        )

    return context.run(Stage("start", "encoders", encoders.REVISION, depends, ModelRef, work))


@flow(name="pretraining", flow_run_name="pretraining-{config_path}")
@orderly
def pretraining(config_path: str, overrides: Sequence[str] = ()) -> ModelRef:
    """Import the data and pre-train round 0's base model, alone."""
    config = load_config(config_path, overrides)
    with open_bootstrap(config, "pretraining") as context:
        raw = prepare(context)
        mixture = [(raw.web, 1), (raw.train, config.data.human_repeat)]
        tokenizer = make_tokenizer(context, raw)
        return pretrain(context, 0, mixture, tokenizer, start_model(context, tokenizer)).model
