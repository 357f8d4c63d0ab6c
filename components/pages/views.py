"""What MLflow's list of runs shows, opened by a link for each question: which round, which bootstrap, which dataset.

Champion and figures fit on a page of 1440 pixels where MLflow's menu and assistant are open, as they are at first.
"""

from collections.abc import Sequence

from components.common.metrics import CIDER, PRIMARY, RECALL
from components.common.tracking import BOOTSTRAPS, RunsView, Tracker

KIND = "round"
AGAINST_FIRST = "against round 0"
OF_CHAMPION = "champion"
QUESTIONS = {"rounds": "which round", "bootstraps": "which bootstrap", "datasets": "which dataset"}
"""What the views of a bootstrap's experiment answer, by their keys in links."""
_SETTINGS = 6  # columns of settings that differ
_ROUNDS = f"tags.stage = '{KIND}'"


def pages(tracker: Tracker) -> dict[str, str]:
    """Paths of the views on MLflow's server, by their keys; none without tracking."""
    return {key: page for key in QUESTIONS if (page := tracker.runs_page(key))}


def views(shown: Sequence[str]) -> tuple[RunsView, ...]:
    """The views; champion first, then what decides, then what differs.

    Args:
        shown: names of the settings in which bootstraps differ, the seed first.
    """
    settings = {f"params.`{name}`": 100 for name in shown[:_SETTINGS]}
    return (
        RunsView(
            "rounds",
            QUESTIONS["rounds"],
            _ROUNDS,
            {
                "tags.`champion`": 80,
                f"metrics.`{RECALL}`": 100,
                f"metrics.`{CIDER}`": 100,
                f"tags.`{AGAINST_FIRST}`": 110,
                "params.`trained on`": 120,
                **settings,
            },
            "^eval/.*/(mean_recall|text_recall_at_1|image_recall_at_1|cider|bleu_4|accuracy_official)$",
        ),
        RunsView(
            "bootstraps",
            QUESTIONS["bootstraps"],
            BOOTSTRAPS,
            {
                "tags.`bootstrap.champion`": 135,
                **{f"metrics.`{champion_metric(name)}`": 100 for name in PRIMARY},
                "tags.`bootstrap.verdict`": 130,
                "tags.`bootstrap.promoted`": 140,
                **settings,
            },
            f"^{OF_CHAMPION}/",
        ),
        RunsView(
            "datasets",
            QUESTIONS["datasets"],
            _ROUNDS,
            {
                "tags.`champion`": 80,
                "params.`trained on`": 120,
                "params.`web version`": 110,
                "params.`web pairs`": 90,
                "metrics.`capfilt/noise_ratio_web`": 110,
                "metrics.`truth/pairs_true`": 110,
                f"metrics.`{RECALL}`": 100,
                f"metrics.`{CIDER}`": 100,
            },
            "^(capfilt/(kept_pairs|noise_ratio_web|noise_ratio_synthetic)|truth/(pairs_true|filter_precision))$",
        ),
    )


def champion_metric(name: str) -> str:
    """A bootstrap's own figure: its champion's."""
    return f"{OF_CHAMPION}/{name.removeprefix('eval/')}"
