"""Figures that speak of a model and a dataset: MLflow keeps them at the run and at the model."""

import time
from collections.abc import Mapping
from typing import Any

from components.common.contracts import DatasetRef
from components.common.tracking.base import Score
from components.common.tracking.names import DIGEST_LENGTH, METRIC_BATCH, short
from components.common.tracking.registry import find_logged


def log_scores(client: Any, experiment_id: str, run_id: str, scores: Mapping[str, Score]) -> None:
    """Add what is not known yet, in as few calls as MLflow allows."""
    digests = {score.model.digest for score in scores.values() if score.model is not None}
    models = {digest: find_logged(client, experiment_id, digest) for digest in digests}
    at_run, now = client.get_run(run_id).data.metrics, int(time.time() * 1000)
    fresh = []
    for name, score in scores.items():
        model = models[score.model.digest] if score.model is not None else None
        point = _point(short(name), score, model, now)
        if not (_is_at_model(point, run_id, model) if model else at_run.get(point.key) == point.value):
            fresh.append(point)
    for start in range(0, len(fresh), METRIC_BATCH):
        client.log_batch(run_id, metrics=fresh[start : start + METRIC_BATCH])


def _point(name: str, score: Score, model: Any | None, now: int) -> Any:
    from mlflow.entities import Metric

    place = _named(score.dataset) if score.dataset is not None else {}
    return Metric(name, float(score.value), now, 0, model_id=model and model.model_id, **place)


def _named(dataset: DatasetRef) -> dict[str, str]:
    return {"dataset_name": dataset.name, "dataset_digest": dataset.digest[:DIGEST_LENGTH]}


def _is_at_model(point: Any, run_id: str, model: Any) -> bool:
    """Whether a model has it from this run; releases before tied figures to no dataset."""
    said = (run_id, point.key, point.value, point.dataset_digest)
    return any((one.run_id, one.key, one.value, one.dataset_digest) == said for one in model.metrics or ())
