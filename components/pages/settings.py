"""In which settings bootstraps differ."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_PLACES = ("store", "tracking", "name")  # where things lie and what they are called decides nothing


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(setting, its value there, its value here) of two resolved configs; `–` where a release had no such setting."""
    one, other = dict(_leaves(there)), dict(_leaves(here))
    names = sorted({*one, *other})
    return tuple(
        (name, one.get(name, "–"), other.get(name, "–")) for name in names if one.get(name, "–") != other.get(name, "–")
    )


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their dotted names, as they would be written; lists are one setting."""
    for name, value in config.items():
        if not prefix and name in _PLACES:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
