import json

import pytest

from components.capfilt.policy import Text
from components.capfilt.texts import json_fields, web_text


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        (b"a red ball", {}, Text("web", "a red ball")),
        (b"  a red\n\tball \n", {}, Text("web", "a red ball")),
        (b"\xef\xbb\xbfcaf\xc3\xa9", {}, Text("web", "café")),
        ("犬の写真".encode(), {}, Text("web", "犬の写真")),
        (b"", {}, Text("web", "", problem="empty_text")),
        (b" \n\x00 ", {}, Text("web", "", problem="empty_text")),
        (b"!!! --", {}, Text("web", "!!! --", problem="empty_text")),
        (b"caf\xe9", {}, Text("web", "caf\ufffd", problem="text_not_utf8")),
        (b"x" * 100_000, {}, Text("web", "x" * 50, problem="text_too_long")),
        (b"x" * 50, {}, Text("web", "x" * 50)),
        (None, {}, Text("web", "", problem="missing_text")),
        (None, {"caption": "from json"}, Text("web", "from json")),
        (None, {"caption": "lone \ud800"}, Text("web", "lone ?", problem="text_not_utf8")),
        (None, {"caption": 7}, Text("web", "", problem="missing_text")),
        (b"from txt", {"caption": "from json"}, Text("web", "from txt")),
    ],
)
def test_web_text(text: bytes | None, fields: dict[str, object], expected: Text) -> None:
    assert web_text(text, fields, 50) == expected


def test_json_members_of_all_shapes() -> None:
    assert json_fields(None) == ({}, None)
    assert json_fields(b'{"url": "u"}') == ({"url": "u"}, None)
    assert json_fields(b'["a", "b"]') == ({"captions": ["a", "b"], "caption": "a"}, None)
    assert json_fields(b"[]") == ({"captions": []}, None)
    for bad in (b"{", b"7", b"\xff", b"[" * 100_000, json.dumps("x").encode()):
        assert json_fields(bad) == ({}, "bad_json")
