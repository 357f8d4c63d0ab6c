"""Runs that MLflow knows already."""

from collections.abc import Mapping
from typing import Any

PARENT = "mlflow.parentRunId"


def find_or_create_run(
    client: Any, experiment_id: str, name: str, search: Mapping[str, str], labels: Mapping[str, str]
) -> str:
    """The run with the tags of `search`, going on; where there is none, or nothing to search by, a new one."""
    if search and (known := find_run(client, experiment_id, search)) is not None:
        client.update_run(known, status="RUNNING")
        return known
    return str(client.create_run(experiment_id, run_name=name, tags=dict(labels)).info.run_id)


def find_run(client: Any, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    """The newest run with these tags."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"])
    return str(runs[0].info.run_id) if runs else None


def open_children(client: Any, experiment_id: str, run: str) -> list[str]:
    """Runs within a run that nobody has closed: their process was killed, or MLflow did not answer when they ended."""
    query = f"tags.`{PARENT}` = '{run}' and attributes.status = 'RUNNING'"
    return [str(child.info.run_id) for child in client.search_runs([experiment_id], query)]


def relabel(client: Any, experiment_id: str, former: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Give runs that have a tag's former value the one of today, in their names too."""
    for tag, old in former.items():
        for run in client.search_runs([experiment_id], f"tags.`{tag}` = '{old}'"):
            client.set_tag(run.info.run_id, tag, now[tag])
            if old in run.info.run_name:
                client.update_run(run.info.run_id, name=run.info.run_name.replace(old, now[tag]))
