"""CapFilt and the measuring of its filter as stages of the loop, and CapFilt as a flow of its own."""

import logging
from collections.abc import Sequence

from prefect import flow

from components.common.contracts import Calibration, CapfiltResult, DatasetRef, Drift, ModelRef, RoundResult
from components.common.errors import CapfiltError
from components.common.progress import Progress
from components.config import load_config
from flows.preparation import prepare
from flows.stages import BootstrapContext, Stage, StageContext, open_bootstrap
from flows.witness import orderly

logger = logging.getLogger(__name__)


def calibrate(context: BootstrapContext, number: int, filter: ModelRef, human: DatasetRef) -> Calibration:
    """A round's filter measured on the human validation split."""
    from components.regeneration import calibration as component
    from components.regeneration.precision import settled_in_store

    config = settled_in_store(context.config.captioning(), context.store)
    name = f"round-{number}/calibrate"
    depends = {"config": component.measured_by(config), "filter": filter.digest, "human": human.digest}

    def work(stage: StageContext) -> Calibration:
        return component.run_calibration(
            filter,
            human,
            config,
            store=context.store,
            work_dir=stage.work_dir,
            tracker=stage.tracker,
            step=number,
            label=name,
        )

    return context.run(Stage(name, "calibrate", component.REVISION, depends, Calibration, work))


def compare_filters(context: BootstrapContext, rounds: Sequence[RoundResult], after: Calibration) -> Drift | None:
    """How the filter of a new round judges otherwise than the last one's; for the worse is warned of."""
    from components.regeneration.drift import find_drift

    before = rounds[-1].calibration if rounds else None
    limit, intervals = context.config.capfilt.calibration.drift, context.config.evaluation.intervals
    try:
        drift = find_drift(before, after, limit, intervals)
    except CapfiltError as error:
        logger.warning("round-%d/calibrate: not compared with the round before: %s", len(rounds), error)
        return None
    if drift is not None:
        level = logging.WARNING if drift.worse else logging.INFO
        logger.log(level, "round-%d/calibrate: %s", len(rounds), drift.text)
    return drift


def regenerate(
    context: BootstrapContext,
    number: int,
    web: DatasetRef,
    captioner: ModelRef,
    filter: ModelRef,
    calibration: Calibration,
) -> CapfiltResult:
    """The web data of a round: the original web data, rewritten and cleaned by the last round's models.

    Where the same models have worked on earlier web data, only what is new or changed since then is worked on.

    Raises:
        GateError: the filter cannot reach the precision that the config asks for.
    """
    from components.regeneration import run as component
    from components.regeneration.calibration import settle
    from components.regeneration.precision import settled_in_store

    config = settle(settled_in_store(context.config.captioning(), context.store), calibration, filter)
    name = f"round-{number}/capfilt"
    depends = {"config": config.effective(), "web": web.digest, "captioner": captioner.digest, "filter": filter.digest}

    def work(stage: StageContext) -> CapfiltResult:
        former = context.earlier(this, but="web")
        with Progress(web.images, "images", name) as progress:
            return component.run_capfilt(
                web,
                captioner,
                filter,
                config,
                store=context.store,
                name=f"web-capfilt-{number}",
                tracker=stage.tracker,
                progress=progress,
                work_dir=stage.work_dir,
                extend=former.dataset.uri if former is not None else None,
                confirm=stage.confirm,
            )

    this = Stage(name, "capfilt", component.REVISION, depends, CapfiltResult, work)
    return context.run(this)


@flow(name="regeneration")
@orderly
def regeneration(
    config_path: str, captioner: ModelRef, filter: ModelRef, overrides: Sequence[str] = ()
) -> CapfiltResult:
    """CapFilt over the config's web data with any captioner and filter, alone."""
    with open_bootstrap(load_config(config_path, overrides), "regeneration") as context:
        raw = prepare(context)
        return regenerate(context, 1, raw.web, captioner, filter, calibrate(context, 0, filter, raw.val))
