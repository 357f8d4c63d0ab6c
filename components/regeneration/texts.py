"""The web texts of a sample: found as the import finds them, and named where they cannot be used."""

import json
from collections.abc import Mapping

from components.data.web import web_texts as find_texts
from components.regeneration.policy import Text

EMPTY = "empty_text"
UNUSABLE = frozenset([EMPTY, "missing_text", "text_not_utf8", "text_too_long", "bad_json"])
"""Why a sample has no web text, as `components.data` names it."""
_SHOWN = 200  # characters of a refused text that are kept to explain the refusal


def web_candidates(members: Mapping[str, bytes]) -> tuple[Text, ...]:
    """The web texts of a sample as candidates without scores, at least one.

    Args:
        members: the `.json` and `.txt` members, if there are any.

    Returns:
        Its usable texts, or one candidate whose `problem` says why there is none (`missing_text`, `text_not_utf8` …)
        with the beginning of what was found.
    """
    texts, problem = find_texts(members)
    usable = dict.fromkeys(one_line(text) for text in texts if _says_something(text))
    if usable:
        return tuple(Text("web", text) for text in usable)
    return (Text("web", _found(members), problem=problem or EMPTY),)


def one_line(text: str) -> str:
    """A text without line breaks and doubled spaces."""
    return " ".join(text.replace("\0", " ").split())


def _says_something(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _found(members: Mapping[str, bytes]) -> str:
    return one_line(members.get("txt", b"").decode("utf-8", "replace"))[:_SHOWN]


def json_fields(data: bytes | None) -> dict[str, object]:
    """The `.json` member as a dictionary; empty if it is none. A list (of captions) becomes `input_captions`."""
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list):
        return {"input_captions": value}
    return value if isinstance(value, dict) else {}
