"""The texts of a sample: where they are looked for, how they are cleaned, and why one is of no use."""

import codecs
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.candidates import Candidate, text_problem

EMPTY = "empty_text"
SEVERAL = "several_texts"
UNUSABLE = frozenset([EMPTY, SEVERAL, "missing_text", "text_not_utf8", "text_too_long", "bad_json"])
"""Why a sample has no web text."""

_TEXT_EXTENSIONS = ("txt", "text", "caption")
_SHOWN = 200  # characters of a refused text that are kept to explain the refusal
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class WebText:
    """A text of a sample, or the beginning of what was found in its place and the problem with it."""

    text: str
    problem: str | None = None


def companion(members: Iterable[str], image: str | None, extension: str) -> str:
    """Extension of the member that goes with the image: `v2.txt` beside `v2.jpg` (a key with a dot), else `txt`."""
    prefix = (image or "").rpartition(".")[0]
    dotted = f"{prefix}.{extension}"
    return dotted if prefix and dotted in members else extension


def text_members(members: Iterable[str], image: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Extensions of the json and of the txt that hold a sample's texts: its own, or the only one of another name.

    Returns:
        The json, if there is one; the txt: none, one, or the several between which no one can choose.
    """
    members = list(members)
    json_name, text_name = (companion(members, image, extension) for extension in ("json", "txt"))
    jsons = [json_name] if json_name in members else _ending(members, ("json",))
    texts = [text_name] if text_name in members else _ending(members, _TEXT_EXTENSIONS)
    return (jsons[0] if len(jsons) == 1 else None), tuple(texts)


def _ending(members: Iterable[str], extensions: Sequence[str]) -> list[str]:
    return sorted(name for name in members if name.rpartition(".")[2] in extensions)


def web_texts(members: Mapping[str, bytes], image: str | None = None) -> tuple[WebText, ...]:
    """The texts of a sample, at least one: usable ones, or one that says why there is none.

    Args:
        members: the sample's members by extension; only those of `text_members` are looked at.
        image: extension of its image.
    """
    json_name, names = text_members(members, image)
    found = _usable(_json_values(members[json_name])) if json_name else [WebText("", "missing_text")]
    if not names or found[0].problem is None:
        return tuple(found)
    if len(names) > 1:
        return (WebText(", ".join(names)[:_SHOWN], SEVERAL),)
    return (_decoded(members[names[0]]),)


def unjudged(key: str, image_sha256: str, texts: Iterable[WebText]) -> list[Candidate]:
    """The rows of a sample that no filter has looked at: its usable texts stay."""
    return [
        Candidate(key, image_sha256, "web", one.text, None, None, one.problem is None, one.problem or "")
        for one in texts
    ]


def _usable(values: Sequence[object]) -> list[WebText]:
    """The good ones of several texts, each once; or what is wrong with the first."""
    texts = [cleaned(value) for value in values] or [WebText("", "missing_text")]
    return list(dict.fromkeys(text for text in texts if text.problem is None)) or texts[:1]


class _BadJson:
    """Stands for the texts of a json that is none."""


def _json_values(data: bytes) -> list[object]:
    """What a json offers as captions."""
    try:
        document = read_json(data)
    except (ValueError, RecursionError):
        return [_BadJson()]
    if isinstance(document, dict):
        document = document.get("captions") if document.get("caption") is None else document["caption"]
    return document if isinstance(document, list) else [document]


def _decoded(data: bytes) -> WebText:
    try:
        return cleaned(data.decode("utf-16" if data.startswith(_UTF16) else "utf-8"))
    except UnicodeDecodeError:
        return WebText(one_line(data[: 4 * _SHOWN].decode("utf-8", "replace"))[:_SHOWN], "text_not_utf8")


def cleaned(value: object) -> WebText:
    """A text as a caption, or why it is none."""
    if not isinstance(value, str):
        return WebText("", "bad_json" if isinstance(value, _BadJson) else "missing_text")
    text = one_line(value)
    problem = text_problem(text) or (None if any(letter.isalnum() for letter in text) else EMPTY)
    if problem is None:
        return WebText(text)
    return WebText(text[:_SHOWN].encode("utf-8", "replace").decode(), problem)


def one_line(text: str) -> str:
    """A text without byte order marks, control letters, line breaks and doubled spaces."""
    return " ".join(_CONTROL.sub(" ", text.replace("\ufeff", "")).split())


def read_json(data: bytes) -> Any:
    """A json member as it may be written again: NaN and infinities, which JSON does not have, are null.

    Raises:
        ValueError: it is no JSON; RecursionError if it is nested too deep.
    """
    return json.loads(data, parse_constant=lambda _: None, parse_float=_finite)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def json_fields(data: bytes | None) -> dict[str, object]:
    """The json member as a dictionary; empty if it is none. A list (of captions) becomes `input_captions`."""
    try:
        value = read_json(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list):
        return {"input_captions": value}
    return value if isinstance(value, dict) else {}
