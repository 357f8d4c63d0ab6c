"""`import capfilt`: what the command line calls, called directly."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import capfilt
from capfilt.cli.main import app
from components.common.errors import ConfigError, DataError
from components.regeneration.config import CapfiltConfig
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import encoded, photo, write_web

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    save_tiny_models(folder / "models")
    write_web(folder / "shards", shards=2, samples=5)
    (folder / "dog.jpg").write_bytes(encoded(photo(3)))
    return folder


def _json(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the page, which names its place and is written by the command line alone."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "report.html")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_importing_it_loads_nothing_heavy_and_its_types_are_told() -> None:
    heavy = ("torch", "prefect", "mlflow", "ray", "boto3", "webdataset", "numpy", "PIL")
    code = f"import sys, capfilt; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert files("capfilt").joinpath("py.typed").is_file()
    for name in capfilt.__all__:
        assert getattr(capfilt, name).__doc__


def test_python_and_the_command_line_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    models = {role: world / "models" / role for role in ("captioner", "filter")}
    options = [part for role, path in models.items() for part in (f"--{role}", str(path))]
    typed = tmp_path / "typed" / "out"
    _json("regenerate", "--web", str(world / "shards"), *options, "--out", str(typed), "--threshold", "0.3",
          "--decoding", "beam", "--max-length", "12", "--batch-size", "4")  # fmt: skip
    called = tmp_path / "called" / "out"
    decoding = {"method": "beam", "max_length": 12}
    result = capfilt.regenerate(
        web=world / "shards", **models, out=called, threshold=0.3, decoding=decoding, batch_size=4
    )
    assert result.dataset.images > 0
    assert contents(called) == contents(typed)
    _json("dataset", "recut", str(typed), "--out", str(tmp_path / "typed" / "cut"), "--threshold", "0.6")
    capfilt.recut(typed, out=tmp_path / "called" / "cut", threshold=0.6)
    assert contents(tmp_path / "called" / "cut") == contents(tmp_path / "typed" / "cut")


def test_images_as_files_bytes_and_pillow_images(world: Path) -> None:
    model, path = world / "models" / "captioner", world / "dog.jpg"
    typed = _json("caption", "--model", str(model), "--captions-per-image", "2", str(path))
    rows = capfilt.caption(model, [path, path.read_bytes(), str(path)], captions_per_image=2)
    assert rows[0] == rows[2] == typed[0]
    assert rows[1] == {"image": "image 1", "captions": typed[0]["captions"]}
    pixels = encoded(photo(3), "PNG")
    opened = Image.open(path)
    same = capfilt.caption(model, [opened, pixels], decoding={"method": "greedy"}, batch_size=1)
    assert same[0]["captions"] == capfilt.caption(model, [path], decoding={"method": "greedy"})[0]["captions"]
    assert len(same[1]["captions"]) == 1


def test_scores(world: Path) -> None:
    model, path = world / "models" / "filter", world / "dog.jpg"
    rows = capfilt.score(model, [path, encoded(photo(4))], ["a red ball", "the house"])
    assert [(row["image"], row["text"]) for row in rows] == [
        (str(path), "a red ball"), (str(path), "the house"), ("image 1", "a red ball"), ("image 1", "the house"),
    ]  # fmt: skip
    typed = _json("match", "--model", str(model), "--text", "a red ball", "--text", "the house", str(path))
    assert typed == [pytest.approx(row) for row in rows[:2]]
    cls = capfilt.score(model, [path], ["a red ball"], config=CapfiltConfig(position_zero="cls"))
    assert cls[0]["itm_probability"] != rows[0]["itm_probability"]


def test_what_is_wrong_is_told_before_any_work(world: Path, tmp_path: Path) -> None:
    model, image = world / "models" / "captioner", world / "dog.jpg"
    with pytest.raises(ConfigError, match=r"decoding\.top_p: Input should be less than or equal to 1"):
        capfilt.caption(model, [image], decoding={"top_p": 2})
    with pytest.raises(ConfigError, match="captions: Extra inputs are not permitted"):
        capfilt.caption(model, [image], captions=3)
    with pytest.raises(ConfigError, match="give config, or seed by keyword, not both"):
        capfilt.caption(model, [image], config=CapfiltConfig(), seed=1)
    with pytest.raises(ConfigError, match="nowhere.jpg"):
        capfilt.caption(model, [image, tmp_path / "nowhere.jpg"])
    with pytest.raises(ConfigError, match="brackets"):
        capfilt.caption(model, image)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="brackets"):
        capfilt.score(model, [image], "a dog")
    with pytest.raises(DataError, match="image 1: "):
        capfilt.caption(model, [image, b"no image"])
    with pytest.raises(ConfigError, match="goes together with calibration"):
        capfilt.regenerate(web="x", captioner="x", filter="x", out=tmp_path / "out", target_precision=0.9)
    with pytest.raises(ConfigError, match="threshold: Input should be less than or equal to 1"):
        capfilt.recut(tmp_path, out=tmp_path / "out", threshold=2)
    assert not (tmp_path / "out").exists()


def test_the_readmes_words(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    section = README.read_text().partition("## From Python")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(world)
    names: dict[str, Any] = {}
    exec(code.replace("threshold=0.7", "threshold=0.1"), names)  # random models are not sure of anything
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == names["result"].dataset.images + 1 > 1
    assert all(line.startswith("(64, 48) ") for line in lines[:-1])
    assert names["strict"].dataset.pairs <= names["result"].dataset.pairs
