"""What tells bootstraps of an experiment apart: settings as parameters, and those that differ in the run's name."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.common.tracking.base import Settings

BOOTSTRAPS = "tags.`bootstrap.name` LIKE '%'"
"""Bootstraps among an experiment's runs, in MLflow's search syntax."""
TAG = "settings"
_WORDS = 4  # settings in a name beside the seed; further ones are counted
_LOOKED_AT = 100  # bootstraps, the newest first


def tell_apart(client: Any, experiment_id: str, run_id: str, label: str, settings: Settings) -> dict[str, str]:
    """Name a bootstrap's run after what differs, and say so in its tags.

    Returns:
        the parameters that it shall have.
    """
    run = client.get_run(run_id)
    before = _before(client, experiment_id, run)
    changed = _changed(settings, before.data.params) if before is not None else {}
    always = {key: settings.deciding[key] for key in settings.always if key in settings.deciding}
    words = in_words(changed, settings.deciding)
    client.set_tag(run_id, TAG, words)
    if before is not None:
        client.set_tag(run_id, "differs from", before.info.run_name.partition(" ")[0])
    if _is_ours(run.info.run_name, label):
        client.update_run(run_id, name=f"{label} {words}".strip())
    return {**always, **changed, **settings.chosen}


def varied(client: Any, experiment_id: str, settings: Settings) -> list[str]:
    """Names of settings in which bootstraps differ, in the order in which configs have them."""
    runs = client.search_runs([experiment_id], BOOTSTRAPS, max_results=_LOOKED_AT)
    known = [run.data.params for run in runs if run.data.params]
    return [key for key in settings.deciding if len({params.get(key) for params in known}) > 1]


def in_words(changed: Mapping[str, str], deciding: Mapping[str, str]) -> str:
    """Settings that differ, by the end of their names that no other has, and the seed: `threshold=0.6 seed=0`.

    The last of the config, CapFilt's, come first: names are cut where pages are narrow. Rounds are seen anyway.
    """
    told = [key for key in reversed(list(changed)) if key not in ("seed", "rounds")]
    words = [f"{_tail(key, list(deciding))}={changed[key].rpartition('/')[2]}" for key in told]
    more = [f"+{len(words) - _WORDS} more"] if len(words) > _WORDS else []
    return " ".join([*words[:_WORDS], *more, f"seed={deciding.get('seed', '–')}"])


def _before(client: Any, experiment_id: str, run: Any) -> Any | None:
    """The bootstrap that was started before; one that left no parameters tells nothing."""
    query = f"{BOOTSTRAPS} and attributes.start_time < {run.info.start_time}"
    order = ["attributes.start_time DESC"]
    runs = client.search_runs([experiment_id], query, max_results=_LOOKED_AT, order_by=order)
    return next((one for one in runs if one.data.params), None)


def _changed(settings: Settings, before: Mapping[str, str]) -> dict[str, str]:
    """Deciding settings that are otherwise than in parameters, where what is missing was the default."""
    return {
        key: value
        for key, value in settings.deciding.items()
        if (before[key] != value if key in before else key in settings.chosen)
    }


def _tail(key: str, keys: Sequence[str]) -> str:
    parts = key.split(".")
    tails = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((tail for tail in tails if sum(f".{one}".endswith(f".{tail}") for one in keys) == 1), key)


def _is_ours(name: str, label: str) -> bool:
    """Whether a run is called as we call bootstraps: one that people have renamed keeps its name."""
    return re.match(re.escape(label[:-8]) + "[0-9a-f]{8}( |$)", name) is not None
