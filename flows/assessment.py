"""Measuring a round, judging what CapFilt did, and summing a round up; and measuring as a flow of its own."""

import logging
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
    Uncertainty,
    score_weights,
)
from components.common.errors import CapfiltError
from components.common.identity import deciding
from components.common.storage import open_store, split_uri
from components.config import load_config
from flows.preparation import prepare
from flows.stages import BootstrapContext, Stage, StageContext, open_bootstrap
from flows.witness import orderly

logger = logging.getLogger(__name__)


def assess(
    context: BootstrapContext, number: int, captioner: ModelRef, retrieval: ModelRef, test: DatasetRef
) -> EvalReport:
    """Captioning, and retrieval by a filter or its like: the same human test split and code in every round."""
    return measure(context, f"round-{number}/evaluate", captioner, retrieval, test, number)


def measure(
    context: BootstrapContext, name: str, captioner: ModelRef, filter: ModelRef, test: DatasetRef, number: int = 0
) -> EvalReport:
    """The stage of this name: any captioner and filter measured on a test split, or found to have been."""
    from components.evaluation import run as component
    from components.evaluation.config import MEASUREMENT

    config = context.evaluation()
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


def assess_base(context: BootstrapContext, number: int, base: ModelRef, test: DatasetRef) -> EvalReport | None:
    """Retrieval by a round's base model as pre-training leaves it; None where the config leaves that out.

    What pre-training has gained is seen here: finetuning on the same human captions evens rounds out.
    """
    from components.evaluation import run as component

    config = context.evaluation()
    if not config.base_models:
        return None
    names = ("precision", "limit", "position_zero")
    decides = {"retrieval": config.retrieval} | {name: getattr(config, name) for name in names}
    depends = {"config": decides, "base": base.digest, "test": test.digest}

    def work(stage: StageContext) -> EvalReport:
        return component.run_base_evaluation(
            base, test, config, round=number, store=context.store, tracker=stage.tracker, work_dir=stage.work_dir
        )

    name = f"round-{number}/evaluate-base"
    return context.run(Stage(name, "evaluate-base", component.REVISION, depends, EvalReport, work))


def weigh_up(
    context: BootstrapContext,
    rounds: Sequence[RoundResult],
    report: EvalReport,
    base: EvalReport | None,
    answers: Answering | None = None,
) -> Uncertainty | None:
    """How sure a new round's figures are, and their changes since round 0; None where its details do not say.

    Computed anew from the details every time: that takes seconds, and old runs get intervals too.
    """
    from components.evaluation.intervals import read_measured, uncertainty

    first = rounds[0] if rounds else None
    now = (report.uri, base.uri if base else None, answers.report.uri if answers else None)
    then = (first.details_uri, first.base_details_uri, first.answers_uri) if first else (None, None, None)
    try:
        parts = [
            (read_measured(new), read_measured(old) if old else None)
            for new, old in zip(now, then, strict=True)
            if new is not None
        ]
        return uncertainty(parts, context.config.evaluation.intervals) if parts else None
    except CapfiltError as error:
        logger.warning("round %d has no intervals: %s", report.round, error)
        return None


def judge(context: BootstrapContext, number: int, web: CapfiltResult, truth_uri: str | None) -> CapfiltResult:
    """Add to a round's web data how right CapFilt's decisions were, where the kinds of the web texts are known.

    Nothing learns from this.
    """
    if truth_uri is None:
        return web
    from components.data.manifest import load_manifest
    from components.data.texts import dataset_candidates
    from components.evaluation import dataset as component

    folder, name = split_uri(truth_uri)
    info = open_store(folder).info(name)
    depends = {"web": web.dataset.digest, "truth": info.size if info else None}

    def work(stage: StageContext) -> EvalReport:
        weights = score_weights(load_manifest(web.dataset.uri).config)
        rows, truth = dataset_candidates(web.dataset.uri), component.load_truth(truth_uri)
        metrics = component.score_against_truth(rows, truth, weights)
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
    base_report: EvalReport | None,
    calibration: Calibration,
    drift: Drift | None,
    uncertainty: Uncertainty | None,
    retrieval: TrainResult | None,
    answering: Answering | None,
) -> RoundResult:
    """A round's models, data and figures, each training's under its role, and where its curves lie."""
    zero_shot = base_report or EvalReport(round=number, metrics={})
    trainings = {"pretrain": base, "captioner": captioner, "filter": filter}
    if retrieval is not None:
        trainings["retrieval"] = retrieval
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
        retrieval=retrieval.model if retrieval else None,
        vqa=answering.training.model if answering else None,
        metrics=web.metrics
        | figures
        | report.metrics
        | zero_shot.metrics
        | calibration.metrics
        | (answering.report.metrics if answering else {}),
        details_uri=report.uri,
        base_details_uri=zero_shot.uri,
        uncertainty=uncertainty,
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
