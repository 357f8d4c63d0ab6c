"""A round's model that answers questions: finetuned from the round's base model, and measured, where vqa is a task."""

from typing import Any

from components.common.contracts import Answering, AskedData, DatasetRef, EvalReport, ModelRef
from components.common.identity import deciding
from flows.finetuning import finetune
from flows.stages import BootstrapContext, Stage, StageContext


def answer(context: BootstrapContext, number: int, base: ModelRef, asked: AskedData | None) -> Answering | None:
    """Finetune a round's base model on questions, and measure it on the test questions; None where none are asked."""
    if asked is None:
        return None
    training = finetune(context, number, "vqa", base, asked.train)
    report = measure_answers(context, f"round-{number}/evaluate-vqa", training.model, asked.test, number)
    return Answering(training=training, report=report)


def measure_answers(
    context: BootstrapContext, name: str, model: ModelRef, test: DatasetRef, number: int = 0
) -> EvalReport:
    """The stage of this name: any model that answers measured on test questions, or found to have been."""
    from components.evaluation import answering as component

    config, evaluation = context.config.answering, context.evaluation()
    depends: dict[str, Any] = {"config": deciding(config), "model": model.digest, "test": test.digest}
    depends |= {"limit": evaluation.limit, "precision": evaluation.precision}

    def work(stage: StageContext) -> EvalReport:
        return component.run_answering(
            model,
            test,
            config,
            evaluation,
            round=number,
            store=context.store,
            tracker=stage.tracker,
            work_dir=stage.work_dir,
        )

    return context.run(Stage(name, "evaluate-vqa", component.REVISION, depends, EvalReport, work))
