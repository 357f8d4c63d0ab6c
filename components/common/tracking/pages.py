"""Paths of pages on MLflow's server."""

import json
from collections.abc import Collection, Sequence
from urllib.parse import quote

SHARED_VIEW = "mlflow.sharedViewState."  # what MLflow's own `Share` button writes
VIEW = "rounds"
_TRAINING = "workflowType=machine_learning"  # else MLflow 3 opens its pages for agents' traces, which are empty here


def runs_page(experiment_id: str, *, charts: bool = False) -> str:
    """Path of the list of an experiment's runs on MLflow's server, in the view of `describe_experiment`."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?{_TRAINING}&viewStateShareKey={VIEW}{mode}"


def page_of_runs(experiment_id: str, tags: Collection[str]) -> str:
    """`runs_page` of an experiment with these tags: without the view where nobody has described one."""
    page = runs_page(experiment_id)
    return page if SHARED_VIEW + VIEW in tags else page.partition("&")[0]


def run_page(experiment_id: str, run_id: str, tab: str = "") -> str:
    """Path of a run's page on MLflow's server; `tab`: `model-metrics`, `artifacts/FILE` …"""
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab and '/' + tab}?{_TRAINING}"


def comparison_page(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Path of the page on MLflow's server that shows runs side by side: parameters, metrics, what differs."""
    runs, experiments = quote(json.dumps(list(run_ids))), quote(json.dumps([experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&{_TRAINING}"
