"""Finetuning of captioner, filter and VQA as stages of the loop, and as a flow of their own."""

from collections.abc import Sequence
from typing import Literal

from prefect import flow

from components.common.contracts import DatasetRef, ModelRef, TrainResult
from components.config import load_config
from flows.preparation import prepare
from flows.questions import prepare_questions
from flows.stages import BootstrapContext, Stage, StageContext, open_bootstrap
from flows.witness import orderly

FinetunedRole = Literal["captioner", "filter", "vqa"]


def finetune(
    context: BootstrapContext, number: int, role: FinetunedRole, base: ModelRef, human: DatasetRef
) -> TrainResult:
    """Finetune a round's base model into its captioner or filter, on human captions alone, or for VQA on questions."""
    from components.training import finetune as component

    training = context.training(role)
    depends = {"role": role, "config": training, "base": base.digest, "human": human.digest}

    name = f"round-{number}/{role}"

    def work(stage: StageContext) -> TrainResult:
        return component.run_finetuning(
            role,
            base,
            [(human, 1)],
            training,
            store=stage.model_store,
            tracker=stage.tracker,
            work_dir=stage.work_dir,
            label=name,
        )

    return context.run(Stage(name, f"finetune-{role}", component.REVISION, depends, TrainResult, work))


@flow(name="finetuning", flow_run_name="finetuning-{role}")
@orderly
def finetuning(config_path: str, base: ModelRef, role: FinetunedRole, overrides: Sequence[str] = ()) -> ModelRef:
    """Finetune one role from any base model, alone."""
    with open_bootstrap(load_config(config_path, overrides), "finetuning") as context:
        raw = prepare(context)
        asked = prepare_questions(context) if role == "vqa" else None
        return finetune(context, 0, role, base, asked.train if asked else raw.train).model
