"""The loop on one screen: pretrain → finetune ×2 → evaluate → capfilt → pretrain → … → compare, promote, report."""

from collections.abc import Sequence

from prefect import flow
from prefect.runtime import flow_run

from components.common.contracts import BootstrapResult, CapfiltResult, RoundResult
from components.config import load_config
from flows.answering import answer
from flows.assessment import assess, assess_base, judge, sum_up, weigh_up
from flows.finetuning import finetune, finetune_retrieval
from flows.hooks import mark_killed
from flows.layout import parent_run
from flows.preparation import make_tokenizer, prepare
from flows.pretraining import pretrain, start_model
from flows.promotion import promote
from flows.questions import prepare_questions
from flows.regeneration import calibrate, compare_filters, regenerate
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
        asked = prepare_questions(context)
        tokenizer = make_tokenizer(context, raw)
        init = start_model(context, tokenizer)
        web = CapfiltResult(dataset=raw.web, metrics={})  # round 0 trains on the web data as it came
        rounds: list[RoundResult] = []
        for number in range(config.rounds + 1):
            mixture = [(web.dataset, 1), (raw.train, config.data.human_repeat)]
            base = pretrain(context, number, mixture, tokenizer, init)
            alone = assess_base(context, number, base.model, raw.test)
            captioner = finetune(context, number, "captioner", base.model, raw.train)
            filter = finetune(context, number, "filter", base.model, raw.train)
            retrieval = finetune_retrieval(context, number, base.model, raw.train)
            report = assess(context, number, captioner.model, (retrieval or filter).model, raw.test)
            calibration = calibrate(context, number, filter.model, raw.val)
            drift = compare_filters(context, rounds, calibration)
            answers = answer(context, number, base.model, asked)
            sure = weigh_up(context, rounds, report, alone, answers)
            parts = (web, base, captioner, filter, report, alone, calibration, drift, sure, retrieval, answers)
            rounds.append(sum_up(number, *parts))
            if config.init == "continue":
                init = base.model
            if number < config.rounds:
                web = regenerate(context, number + 1, raw.web, captioner.model, filter.model, calibration)
                web = judge(context, number + 1, web, raw.truth_uri)
        return conclude(context, raw, rounds, promote(context, rounds, raw.test, asked))
