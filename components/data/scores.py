"""What a scorer says of a text and an image, and under which name it is kept."""

import re
from typing import Literal, NamedTuple

from components.common.errors import ConfigError

Kind = Literal["probability", "cosine", "logit"]
"""What a value is: P(match) 0 … 1, a cosine -1 … 1, or any number, the larger the better."""

ITM, ITC = "itm", "itc"
"""Names of BLIP's two scores, which lie in columns of their own since the first format."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_TAKEN = ("key", "image_sha256", "source", "text", "kept", "reason", "weight", "outcome", "rule", "words", "truncated")


class Column(NamedTuple):
    """A score's name and kind."""

    name: str
    kind: Kind


class Reading(NamedTuple):
    """One value, and whether the scorer read only the beginning of the text."""

    value: float
    truncated: bool = False


BLIP_COLUMNS = (Column(ITM, "probability"), Column(ITC, "cosine"))


def check_score_name(name: str) -> str:
    """The name, if a score may be called so.

    Raises:
        ConfigError: it is no plain word, or means something else already.
    """
    if _NAME.fullmatch(name) is None or name in _TAKEN or name.endswith("_truncated"):
        raise ConfigError(
            f"{name!r} cannot be a score's name: take small letters, digits and _, none of {', '.join(_TAKEN)}"
        )
    return name
