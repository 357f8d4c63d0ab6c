"""The web text of a sample: found, checked and, where it cannot be used, named."""

import json
from collections.abc import Mapping

from components.capfilt.policy import Text

NOT_UTF8 = "text_not_utf8"
MISSING = "missing_text"
EMPTY = "empty_text"
TOO_LONG = "text_too_long"


def web_text(text: bytes | None, fields: Mapping[str, object], max_length: int) -> Text:
    """The web text of a sample from its `.txt` member or, without one, from `caption` in its JSON.

    Args:
        text: bytes of the `.txt` member, or None.
        fields: the parsed `.json` member, or nothing.
        max_length: characters beyond which a text is refused. Pages of text behind one picture describe no picture.

    Returns:
        A candidate without scores; `problem` says why it cannot have any. A refused text is kept up to `max_length`.
    """
    if text is None:
        caption = fields.get("caption")
        if not isinstance(caption, str):
            return Text("web", "", problem=MISSING)
        found = caption.encode("utf-8", "replace").decode()
        problem = None if found == caption else NOT_UTF8  # JSON can smuggle lone surrogates in
    else:
        found, problem = _decode(text)
    found = " ".join(found.split())
    if problem is None and not any(character.isalnum() for character in found):
        problem = EMPTY
    if problem is None and len(found) > max_length:
        problem = TOO_LONG
    return Text("web", found[:max_length], problem=problem)


def _decode(text: bytes) -> tuple[str, str | None]:
    try:
        return text.decode("utf-8-sig").replace("\0", " "), None
    except UnicodeDecodeError:
        return text.decode("utf-8", errors="replace").replace("\0", " "), NOT_UTF8


def json_fields(data: bytes | None) -> tuple[dict[str, object], str | None]:
    """The `.json` member as a dictionary, and what is wrong with it (`bad_json`), if anything.

    A JSON list of captions, as LAVIS writes it, becomes `{"captions": [...], "caption": first}`.
    """
    if data is None:
        return {}, None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}, "bad_json"
    if isinstance(value, list):
        first = next((item for item in value if isinstance(item, str)), None)
        return {"captions": value} | ({} if first is None else {"caption": first}), None
    return (value, None) if isinstance(value, dict) else ({}, "bad_json")
