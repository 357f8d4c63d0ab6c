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

FinetunedRole = Literal["captioner", "filter", "retrieval", "vqa"]


def finetune(
    context: BootstrapContext, number: int, role: FinetunedRole, base: ModelRef, human: DatasetRef
) -> TrainResult:
    """Finetune a round's base model into its captioner or filter, on human captions alone, or for VQA on questions.

    A model for retrieval learns what a filter learns. With the filter's settings it is the filter, which is found done.
    """
    from components.training import finetune as component

    objective = "filter" if role == "retrieval" else role
    training = context.training(role)
    depends = {"role": objective, "config": training, "base": base.digest, "human": human.digest}

    name = f"round-{number}/{role}"

    def work(stage: StageContext) -> TrainResult:
        return component.run_finetuning(
            objective,
            base,
            [(human, 1)],
            training,
            store=stage.model_store,
            tracker=stage.tracker,
            work_dir=stage.work_dir,
            label=name,
        )

    return context.run(Stage(name, f"finetune-{objective}", component.REVISION, depends, TrainResult, work))


def finetune_retrieval(context: BootstrapContext, number: int, base: ModelRef, human: DatasetRef) -> TrainResult | None:
    """A round's model for retrieval alone; None where the config has no settings for one, and the filter is it."""
    if context.config.retrieval is None:
        return None
    found = finetune(context, number, "retrieval", base, human)
    return found.model_copy(update={"model": found.model.model_copy(update={"role": "retrieval"})})


@flow(name="finetuning", flow_run_name="finetuning-{role}")
@orderly
def finetuning(config_path: str, base: ModelRef, role: FinetunedRole, overrides: Sequence[str] = ()) -> ModelRef:
    """Finetune one role from any base model, alone."""
    with open_bootstrap(load_config(config_path, overrides), "finetuning") as context:
        raw = prepare(context)
        asked = prepare_questions(context) if role == "vqa" else None
        return finetune(context, 0, role, base, asked.train if asked else raw.train).model
