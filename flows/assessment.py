"""Measuring a round, judging what CapFilt did, and summing a round up; and measuring as a flow of its own."""

from collections.abc import Sequence

from prefect import flow

from components.common.contracts import (
    Answering,
    Calibration,
    CapfiltResult,
    DatasetRef,
    Drift,
    EvalReport,
    ModelRef,
    RoundResult,
    TrainResult,
)
from components.common.identity import deciding
from components.common.storage import open_store, split_uri
from components.config import load_config
from flows.preparation import prepare
from flows.stages import BootstrapContext, Stage, StageContext, open_bootstrap
from flows.witness import orderly


def assess(
    context: BootstrapContext, number: int, captioner: ModelRef, filter: ModelRef, test: DatasetRef
) -> EvalReport:
    """Captioning and retrieval on the human test split: the same split and code in every round."""
    return measure(context, f"round-{number}/evaluate", captioner, filter, test, number)


def measure(
    context: BootstrapContext, name: str, captioner: ModelRef, filter: ModelRef, test: DatasetRef, number: int = 0
) -> EvalReport:
    """The stage of this name: any captioner and filter measured on a test split, or found to have been."""
    from components.evaluation import run as component
    from components.evaluation.config import MEASUREMENT

    config = context.config.evaluation
    measured = deciding(config, MEASUREMENT)
    depends = {"config": measured, "captioner": captioner.digest, "filter": filter.digest, "test": test.digest}

    def work(stage: StageContext) -> EvalReport:
        return component.run_evaluation(
            captioner,
            filter,
            test,
            config,
            round=number,
            store=context.store,
            tracker=stage.tracker,
            work_dir=stage.work_dir,
        )

    return context.run(Stage(name, "evaluate", component.REVISION, depends, EvalReport, work))


def judge(context: BootstrapContext, number: int, web: CapfiltResult, truth_uri: str | None) -> CapfiltResult:
    """Add to a round's web data how right CapFilt's decisions were, where the kinds of the web texts are known.

    Nothing learns from this.
    """
    if truth_uri is None:
        return web
    from components.data.texts import dataset_candidates
    from components.evaluation import dataset as component

    folder, name = split_uri(truth_uri)
    info = open_store(folder).info(name)
    depends = {"web": web.dataset.digest, "truth": info.size if info else None}

    def work(stage: StageContext) -> EvalReport:
        metrics = component.score_against_truth(dataset_candidates(web.dataset.uri), component.load_truth(truth_uri))
        stage.tracker.log_metrics(metrics, step=number)
        return EvalReport(round=number, metrics=metrics)

    report = context.run(Stage(f"round-{number}/judge", "judge", component.REVISION, depends, EvalReport, work))
    return web.model_copy(update={"metrics": web.metrics | report.metrics})


def sum_up(
    number: int,
    web: CapfiltResult,
    base: TrainResult,
    captioner: TrainResult,
    filter: TrainResult,
    report: EvalReport,
    calibration: Calibration,
    drift: Drift | None,
    answering: Answering | None = None,
) -> RoundResult:
    """A round's models, data and figures, each training's under its role, and where its curves lie."""
    trainings = {"pretrain": base, "captioner": captioner, "filter": filter}
    if answering is not None:
        trainings["vqa"] = answering.training
    figures = {
        name.replace("train/", f"{role}/", 1): value
        for role, training in trainings.items()
        for name, value in training.metrics.items()
    }
    return RoundResult(
        round=number,
        web=web.dataset,
        base=base.model,
        captioner=captioner.model,
        filter=filter.model,
        vqa=answering.training.model if answering else None,
        metrics=web.metrics
        | figures
        | report.metrics
        | calibration.metrics
        | (answering.report.metrics if answering else {}),
        details_uri=report.uri,
        answers_uri=answering.report.uri if answering else None,
        histories={role: one.history_uri for role, one in trainings.items() if one.history_uri is not None},
        calibration=calibration,
        drift=drift,
    )


@flow(name="assessment")
@orderly
def assessment(config_path: str, captioner: ModelRef, filter: ModelRef, overrides: Sequence[str] = ()) -> EvalReport:
    """Measure any captioner and filter on the config's test split, alone."""
    with open_bootstrap(load_config(config_path, overrides), "assessment") as context:
        return assess(context, 0, captioner, filter, prepare(context).test)
