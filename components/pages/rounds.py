"""What MLflow's pages show of a bootstrap: a run per round with all its figures, and words that say what is what."""

from collections.abc import Mapping, Sequence

from components.common.contracts import BootstrapResult, DatasetRef, RoundResult
from components.common.tracking import Score, Tracker
from components.data.manifest import Manifest, Parent
from components.pages.cards import ABOUT, ALIASES, model_card, within
from components.pages.scores import certainty, scores_of
from components.pages.table import markdown_table
from components.pages.verdict import word
from components.pages.views import AGAINST_FIRST, KIND, QUESTIONS, champion_metric, pages, views

Manifests = Mapping[str, Manifest]
"""Of datasets, by their URIs."""


def publish_rounds(
    tracker: Tracker, result: BootstrapResult, manifests: Manifests, settings: Mapping[str, str]
) -> list[str]:
    """A run of its own for every round, its models as registered versions, and `champion` at those of the winner.

    Args:
        settings: what the rounds' runs say of the bootstrap's settings.

    Returns:
        the runs' ids; none without tracking.
    """
    words = tracker.known_tag("settings")
    runs = [_publish_round(tracker, result, one, manifests, settings, words) for one in result.rounds]
    return [run for run in runs if run is not None]


def _publish_round(
    tracker: Tracker,
    result: BootstrapResult,
    one: RoundResult,
    manifests: Manifests,
    settings: Mapping[str, str],
    words: str,
) -> str | None:
    """The round's own run: what it was trained on, what was measured, and its models as registered versions.

    It stands beside the bootstrap's run, not below it, so that MLflow lists the rounds of every bootstrap one under the
    other. And models belong to it, for MLflow writes a model's scores into its run, at step 0.
    """
    labels = {"stage": KIND, "round": str(one.round), "bootstrap": result.label}
    run = tracker.beside(f"round-{one.round} of {result.label} {words}".strip(), labels)
    run.log_tags(
        {
            "champion": "yes" if one.round == result.champion else "no",
            AGAINST_FIRST: word(one) or "–",
            "settings": words,
        }
    )
    trained = {"trained on": one.web.name, "web version": one.web.digest[:12]}
    run.log_params({**trained, "web images": one.web.images, "web pairs": one.web.pairs, **settings})
    for dataset, use in ((one.web, "web"), (result.raw.train, "human"), (result.raw.test, "test")):
        run.log_dataset(dataset, use, dataset_facts(result, dataset, manifests))
    _register_models(run, result, one)
    run.log_scores(scores_of(result, one))
    run.describe(_round_note(tracker, result, one, manifests))
    run.end()
    return run.run_id


def log_certainty(run: Tracker, one: RoundResult, step: int) -> None:
    """Ends of intervals and changes since round 0, as metrics of their own; known points are not repeated."""
    figures = certainty(one)
    probe = next(iter(figures), None)
    if probe is not None and run.known_point(probe, step) != figures[probe]:
        run.log_metrics(figures, step=step)


def _register_models(run: Tracker, result: BootstrapResult, one: RoundResult) -> None:
    for model in one.models:
        tags = {"round": str(one.round), "bootstrap": result.label, "web_digest": one.web.digest}
        run.register_model(
            f"{result.name}-{model.role}",
            model,
            tags,
            about=f"{ABOUT[model.role]}\n\n{ALIASES}",
            card=model_card(result, one, model),
            aliases=_aliases(result, one),
        )


def _aliases(result: BootstrapResult, one: RoundResult) -> dict[str, str]:
    """What shall point at a round's models, and why."""
    why, found = "; ".join(result.reasons), {}
    if one.round == result.rounds[-1].round:
        found["challenger"] = f"round {one.round} is the newest of {result.label}"
    if result.promoted and one.round == result.champion:
        found["champion"] = f"round {one.round} of {result.label}: {why}"
    return found


