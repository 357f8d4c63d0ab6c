"""The commands on models and shards, with real (tiny, random) models."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.data.manifest import load_manifest
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import encoded, photo, write_web

HUMAN = ("--calibration", "x.json", "--calibration-images", "y")


def _json(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def _error(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 1
    return result.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    save_tiny_models(folder / "models")
    write_web(folder / "web", shards=2, samples=4)
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir()
    for index in range(12):
        (folder / "images" / f"{index}.jpg").write_bytes(encoded(photo(index)))
        annotations.append({"id": index, "image_id": index, "caption": f"the ball numbered {index} on the house"})
    images = [{"id": index, "file_name": f"{index}.jpg", "width": 64, "height": 48} for index in range(12)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


def test_caption(world: Path) -> None:
    images = [str(world / "images" / f"{index}.jpg") for index in (0, 1)]
    model = str(world / "models" / "captioner")
    rows = _json("caption", "--model", model, "--captions-per-image", "3", *images)
    assert [row["image"] for row in rows] == images
    assert all(len(row["captions"]) == 3 for row in rows)
    alone = _json("caption", "--model", model, "--captions-per-image", "3", images[1])
    assert alone == rows[1:]
    other = _json("caption", "--model", model, "--captions-per-image", "3", "--seed", "1", images[1])
    assert other != alone
    assert _json("caption", "--model", model, "--decoding", "beam", images[0])[0]["captions"]


def test_match(world: Path) -> None:
    image, model = str(world / "images" / "0.jpg"), str(world / "models" / "filter")
    rows = _json("match", "--model", model, "--text", "a red ball", "--text", "the house", image)
    assert [row["text"] for row in rows] == ["a red ball", "the house"]
    for row in rows:
        assert 0 <= row["itm_probability"] <= 1
        assert -1 <= row["itc_similarity"] <= 1
    other = _json("match", "--model", model, "--text", "a red ball", "--position-zero", "cls", image)
    assert other[0]["itm_probability"] != rows[0]["itm_probability"]
    assert other[0]["itc_similarity"] == rows[0]["itc_similarity"]


def test_retrieval(world: Path) -> None:
    scores = _json(
        "retrieval", "--model", str(world / "models" / "filter"), "--annotations", str(world / "captions.json"),
        "--images", str(world / "images"), "--top-k", "12",
    )  # fmt: skip
    assert {"text_recall_at_1", "image_recall_at_10", "mean_recall"} <= scores.keys()
    assert 0 <= scores["mean_recall"] <= 1


def test_regenerate_then_look_at_it(world: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    arguments = [
        "regenerate", "--web", str(world / "web"), "--captioner", str(world / "models" / "captioner"), "--filter",
        str(world / "models" / "filter"), "--out", out, "--threshold", "0.3", "--batch-size", "4",
    ]  # fmt: skip
    result = _json(*arguments)
    assert result["dataset"]["uri"] == out
    assert _json(*arguments)["dataset"] == result["dataset"]
    page = Path(result["report"]).read_text()
    kept = f"{result['dataset']['pairs']} pairs over {result['dataset']['images']} of 8 images"
    assert Path(result["report"]).parent == Path(out) and kept in page and "capfilt dataset explain" in page
    assert _json("report", out, "--out", str(tmp_path / "page.html")) == {"report": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").read_text() == page
    shown = _json("dataset", "show", out)
    counts = shown["counts"]
    assert counts["in"] == 8
    assert counts["in"] == counts["kept"] + counts["dropped"] + sum(counts["failed"].values())
    assert shown["digest"] == result["dataset"]["digest"]
    assert _json("dataset", "verify", out)["problems"] == []
    key = "000000001"
    assert {row["source"] for row in _json("dataset", "explain", out, key)["candidates"]} == {"web", "synthetic"}
    recut = _json("dataset", "recut", out, "--out", str(tmp_path / "recut"), "--threshold", "0")
    assert recut["pairs"] >= result["dataset"]["pairs"]
    differing = _json("dataset", "diff", out, recut["uri"])
    assert differing["same"] is False
    assert differing["config"] == ["threshold: 0.3 there, 0.0 asked for"]  # how captions were written is no difference
    assert differing["parents"] == []
    changed = CliRunner().invoke(app, [*arguments, "--top-p", "0.5"])
    assert changed.exit_code == 2
    assert "--top-p: 0.9 there, 0.5 asked for" in changed.stderr
    _look_at_tables(arguments, out, recut["uri"], key)


def _look_at_tables(regenerate: list[str], out: str, recut: str, key: str) -> None:
    """What people are shown of the same: words and tables, and a command for the next step that names the dataset."""
    done = _text(*regenerate)
    assert re.search(r"^images read by CapFilt +8$", done, re.MULTILINE)
    assert re.search(r"^pairs kept by CapFilt +\d+ +\d+\.\d%$", done, re.MULTILINE)
    assert "capfilt/" not in done
    assert f"capfilt browse {out}" in done
    shown = _text("dataset", "show", out)
    assert re.search(r"^samples read +8$", shown, re.MULTILINE)
    assert re.search(r"^threshold +0\.3$", shown, re.MULTILINE)
    assert f"capfilt dataset verify {out}" in shown
    assert re.search(r"^threshold +0\.3 +0\.0$", _text("dataset", "diff", out, recut), re.MULTILINE)
    assert "They are one version" in _text("dataset", "diff", out, out)
    explained = _text("dataset", "explain", out, key)
    assert f"{key} in out, version " in explained
    assert re.search(r"(kept|dropped: .*)$", explained, re.MULTILINE)
    (listed,) = _json("dataset", "versions", recut)
    assert (listed["kind"], listed["uri"], listed["problem"]) == ("recut", recut, None)
    assert listed["digest"][:8] in _text("dataset", "versions", recut)
    for text in (done, shown, explained):
        assert all(len(line) <= 80 or "/" in line for line in text.splitlines())


def _text(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def _regenerate(world: Path, out: Path, *more: str) -> list[str]:
    models = world / "models"
    files = ["--web", str(world / "web"), "--captioner", str(models / "captioner"), "--filter", str(models / "filter")]
    return ["regenerate", *files, "--out", str(out), *more]


def test_regenerate_with_a_target_precision(world: Path, tmp_path: Path) -> None:
    human = ["--calibration", str(world / "captions.json"), "--calibration-images", str(world / "images")]
    arguments = _regenerate(world, tmp_path / "out", *human, "--target-precision", "0.52")
    result = _json(*arguments)
    chosen = result["metrics"]["calibration/threshold"]
    assert result["metrics"]["calibration/purity"] >= 0.52
    assert load_manifest(result["dataset"]["uri"]).config["threshold"] == chosen != 0.5
    (kept,) = (tmp_path / "out" / "calibrations").iterdir()
    assert json.loads(kept.read_text())["chosen"]["threshold"] == chosen
    assert _json(*arguments)["dataset"] == result["dataset"]
    assert _json("dataset", "verify", result["dataset"]["uri"])["problems"] == []
    assert _json(*_regenerate(world, tmp_path / "out", "--threshold", str(chosen)))["dataset"] == result["dataset"]
    unreachable = CliRunner().invoke(app, _regenerate(world, tmp_path / "x", *human, "--target-precision", "0.999"))
    assert unreachable.exit_code == 1
    assert "no threshold of this filter reaches a precision of 0.999" in unreachable.stderr
    assert not (tmp_path / "x" / "plan.json").exists()


def test_regenerate_by_both_scores(world: Path, tmp_path: Path) -> None:
    human = ["--calibration", str(world / "captions.json"), "--calibration-images", str(world / "images")]
    arguments = _regenerate(world, tmp_path / "out", *human, "--calibrated", "both", "--threshold", "0.4")
    result = _json(*arguments)
    config = load_manifest(result["dataset"]["uri"]).config
    (kept,) = (tmp_path / "out" / "calibrations").iterdir()
    assert (config["calibrated"], config["threshold"]) == ("both", 0.4)
    assert config["weights"] == json.loads(kept.read_text())["weights"]
    assert _json(*arguments)["dataset"] == result["dataset"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-precision", "0.9"], "give --calibration captions.json and --calibration-images FOLDER"),
        (["--target-precision", "0.9", "--calibration", "x.json"], "--calibration-images FOLDER"),
        (
            ["--calibration", "x.json", "--calibration-images", "y"],
            "give --target-precision, e.g. 0.95, or --calibrated too",
        ),
        (["--calibrated", "both"], "give --calibration captions.json and --calibration-images FOLDER"),
        (["--target-precision", "0.9", "--threshold", "0.5"], "give one of them"),
        ([*HUMAN, "--target-precision", "1.5"], "--target-precision: Input should be less than 1"),
        ([*HUMAN, "--target-precision", "0.4"], "asks for no filter"),
        ([*HUMAN, "--target-precision", "0.9", "--bad-share", "2"], "--bad-share: Input should be less than 1"),
    ],
)
def test_a_target_that_cannot_be_measured_is_bad_usage(options: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, _regenerate(tmp_path, tmp_path / "out", *options))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_dataset_is_told(world: Path, tmp_path: Path) -> None:
    ref = _json("dataset", "import-web", "--web", str(world / "web"), "--store", str(tmp_path))
    manifest = load_manifest(ref["uri"])
    table = Path(ref["uri"]) / manifest.shards[0].parquet.uri
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    result = CliRunner().invoke(app, ["dataset", "verify", ref["uri"], "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"]


def test_imports(world: Path, tmp_path: Path) -> None:
    ref = _json(
        "dataset", "import-coco", "--annotations", str(world / "captions.json"), "--images", str(world / "images"),
        "--store", str(tmp_path), "--name", "human",
    )  # fmt: skip
    assert (ref["name"], ref["images"], ref["pairs"]) == ("human", 12, 12)


def test_what_is_no_model_or_no_picture_is_named(world: Path) -> None:
    image = str(world / "images" / "0.jpg")
    assert "there is no config.json" in _error("caption", "--model", str(world / "web"), image)
    broken = world / "broken.jpg"
    broken.write_bytes(b"no image")
    assert str(broken) in _error("match", "--model", str(world / "models" / "filter"), "--text", "x", str(broken))
