"""Names and values that MLflow takes."""

import os
import re
from collections.abc import Mapping
from typing import Any

from components.common.redact import redact
from components.common.seeding import digest_of

NAME_LENGTH = 250  # of metrics, parameters and tags
_FILE_NAME_BYTES = 200
_PARAM_LENGTH = 500
TAG_LENGTH = 5000
NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as description
INPUT_TAG_LENGTH = 500  # MLflow's limit of tags of dataset inputs
DIGEST_LENGTH = 32  # MLflow refuses digests above 36 characters
METRIC_BATCH = 1000  # MLflow's limit of metrics per call


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b.c` → short text; None is left out."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value is not None:
            text = redact(str(value))
            flat[short(f"{prefix}{key}")] = text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"
    return flat


def short(name: str, most: int = NAME_LENGTH) -> str:
    """A name that MLflow takes: other letters are replaced, and what is cut off is told apart by a digest."""
    allowed = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)
    return allowed if len(allowed) <= most else f"{allowed[: most - 17]}-{digest_of(name)[:16]}"


def short_file_name(name: str) -> str:
    """A file's name that a file system takes, with its extension."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
    if len(name.encode()) <= _FILE_NAME_BYTES:
        return name
    return f"{stem.encode()[: _FILE_NAME_BYTES // 2].decode(errors='ignore')}-{digest_of(name)[:16]}{suffix[:16]}"


def public_uri(uri: str) -> str:
    """A tracking URI without the login in it, for eyes and logs."""
    scheme, separator, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path}"
