"""Finetuning of captioner and filter as stages of the loop, and as a flow of their own."""

from collections.abc import Sequence
from typing import Literal

from prefect import flow

from components.common.contracts import DatasetRef, ModelRef, TrainResult
from components.config import load_config
from flows.preparation import prepare
from flows.stages import Bay, Bench, Stage, open_bench


def finetune(
    bench: Bench, number: int, role: Literal["captioner", "filter"], base: ModelRef, human: DatasetRef
) -> ModelRef:
    """Finetune a round's base model into its captioner or filter, on human captions alone."""
    from components.training import finetune as component

    training = bench.config.training(role)
    depends = {"role": role, "config": training, "base": base.digest, "human": human.digest}

    name = f"round-{number}/{role}"

    def work(bay: Bay) -> TrainResult:
        return component.run_finetuning(
            role,
            base,
            [(human, 1)],
            training,
            store=bay.model_store,
            tracker=bay.tracker,
            work_dir=bay.work_dir,
            label=name,
        )

    stage = Stage(name, f"finetune-{role}", component.REVISION, depends, TrainResult, work)
    result = bench.run(stage)
    bench.note_training(number, role, result)
    return result.model


@flow(name="finetuning", flow_run_name="finetuning-{role}")
def finetuning(
    config_path: str, base: ModelRef, role: Literal["captioner", "filter"], overrides: Sequence[str] = ()
) -> ModelRef:
    """Finetune one role from any base model, alone."""
    with open_bench(load_config(config_path, overrides), "finetuning") as bench:
        return finetune(bench, 0, role, base, prepare(bench).train)
