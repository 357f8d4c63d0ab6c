"""Runs, opened by the process that does the work and found again by those it starts."""

import os
from collections.abc import Mapping
from typing import Any

from components.common.sending import Sender
from components.common.tracking.base import UNTRACKED, Tracker
from components.common.tracking.line import Line, attempt, is_away, open_client
from components.common.tracking.moved import artifact_folder, database_file
from components.common.tracking.names import public_uri
from components.common.tracking.pages import pages_of_runs
from components.common.tracking.run import RUN_VARIABLE, URI_VARIABLE, MlflowTracker
from components.common.tracking.search import find_or_create_run, find_run, relabel

OPEN_SECONDS = 180.0  # a new database file is made of some dozens of migrations


def open_tracker(
    uri: str | None,
    experiment: str,
    run_name: str,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    resume: Mapping[str, str] | None = None,
    formerly: Mapping[str, str] | None = None,
) -> Tracker:
    """Open a run of an experiment.

    Args:
        uri: MLflow tracking URI; None for no tracking. For `sqlite:///DIR/mlflow.db` artifacts go to `DIR/mlartifacts`.
        experiment: its name; created if missing.
        run_name: shown in MLflow's list of runs.
        run_id: continue this run.
        tags: set on the run.
        resume: tags that identify a run to continue if there is one.
        formerly: values that these and other tags of `tags` and `resume` had in earlier releases: where no run is found
            otherwise, all runs of the experiment that have them get those of today.

    Returns:
        the tracker; one that tracks nothing, with a warning, if the server is out of reach.
    """
    if uri is None:
        return UNTRACKED

    sender = Sender("MLflow", is_away)

    def start() -> Tracker:
        client = open_client(uri)
        experiment_id = _experiment(client, uri, experiment)
        labels = {**(tags or {}), **(resume or {})}
        if run_id is None and formerly and find_run(client, experiment_id, resume or {}) is None:
            relabel(client, experiment_id, formerly, labels)
        run = run_id or find_or_create_run(client, experiment_id, run_name, resume or {}, labels)
        return MlflowTracker(Line(uri, client, sender), experiment_id, lambda: run, run_id=run)

    return sender.ask(f"open {public_uri(uri)}", start, OPEN_SECONDS) or UNTRACKED


def tracker_from_environment() -> Tracker:
    """The run named by `Tracker.environment()`, in a child process that does not own it."""
    uri, run_id = os.environ.get(URI_VARIABLE), os.environ.get(RUN_VARIABLE)
    if not uri or not run_id:
        return UNTRACKED

    sender = Sender("MLflow", is_away)

    def attach() -> Tracker:
        client = open_client(uri)
        experiment_id = client.get_run(run_id).info.experiment_id
        return MlflowTracker(Line(uri, client, sender), experiment_id, lambda: run_id, run_id=run_id, owner=False)

    return sender.ask(f"open {public_uri(uri)}", attach, OPEN_SECONDS) or UNTRACKED


def find_runs_pages(uri: str, experiment: str) -> dict[str, str]:
    """`runs_page` of the experiment of this name, by the views that it has, and by "" without one.

    Returns:
        nothing if there is no such experiment yet, or the server is out of reach.
    """
    known = attempt(f"look for {experiment}", lambda: open_client(uri).get_experiment_by_name(experiment))
    return {} if known is None else pages_of_runs(known.experiment_id, known.tags)


def _experiment(client: Any, uri: str, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is not None:
        if known.lifecycle_stage == "deleted":
            client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)
    location = None
    if (file := database_file(uri)) is not None:
        folder = artifact_folder(file)
        folder.mkdir(parents=True, exist_ok=True)  # there from now on, so that a copy of the store is known as one
        location = folder.as_uri()  # escapes %
    return str(client.create_experiment(name, artifact_location=location))
