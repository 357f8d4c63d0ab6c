"""CapFilt and the measuring of its filter as stages of the loop, and CapFilt as a flow of its own."""

import logging
from collections.abc import Sequence

from prefect import flow

from components.common.contracts import Calibration, CapfiltResult, DatasetRef, ModelRef
from components.common.progress import Progress
from components.config import load_config
from flows.preparation import prepare
from flows.stages import Bay, Bench, Stage, open_bench

logger = logging.getLogger(__name__)


def calibrate(bench: Bench, number: int, matcher: ModelRef, human: DatasetRef) -> Calibration:
    """A round's filter measured on the human validation split; a filter that has become worse is warned of."""
    from components.regeneration import calibration as component
    from components.regeneration.drift import find_drift

    config = bench.config.captioning()
    name = f"round-{number}/calibrate"
    depends = {"config": component.measured_by(config), "filter": matcher.digest, "human": human.digest}

    def work(bay: Bay) -> Calibration:
        return component.run_calibration(
            matcher, human, config, work_dir=bay.work_dir, tracker=bay.tracker, step=number, label=name
        )

    result = bench.run(Stage(name, "calibrate", component.REVISION, depends, Calibration, work))
    bench.note(number, result.metrics)
    bench.calibrations[number] = result
    if drift := find_drift(bench.calibrations.get(number - 1), result, config.calibration.drift):
        logger.log(logging.WARNING if drift.worse else logging.INFO, "%s: %s", name, drift.text)
    return result


def regenerate(
    bench: Bench, number: int, web: DatasetRef, captioner: ModelRef, matcher: ModelRef, calibration: Calibration
) -> CapfiltResult:
    """The web data of a round: the original web data, rewritten and cleaned by the last round's models.

    Raises:
        GateError: the filter cannot reach the precision that the config asks for.
    """
    from components.regeneration import run as component
    from components.regeneration.calibration import settle

    config = settle(bench.config.captioning(), calibration)
    name = f"round-{number}/capfilt"
    depends = {"config": config.effective(), "web": web.digest, "captioner": captioner.digest, "filter": matcher.digest}

    def work(bay: Bay) -> CapfiltResult:
        with Progress(web.images, "images", name) as progress:
            return component.run_capfilt(
                web,
                captioner,
                matcher,
                config,
                store=bench.store,
                name=f"web-capfilt-{number}",
                tracker=bay.tracker,
                progress=progress,
                work_dir=bay.work_dir,
            )

    result = bench.run(Stage(name, "capfilt", component.REVISION, depends, CapfiltResult, work))
    bench.note(number, result.metrics)
    return result


@flow(name="regeneration")
def regeneration(
    config_path: str, captioner: ModelRef, matcher: ModelRef, overrides: Sequence[str] = ()
) -> CapfiltResult:
    """CapFilt over the config's web data with any captioner and filter, alone."""
    with open_bench(load_config(config_path, overrides), "regeneration") as bench:
        raw = prepare(bench)
        return regenerate(bench, 1, raw.web, captioner, matcher, calibrate(bench, 0, matcher, raw.val))