def dataset_facts(result: BootstrapResult, dataset: DatasetRef, manifests: Manifests) -> dict[str, str]:
    """Counts and parents of a dataset, and the command that shows all of it in the store's folder."""
    place = within(result, dataset.uri)
    facts = {"images": str(dataset.images), "pairs": str(dataset.pairs), "browse": f"capfilt browse {place}"}
    manifest = manifests.get(dataset.uri)
    if manifest is None:
        return facts
    totals = manifest.totals
    counts = {
        "in": totals.samples,
        "kept": totals.kept,
        "dropped": totals.dropped,
        "failed": sum(totals.failed.values()),
    }
    return facts | {name: str(count) for name, count in counts.items()} | {"parents": _parents(manifest.parents)}


def _parents(parents: Sequence[Parent]) -> str:
    return ", ".join(f"{parent.role} {parent.digest[:12]}" for parent in parents) or "none"


def _round_note(tracker: Tracker, result: BootstrapResult, one: RoundResult, manifests: Manifests) -> str:
    page = tracker.page()
    bootstrap = f"[{result.label}]({page})" if page else result.label
    made = f"written by the models of round {one.round - 1}" if one.round else "as it came"
    winner = " **The champion of its bootstrap.**" if one.round == result.champion else ""
    head = (
        f"round {one.round} of {bootstrap}: trained on human captions and on `{one.web.name}` ({made}).{winner} "
        f"[Report page]({tracker.page('artifacts/report.html')})"
    )
    return f"{head}\n\n{_dataset_table(result, (one.web, result.raw.train, result.raw.test), manifests)}"


def _dataset_table(result: BootstrapResult, datasets: Sequence[DatasetRef], manifests: Manifests) -> str:
    """Datasets with what they hold, what they were made from, and how to look at them."""
    columns = ("images", "pairs", "in", "dropped", "failed", "parents")
    lines = [f"| dataset | version | {' | '.join(columns)} | look at it |", f"|---|---|{'---|' * len(columns)}---|"]
    for dataset in datasets:
        facts = dataset_facts(result, dataset, manifests)
        cells = " | ".join(facts.get(name, "–") for name in columns)
        lines.append(f"| {dataset.name} | `{dataset.digest[:12]}` | {cells} | `{facts['browse']}` |")
    return "\n".join(lines)


def describe_bootstrap(tracker: Tracker, result: BootstrapResult, rounds: Sequence[str], shown: Sequence[str]) -> None:
    """Put the outcome, with links to its pages, on top of the bootstrap's run and of the experiment.

    Args:
        rounds: ids of the rounds' runs.
        shown: names of settings that tell bootstraps apart.
    """
    best = next((one for one in result.rounds if one.round == result.champion), None)
    if best is not None:
        figures = {champion_metric(name): value for name, value in best.metrics.items() if name.startswith("eval/")}
        tracker.log_scores({name: Score(round(value, 4)) for name, value in figures.items()})
    page = tracker.page("artifacts/report.html")
    outcome = f"{result.outcome.capitalize()} ({'; '.join(result.reasons)})."
    links = [f"[report page]({page})"]
    links += [f"[{QUESTIONS[key]}]({at})" for key, at in pages(tracker).items()]
    links.append(f"[rounds in charts]({tracker.runs_page('rounds', charts=True)})")
    if len(rounds) > 1:
        links.append(f"[one beside the other]({tracker.comparison_page(rounds)})")
    where = f"\n\nThe report page lies at `{result.report}`." if result.report else ""
    tracker.describe(f"{outcome}\n\n{' · '.join(links)}\n\n{markdown_table(result.rounds)}{where}")
    asked = " · ".join(f"[{QUESTIONS[key]}]({at})" for key, at in pages(tracker).items())
    drawn = " · ".join(f"[{key}]({tracker.runs_page(key, charts=True)})" for key in QUESTIONS)
    tracker.describe_experiment(
        f"{asked} · charts: {drawn}\n\n"
        f"Bootstraps **{result.name}**: a run per **round** with everything that was measured of it, and one per "
        f"bootstrap with its stages below it. [Newest bootstrap]({tracker.page()}) · [its report page]({page})",
        views(shown),
    )
