"""What MLflow's pages show of a bootstrap: a run per round with all its figures, and words that say what is what."""

from collections.abc import Mapping, Sequence

from components.common.contracts import BootstrapResult, Interval, ModelRole, RoundResult
from components.common.metrics import BLEU_4, CIDER, RECALL, compared
from components.common.tracking import RunsView, Tracker
from components.pages.table import markdown_table
from components.pages.verdict import word

KIND = "round"
AGAINST_FIRST = "against round 0"
VIEW = RunsView(
    filter=f"tags.stage = '{KIND}'",
    columns={
        f"metrics.`{RECALL}`": 180,
        f"metrics.`{CIDER}`": 130,
        f"metrics.`{BLEU_4}`": 140,
        f"tags.`{AGAINST_FIRST}`": 120,
        "params.`trained on`": 110,
        "params.`web pairs`": 90,
        "tags.`champion`": 90,
    },
    charts="^eval/.*/(mean_recall|text_recall_at_1|image_recall_at_1|cider|bleu_4|accuracy_official)$",
)
DIGITS = 4  # shown in MLflow's tables, which do not round; the stages' runs and records have all
ABOUT: dict[ModelRole, str] = {
    "base": "Pre-trained on web and human pairs (ITC, ITM, LM): its round's captioner and filter start from it.",
    "captioner": "Writes a caption for every web image: a pre-trained model finetuned on human captions (LM).",
    "vqa": "Answers questions about images: a pre-trained model finetuned on annotators' answers.",
    "retrieval": "Finds images by texts and texts by images: a pre-trained model finetuned on human captions.",
    "filter": "Says whether a text fits its image: a pre-trained model finetuned on human captions (ITC, ITM).",
}
ALIASES = (
    "Alias `champion`: of the round that did best, of all bootstraps. `challenger`: of the newest round. One version "
    "per round."
)


def publish_rounds(tracker: Tracker, result: BootstrapResult) -> list[str]:
    """A run of its own for every round, its models as registered versions, and `champion` at those of the winner.

    Returns:
        the runs' ids; none without tracking.
    """
    runs = [_publish_round(tracker, result, one) for one in result.rounds]
    return [run for run in runs if run is not None]


def _publish_round(tracker: Tracker, result: BootstrapResult, one: RoundResult) -> str | None:
    """The round's own run: what it was trained on, what was measured, and its models as registered versions.

    It stands beside the bootstrap's run, not below it, so that MLflow lists the rounds of every bootstrap one under the
    other. And models belong to it, for MLflow writes a model's scores into its run, at step 0.
    """
    labels = {"stage": KIND, "round": str(one.round), "bootstrap": result.label}
    run = tracker.beside(f"round-{one.round} of {result.label}", labels)
    run.log_tags({"champion": "yes" if one.round == result.champion else "no", AGAINST_FIRST: word(one) or "–"})
    run.log_params({"trained on": one.web.name, "web images": one.web.images, "web pairs": one.web.pairs})
    for dataset, use in ((one.web, "web"), (result.raw.train, "human"), (result.raw.test, "test")):
        run.log_dataset(dataset, use)
    metrics = {key: round(value, DIGITS) for key, value in compared(one.metrics).items()}
    run.log_metrics({key: value for key, value in metrics.items() if run.known_point(key, 0) != value})
    log_certainty(run, one, 0)
    note = _round_note(tracker, result, one)
    run.describe(note)
    _register_models(run, result, one, {key: value for key, value in metrics.items() if key.startswith("eval/")}, note)
    run.end()
    return run.run_id


def log_certainty(run: Tracker, one: RoundResult, step: int) -> None:
    """Ends of intervals and changes since round 0, as metrics of their own; known points are not repeated."""
    figures = {name: round(value, DIGITS) for name, value in _certainty(one).items()}
    probe = next(iter(figures), None)
    if probe is not None and run.known_point(probe, step) != figures[probe]:
        run.log_metrics(figures, step=step)


def _certainty(one: RoundResult) -> dict[str, float]:
    if one.uncertainty is None:
        return {}
    figures: dict[str, float] = {}
    for name, interval in one.uncertainty.values.items():
        figures |= _ends(f"interval/{name.removeprefix('eval/')}", interval)
    for name, change in one.uncertainty.changes.items():
        short = f"change/{name.removeprefix('eval/')}"
        figures |= {short: change.difference} | _ends(short, change.interval)
    return figures


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}/low": interval.low, f"{name}/high": interval.high}


def _register_models(
    run: Tracker, result: BootstrapResult, one: RoundResult, scores: Mapping[str, float], note: str
) -> None:
    for model in one.models:
        name = f"{result.name}-{model.role}"
        tags = {"round": str(one.round), "web_digest": one.web.digest}
        about = f"{ABOUT[model.role]}\n\n{ALIASES}"
        champion = "; ".join(result.reasons) if result.promoted and one.round == result.champion else None
        note_of_model = f"The {model.role} of {note}"
        run.register_model(name, model, scores, tags, about=about, note=note_of_model, champion=champion)


def _round_note(tracker: Tracker, result: BootstrapResult, one: RoundResult) -> str:
    page = tracker.page()
    bootstrap = f"[{result.label}]({page})" if page else result.label
    made = f"written by the models of round {one.round - 1}" if one.round else "as it came"
    winner = " **The champion of its bootstrap.**" if one.round == result.champion else ""
    return (
        f"round {one.round} of {bootstrap}: trained on human captions and on `{one.web.name}` "
        f"({one.web.images:,} images, {one.web.pairs:,} pairs; {made}).{winner}"
    )


def describe_bootstrap(tracker: Tracker, result: BootstrapResult, rounds: Sequence[str]) -> None:
    """Put the outcome, with links to its pages, on top of the bootstrap's run and of the experiment.

    Args:
        rounds: ids of the rounds' runs.
    """
    page, table, charts = tracker.page("artifacts/report.html"), tracker.runs_page(), tracker.runs_page(charts=True)
    outcome = f"{result.outcome.capitalize()} ({'; '.join(result.reasons)})."
    links = [f"[report page]({page})", f"[rounds in a table]({table})", f"[in charts]({charts})"]
    if len(rounds) > 1:
        links.append(f"[one beside the other]({tracker.comparison_page(rounds)})")
    where = f"\n\nThe report page lies at `{result.report}`." if result.report else ""
    tracker.describe(f"{outcome}\n\n{' · '.join(links)}\n\n{markdown_table(result.rounds)}{where}")
    tracker.describe_experiment(
        f"Bootstraps **{result.name}**: a run per **round** (`round-0`, `round-1` …) with everything that was measured "
        f"of it, and one per bootstrap with its stages below it.\n\n"
        f"[Rounds in a table]({table}) · [rounds in charts]({charts}) · "
        f"[newest bootstrap]({tracker.page()}) · [its report page]({page})",
        VIEW,
    )
