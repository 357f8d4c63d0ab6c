"""What a model's folder is: one that writes captions, or one that judges them. Only its config.json is read."""

import json
from typing import Literal

from components.common.errors import ConfigError
from components.common.storage import open_store
from components.inference.families import CAPTIONERS, SCORERS, is_endpoint
from components.model.checkpoints.folder import CONFIG_FILE

Role = Literal["captioner", "filter"]
_WRITES, _JUDGES = "ForConditionalGeneration", "ForImageTextRetrieval"


def role_of(uri: str) -> Role | None:
    """What the model of a folder can be; None where it can be both, or where nobody can tell."""
    store = open_store(uri)
    if not store.exists(CONFIG_FILE):
        return None
    try:
        config = json.loads(store.read(CONFIG_FILE))
        family, names = str(config.get("model_type")), list(map(str, config.get("architectures") or ()))
    except (ValueError, AttributeError, TypeError):
        return None  # told by whoever loads it
    writes, judges = (any(name.endswith(end) for name in names) for end in (_WRITES, _JUDGES))
    if writes != judges:
        return "captioner" if writes else "filter"
    if (family in CAPTIONERS) != (family in SCORERS):
        return "captioner" if family in CAPTIONERS else "filter"
    return None


def check_roles(captioner: str, filter: str, *, names: tuple[str, str], instead: str) -> None:  # noqa: A002
    """Refuse a filter in the captioner's place, and the other way round.

    Args:
        captioner: folder of the model that is to write.
        filter: folder of the one that is to judge.
        names: what the two are called where they are given, e.g. `--captioner`.
        instead: what to give where they are only swapped.

    Raises:
        ConfigError: which of them is what.
    """
    writer = None if is_endpoint(captioner) else role_of(captioner)
    judge = role_of(filter)
    faults = []
    if writer == "filter":
        faults.append(f"{names[0]} {captioner} is a filter, which writes no captions")
    if judge == "captioner":
        faults.append(f"{names[1]} {filter} is a captioner, which judges none")
    if len(faults) == 2:
        raise ConfigError(f"{faults[0]}, and {faults[1]}: they are swapped. Give\n{instead}")
    if faults:
        raise ConfigError(f"{faults[0]}: give a {'captioner' if writer == 'filter' else 'filter'} there")
