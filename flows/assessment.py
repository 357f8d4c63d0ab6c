"""Measuring a round, judging what CapFilt did, and promoting the winner; and measuring as a flow of its own."""

from collections.abc import Sequence

from prefect import flow

from components.common.contracts import DatasetRef, EvalReport, ModelRef, RawData, RoundResult
from components.common.storage import open_store, split_uri
from components.config import load_config
from flows.preparation import prepare
from flows.rounds import publish_round
from flows.stages import BootstrapContext, Stage, StageContext, open_bootstrap
from flows.witness import orderly


def assess(
    context: BootstrapContext, number: int, captioner: ModelRef, filter: ModelRef, test: DatasetRef
) -> EvalReport:
    """Captioning and retrieval on the human test split: the same split and code in every round."""
    from components.evaluation import run as component

    config = context.config.evaluation
    measured = config.model_dump(mode="json", exclude={"gate"})
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

    name = f"round-{number}/evaluate"
    report = context.run(Stage(name, "evaluate", getattr(component, "REVISION", 1), depends, EvalReport, work))
    context.note(number, report.metrics)
    return report


def judge(context: BootstrapContext, number: int, web: DatasetRef, truth_uri: str) -> EvalReport:
    """How right CapFilt's decisions were, where the kinds of the web texts are known. Nothing learns from this."""
    from components.data.texts import dataset_candidates
    from components.evaluation import dataset as component

    folder, name = split_uri(truth_uri)
    info = open_store(folder).info(name)
    depends = {"web": web.digest, "truth": info.size if info else None}

    def work(stage: StageContext) -> EvalReport:
        metrics = component.score_against_truth(dataset_candidates(web.uri), component.load_truth(truth_uri))
        stage.tracker.log_metrics(metrics, step=number)
        return EvalReport(round=number, metrics=metrics)

    report = context.run(Stage(f"round-{number}/judge", "judge", component.REVISION, depends, EvalReport, work))
    context.note(number, report.metrics)
    return report


def promote(context: BootstrapContext, raw: RawData, rounds: Sequence[RoundResult]) -> tuple[int, tuple[str, ...]]:
    """Register every round's models, decide which round won, and point `champion` at its models.

    Returns:
        the winning round's number, and the reasons in words.
    """
    from components.evaluation.gate import decide

    champion = rounds[0]
    reasons: tuple[str, ...] = ("the only round",)
    for challenger in rounds[1:]:
        decision = decide(challenger.metrics, champion.metrics, context.config.evaluation.gate)
        reasons = tuple(decision.reasons)
        if decision.promote:
            champion = challenger
    for result in rounds:
        publish_round(context, raw, result, champion=result is champion)
    return champion.round, reasons


@flow(name="assessment")
@orderly
def assessment(config_path: str, captioner: ModelRef, filter: ModelRef, overrides: Sequence[str] = ()) -> EvalReport:
    """Measure any captioner and filter on the config's test split, alone."""
    with open_bootstrap(load_config(config_path, overrides), "assessment") as context:
        return assess(context, 0, captioner, filter, prepare(context).test)
