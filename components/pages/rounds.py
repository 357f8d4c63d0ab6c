"""What MLflow's pages show of a bootstrap: a run per round with all its figures, and words that say what is what."""

from collections.abc import Sequence

from components.common.contracts import ModelRole, RawData, RoundResult
from components.common.tracking import MlflowTracker, RunsView, comparison_page, run_page, runs_page
from flows.layout import parent_run
from flows.stages import BootstrapContext, compared
from components.pages.table import markdown_table

KIND = "round"
VIEW = RunsView(
    filter=f"tags.stage = '{KIND}'",
    columns={
        "metrics.`eval/retrieval/mean_recall`": 180,
        "metrics.`eval/caption/cider`": 130,
        "metrics.`eval/caption/bleu_4`": 140,
        "params.`trained on`": 110,
        "params.`web pairs`": 90,
        "tags.`champion`": 90,
    },
    charts="^eval/.*/(mean_recall|text_recall_at_1|image_recall_at_1|cider|bleu_4)$",
)
DIGITS = 4  # shown in MLflow's tables, which do not round; the stages' runs and records have all
ABOUT: dict[ModelRole, str] = {
    "base": "Pre-trained on web and human pairs (ITC, ITM, LM): its round's captioner and filter start from it.",
    "captioner": "Writes a caption for every web image: a pre-trained model finetuned on human captions (LM).",
    "filter": "Says whether a text fits its image: a pre-trained model finetuned on human captions (ITC, ITM).",
}
ALIASES = "Alias `champion`: of the round that did best. `challenger`: of the newest round. One version per round."


def publish_round(context: BootstrapContext, raw: RawData, result: RoundResult, *, champion: bool) -> None:
    """The round's own run: what it was trained on, what was measured, and its models as registered versions.

    It stands beside the bootstrap's run, not below it, so that MLflow lists the rounds of every bootstrap one under the
    other. And models belong to it, for MLflow writes a model's scores into its run, at step 0.
    """
    bootstrap = parent_run(context.config)["run_name"]
    labels = {"stage": KIND, "round": str(result.round), "bootstrap": bootstrap}
    run = context.tracker.beside(f"round-{result.round} of {bootstrap}", labels)
    run.log_tags({"champion": "yes" if champion else "no"})
    run.log_params({"trained on": result.web.name, "web images": result.web.images, "web pairs": result.web.pairs})
    for dataset, use in ((result.web, "web"), (raw.train, "human"), (raw.test, "test")):
        run.log_dataset(dataset, use)
    metrics = {key: round(value, DIGITS) for key, value in compared(result.metrics).items()}
    run.log_metrics({key: value for key, value in metrics.items() if run.known_point(key, 0) != value})
    scores = {key: value for key, value in metrics.items() if key.startswith("eval/")}
    note = _round_note(context, result, bootstrap, champion=champion)
    run.describe(note)
    for model in (result.base, result.captioner, result.filter):
        tags = {"round": str(result.round), "web_digest": result.web.digest}
        about = f"{ABOUT[model.role]}\n\n{ALIASES}"
        registered = run.register_model(
            f"{context.config.name}-{model.role}", model, scores, tags, about=about, note=f"The {model.role} of {note}"
        )
        if champion and registered.registered_version is not None:
            run.set_alias(f"{context.config.name}-{model.role}", registered.registered_version, "champion")
    run.end()
    if run.run_id is not None:
        context.round_runs[result.round] = run.run_id


def _round_note(context: BootstrapContext, result: RoundResult, bootstrap: str, *, champion: bool) -> str:
    if isinstance(context.tracker, MlflowTracker) and context.tracker.run_id:
        bootstrap = f"[{bootstrap}]({run_page(context.tracker.experiment_id, context.tracker.run_id)})"
    made = f"written by the models of round {result.round - 1}" if result.round else "as it came"
    winner = " **The champion of its bootstrap.**" if champion else ""
    return (
        f"round {result.round} of {bootstrap}: trained on human captions and on `{result.web.name}` "
        f"({result.web.images:,} images, {result.web.pairs:,} pairs; {made}).{winner}"
    )


def describe_bootstrap(
    context: BootstrapContext, rounds: Sequence[RoundResult], champion: int, reasons: Sequence[str], report: str | None
) -> None:
    """Put the outcome, with links to its pages, on top of the bootstrap's run and of the experiment."""
    tracker = context.tracker
    if not isinstance(tracker, MlflowTracker) or tracker.run_id is None:
        return
    experiment = tracker.experiment_id
    page = run_page(experiment, tracker.run_id, "artifacts/report.html")
    table, charts = runs_page(experiment), runs_page(experiment, charts=True)
    outcome = f"Champion: round {champion} ({'; '.join(reasons)})."
    links = [f"[report page]({page})", f"[rounds in a table]({table})", f"[in charts]({charts})"]
    if len(context.round_runs) > 1:
        links.append(f"[one beside the other]({comparison_page(experiment, list(context.round_runs.values()))})")
    where = f"\n\nThe report page lies at `{report}`." if report else ""
    tracker.describe(f"{outcome}\n\n{' · '.join(links)}\n\n{markdown_table(rounds)}{where}")
    name = context.config.name
    tracker.describe_experiment(
        f"Bootstraps **{name}**: a run per **round** (`round-0`, `round-1` …) with everything that was measured of it, "
        f"and one per bootstrap with its stages below it.\n\n"
        f"[Rounds in a table]({table}) · [rounds in charts]({charts}) · "
        f"[newest bootstrap]({run_page(experiment, tracker.run_id)}) · [its report page]({page})",
        VIEW,
    )
