"""CapFilt as a stage of the loop, and as a flow of its own."""

from collections.abc import Sequence

from prefect import flow

from components.common.contracts import CapfiltResult, DatasetRef, ModelRef
from components.common.progress import Progress
from components.config import load_config
from flows._stage import Bay, Bench, Stage, open_bench
from flows.preparation import prepare


def regenerate(bench: Bench, number: int, web: DatasetRef, captioner: ModelRef, matcher: ModelRef) -> CapfiltResult:
    """The web data of a round: the original web data, rewritten and cleaned by the last round's models."""
    from components.capfilt import run as component

    config = bench.config.captioning()
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
        return regenerate(bench, 1, prepare(bench).web, captioner, matcher)
