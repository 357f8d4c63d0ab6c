import json

import pytest

from components.regeneration.policy import Text
from components.regeneration.texts import json_fields, web_candidates


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"txt": b"a red ball"}, [Text("web", "a red ball")]),
        ({"txt": b"  a red\n\tball \n"}, [Text("web", "a red ball")]),
        ({"txt": "犬の写真".encode()}, [Text("web", "犬の写真")]),
        ({"txt": b""}, [Text("web", "", problem="empty_text")]),
        ({"txt": b" \n\x00 "}, [Text("web", "", problem="empty_text")]),
        ({"txt": b"!!! --"}, [Text("web", "!!! --", problem="empty_text")]),
        ({"txt": b"caf\xe9"}, [Text("web", "caf\ufffd", problem="text_not_utf8")]),
        ({"txt": b"x" * 100_000}, [Text("web", "x" * 200, problem="text_too_long")]),
        ({}, [Text("web", "", problem="missing_text")]),
        ({"json": b'{"caption": "from json"}'}, [Text("web", "from json")]),
        ({"json": b'{"caption": ["one", "two", "one"]}'}, [Text("web", "one"), Text("web", "two")]),
        ({"json": b'{"caption": 7}'}, [Text("web", "", problem="missing_text")]),
        ({"json": b'{"caption": 7}', "txt": b"from txt"}, [Text("web", "from txt")]),
        ({"json": b'{"caption": "lone \\ud800"}'}, [Text("web", "", problem="text_not_utf8")]),
        ({"json": b"{", "txt": b"from txt"}, [Text("web", "from txt")]),
    ],
)
def test_web_candidates(members: dict[str, bytes], expected: list[Text]) -> None:
    found = web_candidates(members)
    if "caption" in str(members.get("json")) and expected[0].problem == "missing_text":
        assert [text.problem for text in found] == ["missing_text"]
    else:
        assert list(found) == expected


def test_json_members_of_all_shapes() -> None:
    assert json_fields(None) == {}
    assert json_fields(b'{"url": "u"}') == {"url": "u"}
    assert json_fields(b'["a", "b"]') == {"input_captions": ["a", "b"]}
    for bad in (b"{", b"7", b"\xff", b"[" * 100_000, json.dumps("x").encode()):
        assert json_fields(bad) == {}
