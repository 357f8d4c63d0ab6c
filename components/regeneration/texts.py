"""Texts of a sample as the policies see them: the web's, read as the import reads them, and stored ones."""

from collections.abc import Iterable

from components.data.candidates import Candidate
from components.data.web.texts import EMPTY, UNUSABLE, WebText, json_fields
from components.regeneration.policy import Text

__all__ = ["EMPTY", "UNUSABLE", "json_fields", "text_of", "web_candidates"]


def web_candidates(texts: Iterable[WebText]) -> tuple[Text, ...]:
    """A sample's web texts without scores; one of no use says why in its `problem`."""
    return tuple(Text("web", one.text, problem=one.problem) for one in texts)


def text_of(row: Candidate) -> Text:
    """A stored candidate as the policies see it."""
    text = Text(
        "synthetic" if row.source == "synthetic" else "web",
        row.text,
        row.itm_probability,
        row.itc_similarity,
        None,
        row.others,
        row.outcome,
        row.rule,
    )
    return text if text.scored else text._replace(problem=row.reason)
