"""All models that a store's bootstraps made, ranked over rounds and bootstraps: what `capfilt.leaderboard` does."""

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from components.common.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from components.common.storage import Store

_SCHEMES = ("http://", "https://", "sqlite:", "postgresql", "mysql", "mssql")


class Placed(TypedDict):
    """A model's place by one figure on one dataset."""

    place: int
    value: float
    low: float | None
    high: float | None
    model: str
    round: int | None
    bootstraps: list[str]
    dataset: str
    aliases: list[str]
    digest: str
    uri: str


class Board(TypedDict):
    """Models by one figure, the best first."""

    metric: str
    models: list[Placed]


def leaderboard(store: str | Path, metric: str | None = None) -> list[Board]:
    """Rank all models by a metric, over rounds and bootstraps, as MLflow has them.

    Args:
        store: where bootstraps have worked, or an MLflow tracking URI.
        metric: its name or the end of it, e.g. `cider`; None: what a bootstrap is about, a board each.

    Raises:
        ConfigError: no such metric is measured.
        StorageError: there is no MLflow, or it cannot be used.
    """
    from components.common.metrics import PRIMARY, VQA
    from components.common.tracking import public_uri, why_unusable

    names = (*PRIMARY, VQA) if metric is None else (_named(metric),)
    uri = _tracking_uri(str(store))
    if why := why_unusable(uri):
        raise StorageError(f"MLflow at {public_uri(uri)} cannot be used: {why}")
    boards = [Board(metric=name, models=_placed(uri, name)) for name in names]
    return boards if metric is not None else [board for board in boards if board["models"]]


def _placed(uri: str, name: str) -> list[Placed]:
    from components.common import metrics
    from components.common.tracking import standings

    found = standings(uri, name, ascending=metrics.metric(name).better < 0)
    return [
        Placed(
            place=place,
            value=one.value,
            low=one.low,
            high=one.high,
            model=one.model,
            round=int(one.round) if one.round.isdigit() else None,
            bootstraps=list(one.bootstraps),
            dataset=one.dataset,
            aliases=list(one.aliases),
            digest=one.digest,
            uri=one.uri,
        )
        for place, one in enumerate(found, 1)
    ]


def _named(metric: str) -> str:
    """The metric of this name, or the one that ends in it."""
    from components.common.metrics import CATALOGUE, find_metric

    if find_metric(metric) is not None:
        return metric
    names = [entry.name for entry in CATALOGUE]
    ends = [name for name in names if name.endswith(f"/{metric}")]
    if len(ends) == 1:
        return ends[0]
    near = ends or difflib.get_close_matches(metric, names, 3, 0.4) or ["eval/caption/cider"]
    said = "which could be" if ends else "the nearest:"
    raise ConfigError(f"there is no metric {metric}, {said} {', '.join(near)}; name one with --metric")


def _tracking_uri(place: str) -> str:
    """Where the MLflow of a store is: as its newest bootstrap says, by MLFLOW_TRACKING_URI, or a file in its folder."""
    from components.common.storage import open_store
    from components.pages.results import find_result

    if place.startswith(_SCHEMES):
        return place
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    store = open_store(place)
    try:
        uri = find_result(store).mlflow_uri
    except StorageError:
        uri = None
    return uri or _file(store)


def _file(store: "Store") -> str:
    path = store.local_path("mlflow.db") or Path(".capfilt/mlflow.db").resolve()
    if not path.is_file():
        raise StorageError(
            f"{store.uri}: there is no MLflow ({path}): name the store of a bootstrap, an MLflow tracking URI, or set "
            "MLFLOW_TRACKING_URI"
        )
    return f"sqlite:///{path}"
