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
from flows.stages import open_bootstrap
from flows.witness import orderly


def _run_name() -> str:
    parameters = flow_run.parameters
    config = load_config(parameters.get("config_path"), parameters.get("overrides") or ())
    return str(parent_run(config)["run_name"])  # as MLflow's run


@flow(name="bootstrap", flow_run_name=_run_name, on_cancellation=[mark_killed], on_crashed=[mark_killed])
@orderly
def bootstrap(config_path: str | None = None, overrides: Sequence[str] = ()) -> BootstrapResult:
    """Run the whole bootstrap of a config; finished stages are found, not repeated.

    Args:
        config_path: a YAML file; null for the sample's.
        overrides: `key.inner=value` settings on top of it.
    """
    config = load_config(config_path, overrides)
    with open_bootstrap(config) as context:
        raw = prepare(context)
        tokenizer = make_tokenizer(context, raw)
        web, init = raw.web, start_model(context, tokenizer)
        rounds: list[RoundResult] = []
        for number in range(config.rounds + 1):
            mixture = [(web, 1), (raw.train, config.data.human_repeat)]
            base = pretrain(context, number, mixture, tokenizer, init)
            captioner = finetune(context, number, "captioner", base, raw.train)
            filter = finetune(context, number, "filter", base, raw.train)
            report = assess(context, number, captioner, filter, raw.test)
            calibration = calibrate(context, number, filter, raw.val)
            rounds.append(
                RoundResult(
                    round=number,
                    web=web,
                    base=base,
                    captioner=captioner,
                    filter=filter,
                    metrics=context.metrics[number],
                    details_uri=report.uri,
                )
            )
            if config.init == "continue":
                init = base
            if number < config.rounds:
                web = regenerate(context, number + 1, raw.web, captioner, filter, calibration).dataset
                if raw.truth_uri is not None:
                    judge(context, number + 1, web, raw.truth_uri)
        champion, reasons = promote(context, raw, rounds)
        return conclude(context, raw, rounds, champion, reasons)
