"""Experiment tracking: how rounds are compared. The only importer of mlflow.

Tracking is a witness, never a judge: if the server is away, what is to be said waits, a warning is logged, and the work
goes on; a server that hangs holds up no training, as all is said on a thread of its own. Models and datasets stay in
the store; MLflow gets their URIs and digests. No pickles, no model flavors: a registered version points at a
safetensors folder.
"""

from components.common.tracking.apart import BOOTSTRAPS
from components.common.tracking.base import FAREWELL_SECONDS, UNTRACKED, RunsView, Score, Settings, Status, Tracker
from components.common.tracking.line import is_away, why_unusable
from components.common.tracking.moved import settle
from components.common.tracking.names import flatten, public_uri
from components.common.tracking.opening import (
    find_runs_pages,
    open_tracker,
    tracker_from_environment,
)
from components.common.tracking.pages import comparison_page, run_page, runs_page
from components.common.tracking.run import RUN_VARIABLE, URI_VARIABLE, MlflowTracker
from components.common.tracking.serving import SERVER_APP, pages_environment, runs_pages_at
from components.common.tracking.standings import Standing, standings

__all__ = [
    "BOOTSTRAPS",
    "FAREWELL_SECONDS",
    "RUN_VARIABLE",
    "SERVER_APP",
    "UNTRACKED",
    "URI_VARIABLE",
    "MlflowTracker",
    "RunsView",
    "Score",
    "Settings",
    "Standing",
    "Status",
    "Tracker",
    "comparison_page",
    "find_runs_pages",
    "flatten",
    "is_away",
    "open_tracker",
    "pages_environment",
    "public_uri",
    "run_page",
    "runs_page",
    "runs_pages_at",
    "settle",
    "standings",
    "tracker_from_environment",
    "why_unusable",
]
