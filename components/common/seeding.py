"""Seeds and digests: one canonical way to turn values into numbers."""

import hashlib
import json
import random
from typing import Any

import numpy as np
from pydantic import BaseModel

from components.common.identity import deciding


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Of a pydantic model what decides is in it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return deciding(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")


def digest_of(value: Any) -> str:
    """sha256 hex of the canonical JSON of a value."""
    # what is no Unicode, such as a file's name in Latin-1, as JSON's escapes
    return hashlib.sha256(canonical_json(value).encode(errors="backslashreplace")).hexdigest()


def key_seed(*parts: str | int) -> int:
    """A 64-bit seed that depends on all parts and on nothing else (house.md section 8, rule 3)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
