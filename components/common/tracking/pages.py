"""Paths of pages on MLflow's server."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from components.common.tracking.base import RunsView

SHARED_VIEW = "mlflow.sharedViewState."  # what MLflow's own `Share` button writes
VIEW = "rounds"
"""The first view."""
_PINNED = {"attributes.`Run Name`": 280, "runDateAndNestInfo": 110}  # columns that are always there, and stay left
_TRAINING = "workflowType=machine_learning"  # else MLflow 3 opens its pages for agents' traces, which are empty here


def runs_page(experiment_id: str, view: str = VIEW, *, charts: bool = False) -> str:
    """Path of the list of an experiment's runs on MLflow's server, in a view of `describe_experiment`."""
    shared = f"&viewStateShareKey={view}" if view else ""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?{_TRAINING}{shared}{mode}"


def pages_of_runs(experiment_id: str, tags: Iterable[str]) -> dict[str, str]:
    """`runs_page` of an experiment with these tags, by the views that were described there, and by "" without one."""
    views = [key.removeprefix(SHARED_VIEW) for key in tags if key.startswith(SHARED_VIEW)]
    return {view: runs_page(experiment_id, view) for view in ("", *views)}


def run_page(experiment_id: str, run_id: str, tab: str = "") -> str:
    """Path of a run's page on MLflow's server; `tab`: `model-metrics`, `artifacts/FILE` …"""
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab and '/' + tab}?{_TRAINING}"


def comparison_page(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Path of the page on MLflow's server that shows runs side by side: parameters, metrics, what differs."""
    runs, experiments = quote(json.dumps(list(run_ids))), quote(json.dumps([experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&{_TRAINING}"


def view_tags(views: Sequence[RunsView], created: int) -> dict[str, str]:
    """Tags of an experiment in which MLflow's pages find views, by their links and in the menu `Views`.

    Args:
        created: milliseconds since 1970; the menu has the newest first, here in the order of `views`.
    """
    return {
        SHARED_VIEW + view.key: json.dumps(
            {"name": view.title, "createdAt": created - place, "state": json.dumps(_state(view))}
        )
        for place, view in enumerate(views)
    }


def _state(view: RunsView) -> dict[str, Any]:
    """What MLflow's list of runs keeps of how it is shown; other parts of it are not read from links."""
    return {
        "searchFilter": view.filter,
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "selectedColumns": list(view.columns),
        "columnOrder": [*_PINNED, *view.columns],
        "columnWidths": {**_PINNED, **view.columns},
        "chartsSearchFilter": view.charts,
    }
