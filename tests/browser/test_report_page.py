"""The report in a real browser: what it asks for, whether all of it is seen at every width, and axe's word."""

import base64
import importlib.util
import io
import random
from pathlib import Path

import pytest
from PIL import Image

from components.pages.gallery import side_of, thumbnail
from components.pages.report import ReportData, write_report
from tests.browser.test_chromium import CLIPPED
from tests.helpers.chromium import Page
from tests.unit.pages.demo import alone, capfilt, demo

PAGES = {"one": lambda: demo(1), "two": lambda: demo(2), "three": lambda: demo(3), "alone": alone}
HIDDEN = """[...document.querySelectorAll("td, .says, h1, h2, h3, .tile div, .num, svg")].filter(one => {
  let above = one.parentElement;
  while (above && getComputedStyle(above).overflowX == "visible") above = above.parentElement;
  return above && one.getBoundingClientRect().right > above.getBoundingClientRect().right + 1;
}).map(one => one.outerHTML.slice(0, 100))"""
"""What lies beyond the edge of a box that scrolls or clips."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report")
    for name, data in PAGES.items():
        write_report(data(), made / f"{name}.html")
    return made


def test_all_of_it_is_seen_and_nobody_is_asked(page: Page, folder: Path) -> None:
    for name in PAGES:
        for width, dark in ((360, False), (390, False), (768, True), (1440, False)):
            page.look(width, dark=dark)
            page.open(f"file://{folder}/{name}.html")
            assert page.run("document.documentElement.scrollWidth") <= width, (name, width)
            assert page.run(CLIPPED) == [], (name, width)
            assert page.run(HIDDEN) == [], (name, width)
    assert [address for address in page.asked if not address.startswith(("file://", "data:image/"))] == []
    assert page.errors == []


def test_it_is_whole_in_the_frame_that_mlflow_shows_artifacts_in(page: Page, folder: Path) -> None:
    """As its pages do: the file as a blob, in a frame that may run scripts and nothing else."""
    text = base64.b64encode((folder / "two.html").read_bytes()).decode()
    (folder / "frame.html").write_text(
        "<body style='margin:0'>"
        "<iframe id=f sandbox='allow-scripts' style='border:0;width:560px;height:700px'></iframe>"
        f"<script>const bytes = Uint8Array.from(atob('{text}'), one => one.charCodeAt(0));"
        "f.src = URL.createObjectURL(new Blob([bytes], {type: 'text/html'}))</script>"
    )
    page.look(560)
    page.open(f"file://{folder}/frame.html")
    page.screenshot(folder / "framed.png")
    page.open(f"file://{folder}/two.html")
    page.screenshot(folder / "alone.png")
    framed, plain = (
        Image.open(folder / f"{name}.png").convert("RGB").crop((0, 0, 540, 600)) for name in ("framed", "alone")
    )
    assert framed.tobytes() == plain.tobytes()
    assert page.errors == []


@pytest.mark.slow
def test_axe_finds_nothing_in_the_report(page: Page, folder: Path) -> None:
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed: pip install axe-core-python")
    script = Path(found.origin).with_name("axe.min.js").read_text()
    for name in PAGES:
        for width, dark in ((390, True), (1440, False)):
            page.look(width, dark=dark)
            page.open(f"file://{folder}/{name}.html")
            page.run(f"{script}; 0")
            faults = "done.violations.map(one => [one.id, one.nodes[0].html, one.nodes[0].failureSummary])"
            assert page.run(f"axe.run().then(done => {faults})") == [], (name, width, dark)


def test_a_thousand_images_are_below_three_megabytes(tmp_path: Path) -> None:
    """Of pictures that compress as photographs do: 96 pixels, 1,200 bytes of WebP and more."""
    rng = random.Random(0)
    one = capfilt(rng, 0, examples=1)
    images = [_photograph(seed) for seed in range(20)]
    sizes = [len(base64.b64decode(image.partition(",")[2])) for image in images]
    assert sum(sizes) / len(sizes) >= 1200
    example = one.examples[0]
    shown = tuple(
        example.model_copy(update={"key": f"{number:09d}", "image": images[number % 20]}) for number in range(1000)
    )
    data = ReportData(name="many", capfilt=(one.model_copy(update={"examples": shown}),))
    write_report(data, tmp_path / "many.html")
    assert (tmp_path / "many.html").stat().st_size <= 3_000_000


def _photograph(seed: int) -> str:
    """Noise on several scales, as a thumbnail."""
    rng = random.Random(seed)
    whole = Image.new("RGB", (320, 240))
    for side in (6, 20, 40):
        grain = Image.frombytes("RGB", (side, side), rng.randbytes(side * side * 3))
        whole = Image.blend(whole, grain.resize((320, 240), Image.Resampling.BICUBIC), 0.33)
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=92)
    return thumbnail(buffer.getvalue(), *side_of(1000))
