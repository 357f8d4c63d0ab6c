"""The browser's pages in a real browser: keys, slider, history, what they ask for, how they fit."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.browser.conftest import Served
from tests.helpers.chromium import Page, why_none

pytestmark = pytest.mark.skipif(bool(why_none()), reason=why_none())
PAGES = ("/", "/?at=0.3&policy=keep_both", "/sample/1/2", "/compare", "/?text=nothing-has-this")
CLIPPED = """[...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1;
}).map(one => one.outerHTML.slice(0, 100))"""

COVERED = """[...document.querySelectorAll(".foot")].filter(one => {
  const marks = one.querySelector(".marks").getBoundingClientRect();
  return [...one.querySelectorAll(".scores > *")].some(two => {
    const box = two.getBoundingClientRect();
    return box.right > marks.left + 1 && box.bottom > marks.top + 1 && box.top < marks.bottom - 1;
  });
}).map(one => one.outerHTML.slice(0, 100))"""
"""Scores that lie below the buttons."""


def pressed(page: Page) -> list[list[str]]:
    """Which mark is set on each text."""
    marks = "[...one.querySelectorAll('[aria-pressed=true]')].map(two => two.className)"
    found: list[list[str]] = page.run(f"[...document.querySelectorAll('.text')].map(one => {marks})")
    return found


def test_marking_by_keyboard(page: Page, served: Served) -> None:
    page.look(1440)
    page.open(f"{served.address}/?kept=yes")
    for key in ("j", "j", "y"):
        page.press(key)
    page.wait("document.querySelectorAll('[aria-pressed=true]').length == 1")
    assert pressed(page)[:2] == [[], ["right"]]
    page.wait("document.activeElement.matches('.text')")  # the focus stays, so that the next key works
    page.press("k")
    page.press("n")
    page.wait("document.querySelectorAll('[aria-pressed=true]').length == 2")
    assert pressed(page)[:2] == [["wrong"], ["right"]]
    page.wait("document.querySelector('#shares').textContent.includes('Of 2 kept texts you marked, 50.0% are right')")
    assert page.run("document.querySelectorAll('#shares').length") == 1
    page.press("Enter")
    page.wait("location.pathname.startsWith('/sample/') && document.readyState == 'complete'")
    assert "wrong" in sum(pressed(page), [])
    lines = [json.loads(line) for line in served.marks.read_text().splitlines()]
    assert [line["right"] for line in lines[-2:]] == [True, False]
    assert page.errors == []


def test_slider_filters_and_history(page: Page, served: Served) -> None:
    page.look(1440)
    page.open(f"{served.address}/")
    whole = page.run("document.querySelector('.found').textContent")
    slide = "one.value = 0.9; one.dispatchEvent(new Event('input', {bubbles: true}))"
    page.run(f"(one => {{ {slide} }})(document.querySelector('[type=range]'))")
    page.wait("location.search == '?at=0.9' && document.querySelector('.what-if') != null")
    assert "--threshold 0.9 --policy best_of" in page.run("document.querySelector('.command').textContent")
    choose = "one.value = 'synthetic'; one.dispatchEvent(new Event('change', {bubbles: true}))"
    page.run(f"(one => {{ {choose} }})(document.querySelector('[name=source]'))")
    page.wait("location.search == '?source=synthetic&at=0.9'")
    page.wait(
        "[...document.querySelectorAll('.text .head span:first-child')].every(one => one.textContent == 'synthetic')"
    )
    page.run("history.go(-2)")
    page.wait("location.search == '' && document.querySelector('.what-if') == null")
    assert page.run("document.querySelector('.found').textContent") == whole
    assert page.errors == []


def test_pages_fit_and_ask_nobody_else(page: Page, served: Served, tmp_path: Path) -> None:
    for width, dark in ((360, False), (390, True), (768, False), (1440, True)):
        page.look(width, dark=dark)
        for path in PAGES:
            page.open(served.address + path)
            assert page.run("document.documentElement.scrollWidth") <= width, (path, width)
            assert page.run(CLIPPED) == [], (path, width)
            assert page.run(COVERED) == [], (path, width)
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    page.look(1440)
    assert page.run("getComputedStyle(document.body).backgroundColor") != ground  # dark is another one
    assert [address for address in page.asked if not address.startswith(served.address)] == []
    assert page.errors == []


@pytest.mark.slow
def test_axe_finds_nothing(page: Page, served: Served) -> None:
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed: pip install axe-core-python")
    script = Path(found.origin).with_name("axe.min.js").read_text()
    for dark in (False, True):
        for width in (390, 1440):
            page.look(width, dark=dark)
            for path in PAGES:
                page.open(served.address + path)
                page.run(f"{script}; 0")
                faults = "done.violations.map(one => [one.id, one.nodes[0].html, one.nodes[0].failureSummary])"
                assert page.run(f"axe.run().then(done => {faults})") == [], (path, width, dark)
