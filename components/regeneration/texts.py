"""The web texts of a sample as candidates: read as the import reads them."""

from collections.abc import Iterable

from components.data.web.texts import EMPTY, UNUSABLE, WebText, json_fields
from components.regeneration.policy import Text

__all__ = ["EMPTY", "UNUSABLE", "json_fields", "web_candidates"]


def web_candidates(texts: Iterable[WebText]) -> tuple[Text, ...]:
    """A sample's web texts without scores; one of no use says why in its `problem`."""
    return tuple(Text("web", one.text, problem=one.problem) for one in texts)
