"""The browser as it is started: its answers over HTTP, and what it refuses."""

import json
import re
import urllib.request
from email.message import Message
from urllib.error import HTTPError

import pytest
from PIL import Image

from tests.browser.conftest import EVIL, Served


def ask(served: Served, path: str, *, data: bytes | None = None, **headers: str) -> tuple[int, Message, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(served.address + path, data, named)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as error:
        return error.code, error.headers, error.read()


def test_pages_answer_and_say_what_is_wrong(served: Served) -> None:
    for path in ("/", "/?sort=near", "/?at=0.3&policy=replace&change=gained", "/compare", "/compare?kind=added",
                 "/sample/0/3", "/find/evil", "/?like=2", "/?find=a+red+ball", "/?page=999"):  # fmt: skip
        code, headers, body = ask(served, path)
        assert code == 200 and b"<title>" in body, path
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff" and "Set-Cookie" not in headers
        assert not re.search(rb"""\sstyle=|<style|\son\w+=["']|https?://(?!127\.0\.0\.1)""", body), path
    for path, code, words in (
        ("/?at=2", 400, b"a threshold is a probability"),
        ("/?color=red", 400, b"unknown parameters color"),
        ("/?like=99999", 400, b"there are only"),
        ("/sample/0/99999", 400, b"there is no image"),
        ("/sample/7/0", 400, b"there is no version"),
        ("/find/nobody", 400, b"no sample"),
        ("/static/..%2Fapp.py", 404, b""),
        ("/thumb/0000000000000000/1", 404, b""),
        ("/docs", 404, b""),
    ):
        found, _, body = ask(served, path)
        assert found == code and words in body, path


def test_only_results_are_sent_to_a_page_that_is_there(served: Served) -> None:
    code, headers, body = ask(served, "/?source=web&kept=&reason=&text=", HX_Request="true")
    assert code == 200 and b"<html" not in body and body.strip().startswith(b'<section id="results"')
    assert headers["HX-Push-Url"] == "/?source=web"
    assert b"<html" in ask(served, "/?source=web", HX_Request="true", HX_History_Restore_Request="true")[2]


def test_texts_are_shown_and_not_obeyed(served: Served) -> None:
    body = ask(served, "/?text=evil")[2].decode()
    assert EVIL not in body and "&lt;script&gt;document.title" in body
    assert b"&lt;script&gt;" in ask(served, "/?find=%3Cscript%3E")[2]
    for path in ("/?sort=%3Cscript%3E", "/find/%3Cscript%3E"):
        assert b"<script>" not in ask(served, path)[2]


def test_images_are_jpegs_made_here_whatever_lies_there(served: Served) -> None:
    pages = {path: ask(served, path)[2].decode() for path in ("/?text=000000003", "/?text=html", "/compare")}
    for path, body in pages.items():
        for link in sorted(set(re.findall(r'src="(/thumb/[^"]+)"', body)))[:4]:
            code, headers, data = ask(served, link)
            if "html" in path:  # a web page under an image's name, kept by nobody
                assert code == 404 and b"<" not in data
                continue
            assert code == 200 and headers["Content-Type"] == "image/jpeg"
            assert headers["X-Content-Type-Options"] == "nosniff" and data[:3] == b"\xff\xd8\xff"
    link = re.search(r'src="(/image/[^"]+)"', ask(served, "/sample/1/0")[2].decode())
    assert link is not None
    with urllib.request.urlopen(served.address + link[1]) as answer, Image.open(answer) as image:
        assert image.size == (64, 48)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil", "localhost.", "[::2]:1", "x"])
def test_another_name_is_refused(served: Served, host: str) -> None:
    code, headers, body = ask(served, "/", Host=host)
    assert code == 421 and b"<html" not in body and "Content-Security-Policy" in headers


def test_marks_are_taken_from_this_page_alone(served: Served) -> None:
    before = served.marks.read_text() if served.marks.exists() else ""
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"}):
        assert ask(served, "/mark/1/4", data=b"right=yes", **origin)[0] == 403
    assert (served.marks.read_text() if served.marks.exists() else "") == before
    ours = {"Origin": served.address}
    assert ask(served, "/mark/1/4", data=b"right=perhaps", **ours)[0] == 400
    assert ask(served, "/mark/1/99999", data=b"right=yes", **ours)[0] == 400
    code, _, body = ask(served, "/mark/1/4", data=b"right=no", **ours)
    assert code == 200 and body.count(b'aria-pressed="true"') == 1 and b"are right (" in body
    line = json.loads(served.marks.read_text().splitlines()[-1])
    assert line["right"] is False and line["source"] in ("web", "synthetic") and len(line["dataset"]) == 64
    assert ask(served, "/mark/1/4", data=b"right=", **ours)[2].count(b'aria-pressed="true"') == 0
    assert json.loads(served.marks.read_text().splitlines()[-1])["right"] is None
