"""The loop on one screen: pretrain → finetune ×2 → evaluate → capfilt → pretrain → … → compare, promote, report."""

from collections.abc import Sequence

from prefect import flow
from prefect.runtime import flow_run

from components.common.contracts import BootstrapResult, RoundResult
from components.config import load_config
from flows.assessment import assess, judge, promote
from flows.finetuning import finetune
from flows.hooks import mark_killed
from flows.layout import parent_run
from flows.preparation import make_tokenizer, prepare
from flows.pretraining import pretrain, start_model
from flows.regeneration import calibrate, regenerate
from flows.reporting import conclude
from flows.stages import open_bench


def _run_name() -> str:
    parameters = flow_run.parameters
    config = load_config(parameters.get("config_path"), parameters.get("overrides") or ())
    return str(parent_run(config)["run_name"])  # as MLflow's run


@flow(name="bootstrap", flow_run_name=_run_name, on_cancellation=[mark_killed], on_crashed=[mark_killed])
def bootstrap(config_path: str | None = None, overrides: Sequence[str] = ()) -> BootstrapResult:
    """Run the whole bootstrap of a config; finished stages are found, not repeated.

    Args:
        config_path: a YAML file; null for the sample's.
        overrides: `key.inner=value` settings on top of it.
    """
    config = load_config(config_path, overrides)
    with open_bench(config) as bench:
        raw = prepare(bench)
        tokenizer = make_tokenizer(bench, raw)
        web, init = raw.web, start_model(bench, tokenizer)
        rounds: list[RoundResult] = []
        for number in range(config.rounds + 1):
            mixture = [(web, 1), (raw.train, config.data.human_repeat)]
            base = pretrain(bench, number, mixture, tokenizer, init)
            captioner = finetune(bench, number, "captioner", base, raw.train)
            matcher = finetune(bench, number, "filter", base, raw.train)
            report = assess(bench, number, captioner, matcher, raw.test)
            calibration = calibrate(bench, number, matcher, raw.val)
            rounds.append(
                RoundResult(
                    round=number,
                    web=web,
                    base=base,
                    captioner=captioner,
                    filter=matcher,
                    metrics=bench.metrics[number],
                    details_uri=report.uri,
                )
            )
            if config.init == "continue":
                init = base
            if number < config.rounds:
                web = regenerate(bench, number + 1, raw.web, captioner, matcher, calibration).dataset
                if raw.truth_uri is not None:
                    judge(bench, number + 1, web, raw.truth_uri)
        champion, reasons = promote(bench, raw, rounds)
        return conclude(bench, raw, rounds, champion, reasons)
