"""MLflow's own pages in a real browser, opened by the links that a run prints, over two bootstraps of two rounds."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from components.common.contracts import BootstrapResult
from components.common.tracking import find_runs_pages
from components.pages.table import print_result
from tests.helpers.chromium import Page
from tests.helpers.mlflow_server import MlflowServer
from tests.helpers.told_bootstraps import tell_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROWS = "[...new Set([...document.querySelectorAll('.ag-row[row-id] a')].map(one => one.textContent))]"


class Told(NamedTuple):
    """What was told, and the server that shows it."""

    results: list[BootstrapResult]
    server: str


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    store = tmp_path_factory.mktemp("pages")
    first = tell_of(store, [(0.31, 0.2), (0.42, 0.5)])
    other = tell_of(store, [(0.30, 0.2), (0.47, 0.6)], ["capfilt.threshold=0.6", "seed=7"])
    server = MlflowServer(store)
    try:
        yield Told([first, other], server.uri)
    finally:
        server.close()


def printed_links(result: BootstrapResult, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What a run prints of MLflow, by question."""
    print_result(result)
    return dict(re.findall(r"^  (which \w+) +(http\S+)$", capsys.readouterr().out, re.MULTILINE))


def columns(page: Page) -> list[str]:
    """Names of the columns that are seen, from left to right; what a pinned or the right edge hides is not."""
    edge = "document.querySelector('.ag-center-cols-viewport').getBoundingClientRect().right"
    cells = "[...document.querySelectorAll('.ag-header-viewport .ag-header-cell')]"
    box = "one.getBoundingClientRect()"
    seen: list[list[str | float]] = page.run(
        f"{cells}.filter(one => {box}.right <= {edge} + 1).map(one => [{box}.left, one.getAttribute('col-id')])"
    )
    return [str(name) for _, name in sorted(seen)]


@pytest.mark.parametrize(
    ("question", "rows", "first"),
    [
        ("which round", 4, ["tags.`champion`", "metrics.`eval/retrieval/mean_recall`", "metrics.`eval/caption/cider`"]),
        ("which bootstrap", 2, ["tags.`bootstrap.champion`", "metrics.`champion/retrieval/mean_recall`"]),
        ("which dataset", 4, ["tags.`champion`", "params.`trained on`"]),
    ],
)
def test_printed_links_open_on_the_answer(
    page: Page, told: Told, capsys: pytest.CaptureFixture[str], question: str, rows: int, first: list[str]
) -> None:
    link = printed_links(told.results[1], capsys)[question]
    page.open("about:blank")
    page.open(link.replace("http://127.0.0.1:5000", told.server))
    page.wait(f"{ROWS}.length == {rows}", 240)
    names = page.run(ROWS)
    labels = [f"{told.results[0].label} seed=0", f"{told.results[1].label} threshold=0.6 seed=7"]
    wanted = labels if rows == 2 else [f"round-{number} of {label}" for label in labels for number in (0, 1)]
    assert sorted(names) == sorted(wanted)
    assert columns(page)[: len(first)] == first
    assert page.run("document.body.innerText").count(question) >= 2  # in the menu of views, and as a link
    assert [address for address in page.asked if not address.startswith((told.server, "data:", "about:"))] == []


def test_charts_are_filtered(page: Page, told: Told) -> None:
    result = told.results[0]
    page.open("about:blank")
    page.open(f"{told.server}/{result.mlflow_views['bootstraps']}&compareRunsMode=CHART")
    page.wait("document.body.innerText.includes('champion/caption')", 240)
    assert "eval/caption" not in page.run("document.body.innerText")


def test_the_server_knows_the_views(told: Told) -> None:
    found = find_runs_pages(told.server, "sample")
    assert {key: found[key] for key in told.results[0].mlflow_views} == told.results[0].mlflow_views
