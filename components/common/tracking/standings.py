"""All models that have a figure, the best first, over rounds and bootstraps."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from components.common.tracking.line import open_client

_PAGE = 100  # models per call
_LEAST = "-1e300"  # every figure is above it, by which those are found that have one


class Standing(NamedTuple):
    """A model's figure on a dataset."""

    value: float
    low: float | None
    high: float | None
    """ends of its interval, where they are known"""
    model: str
    """its name in the registry"""
    round: str
    bootstraps: tuple[str, ...]
    """those that made it: bootstraps that begin alike share models"""
    dataset: str
    """`name version`; empty where an earlier release did not tell"""
    aliases: tuple[str, ...]
    digest: str
    uri: str


def standings(uri: str, metric: str, *, ascending: bool = False) -> list[Standing]:
    """Models of all experiments of an MLflow, ranked; of a model on one dataset the newest figure counts.

    Args:
        uri: MLflow tracking URI.
        metric: e.g. `eval/caption/cider`.
        ascending: whether small values are better.
    """
    client = open_client(uri)
    experiments = [one.experiment_id for one in client.search_experiments(max_results=1000)]
    aliases = _aliases(client)
    found = [one for model in _models(client, experiments, metric) for one in _of_model(model, metric, aliases)]
    return sorted(found, key=lambda one: (one.value if ascending else -one.value, one.model, one.round))


def _models(client: Any, experiments: list[str], metric: str) -> Iterator[Any]:
    """All that have the metric; ordered by us, as MLflow would rank anew for every page."""
    having, token = f"metrics.`{metric}` > {_LEAST}", None
    while True:
        page = client.search_logged_models(experiments, having, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _of_model(model: Any, metric: str, aliases: Mapping[tuple[str, str], list[str]]) -> Iterator[Standing]:
    newest = {one.dataset_digest: one for one in sorted(model.metrics, key=_age) if one.key == metric}
    if None in newest and len(newest) > 1:  # of an earlier release, which tied figures to no dataset
        del newest[None]
    tags = model.tags
    for point in newest.values():
        low, high = (_end(model, point, f"interval/{metric.removeprefix('eval/')}/{end}") for end in ("low", "high"))
        yield Standing(
            value=point.value,
            low=low,
            high=high,
            model=model.name,
            round=tags.get("round", ""),
            bootstraps=tuple(filter(None, tags.get("bootstrap", "").split(", "))),
            dataset=f"{point.dataset_name} {point.dataset_digest[:8]}" if point.dataset_name else "",
            aliases=tuple(aliases.get((model.name, tags.get("digest", "")), ())),
            digest=tags.get("digest", ""),
            uri=tags.get("uri", ""),
        )


def _age(point: Any) -> tuple[int, int]:
    return point.timestamp, point.step


def _end(model: Any, point: Any, name: str) -> float | None:
    """The end of an interval, said by the same run of the same dataset."""
    place = (point.run_id, point.dataset_digest)
    ends = [one for one in model.metrics if one.key == name and (one.run_id, one.dataset_digest) == place]
    return max(ends, key=_age).value if ends else None


def _aliases(client: Any) -> dict[tuple[str, str], list[str]]:
    """Aliases of registered models by name and digest."""
    found: dict[tuple[str, str], list[str]] = {}
    for registered in client.search_registered_models(max_results=1000):
        for alias, version in sorted(registered.aliases.items()):
            digest = client.get_model_version(registered.name, str(version)).tags.get("digest", "")
            found.setdefault((registered.name, digest), []).append(alias)
    return found
