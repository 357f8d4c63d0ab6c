"""A pilot over generated images with tiny, random BLIP models: what it draws, says and leaves behind."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import capfilt
from capfilt import api
from capfilt.cli.main import app
from components.common.errors import ConfigError, DataError
from components.data.candidates import stored_candidates
from components.data.manifest import load_manifest
from components.regeneration.pilot import human_precision, kept_share
from components.regeneration.plan import web_input
from components.regeneration.sample import allocate, draw_sample, drawn
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import encoded, photo, write_web

FAST: dict[str, Any] = {"decoding": {"max_length": 8}, "precision": "fp32", "batch_size": 8, "threads": 1}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_web(tmp_path_factory.mktemp("web"), shards=3, samples=30)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    captioner, filter = save_tiny_models(tmp_path_factory.mktemp("blip"))
    return {"captioner": captioner.uri, "filter": filter.uri}


def test_a_pilot_says_what_the_whole_run_then_gives(web: Path, models: dict[str, str], tmp_path: Path) -> None:
    kinds = {f"{shard:05d}{at:04d}": "match" if at % 2 else "other" for shard in range(3) for at in range(30)}
    truth = tmp_path / "truth.parquet"
    pq.write_table(pa.table({"key": list(kinds), "kind": list(kinds.values())}), truth)
    found = capfilt.pilot(web=web, **models, out=tmp_path / "o", images=45, truth=truth, **FAST)
    assert (found.images, found.of, found.counted, found.shards, found.threshold) == (45, 90, True, 3, 0.5)
    made = api.regenerate(web=web, **models, out=tmp_path / "o", **FAST)
    whole = load_manifest(made.dataset.uri)
    assert found.kept.interval.low <= whole.totals.kept / 90 <= found.kept.interval.high
    rows = [row for one in whole.shards for row in stored_candidates(made.dataset.uri, one.parquet).rows()]
    web_kept = [kinds[row.key] for row in rows if row.source == "web" and row.kept]
    assert found.precision is not None and found.precision_by == "the truth of web texts"
    assert found.precision.interval.low <= web_kept.count("match") / len(web_kept) <= found.precision.interval.high
    assert 0 < found.pairs <= 180 and found.seconds == pytest.approx(90 / found.images_per_second)

    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["o", "o.pilot", "truth.parquet"]
    page = (tmp_path / "o.pilot" / "pilot.html").read_text()
    assert "no dataset" in page and "✓ kept" in page and "✗ refused" in page and "45 of 90, from 3 shards" in page
    assert json.loads((tmp_path / "o.pilot" / "pilot.json").read_text()) == found.model_dump(mode="json")
    in_sample = {row.text for row in rows if row.source == "synthetic"}
    assert sum(text in page for text in in_sample) > 5  # captions are those that the whole run writes


def test_the_command_shows_it_and_makes_no_dataset(web: Path, models: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "o"
    asked = [
        "regenerate",
        "--web",
        str(web),
        "--out",
        str(out),
        "--pilot",
        "20",
        "--max-length",
        "8",
        "--dtype",
        "fp32",
    ]
    asked += [f"--{name}={value}" for name, value in models.items()]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert re.search("images drawn +20 of 90, from 3 shards", shown.stdout), shown.stdout
    assert re.search("time of the whole +about", shown.stdout), shown.stdout
    assert shown.stdout.rstrip().endswith("next: look at the page, then the same command without --pilot")
    assert not any(out.rglob("*")) and (tmp_path / "o.pilot" / "pilot.html").is_file()
    refused = CliRunner().invoke(app, [*asked, "--cascade"])
    assert refused.exit_code != 0


def test_human_captions_say_how_precise_it_is_and_choose_once(
    web: Path, models: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "human").mkdir()
    words = ["a red ball", "the blue cat", "two green dog", "the big tree", "a small house", "three cat on the left"]
    for at in range(6):
        (tmp_path / "human" / f"{at}.jpg").write_bytes(encoded(photo(at)))
    images = [{"id": at, "file_name": f"{at}.jpg"} for at in range(6)]
    captions = [{"image_id": at, "caption": text} for at, text in enumerate(words)]
    annotations = tmp_path / "captions.json"
    annotations.write_text(json.dumps({"images": images, "annotations": captions}))
    asked = {"web": web, **models, "out": tmp_path / "o", "calibration": (annotations, tmp_path / "human")}
    found = capfilt.pilot(**asked, images=20, **FAST, target_precision=0.55)
    assert found.precision is not None and found.precision_by == "human captions"
    assert 0.55 <= found.precision.value <= 1 and found.threshold is not None
    (kept,) = (tmp_path / "o" / "calibrations").iterdir()
    made = api.regenerate(**asked, **FAST, target_precision=0.55)
    assert load_manifest(made.dataset.uri).config["threshold"] == found.threshold
    assert list((tmp_path / "o" / "calibrations").iterdir()) == [kept]


def test_a_cascade_whose_bands_are_not_known_is_refused(web: Path, models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smaller than the sample"):
        capfilt.pilot(web=web, **models, out=tmp_path / "o", cascade={}, **FAST)


def test_a_sample_is_in_proportion_and_always_the_same(web: Path, tmp_path: Path) -> None:
    source = web_input(str(web))
    one, two = (draw_sample(source, 20, 0, tmp_path / name) for name in "ab")
    other = draw_sample(source, 20, 1, tmp_path / "c")
    assert one.shard_of == two.shard_of != other.shard_of
    assert sorted(one.drawn.values()) == [6, 7, 7] and Counter(one.shard_of.values()) == one.drawn
    assert (tmp_path / "a/web/00000.tar").read_bytes() == (tmp_path / "b/web/00000.tar").read_bytes()
    everything = draw_sample(source, 1000, 0, tmp_path / "d")
    assert everything.images == everything.of == 90
    (tmp_path / "web").mkdir()
    with pytest.raises(DataError):
        draw_sample(web_input(str(tmp_path / "web")), 20, 0, tmp_path / "e")


def test_allocation_gives_every_stratum_its_share() -> None:
    assert allocate([10, 10, 10], 5) == [2, 2, 1]
    assert allocate([1, 1000], 10) == [0, 10]
    assert allocate([3, 2], 100) == [3, 2]
    assert drawn(["a", "b", "c"], 2, 0) == sorted(drawn(["a", "b", "c"], 2, 0))


def test_ten_pilots_of_a_recorded_run_hold_its_keep_rate() -> None:
    """2,000 recorded images in 20 shards whose keep rates differ."""
    rng = np.random.default_rng(5)
    rates = rng.uniform(0.4, 0.9, 20)
    kept = rng.random((20, 100)) < rates[:, None]
    held = 0
    for seed in range(10):
        by_shard = {}
        for shard in range(20):
            numbers = drawn([str(at) for at in range(100)], 10, seed, shard)
            by_shard[str(shard)] = (int(kept[shard, numbers].sum()), 10)
        interval = kept_share(by_shard, all_shards=True).interval
        held += interval.low <= kept.mean() <= interval.high
    assert held >= 9


def test_few_of_many_shards_make_the_interval_wider() -> None:
    """Shards that differ say less of the others than images would; those that are alike say as much."""
    unlike, alike = {"a": (10, 100), "b": (90, 100)}, {"a": (50, 100), "b": (51, 100)}
    wide = kept_share(unlike, all_shards=False).interval
    assert (wide.low, wide.high) == pytest.approx((0.0, 1.0), abs=0.02)
    assert kept_share(alike, all_shards=False) == kept_share(alike, all_shards=True)


def test_human_precision_is_the_purity_of_the_calibration() -> None:
    right, wrong = [[0.9, 0.8], [0.2, 0.7]] * 20, [[0.1, 0.6], [0.3, 0.2]] * 20
    found = human_precision(right, wrong, 0.5, 0.5)
    assert found.value == pytest.approx(0.75 / (0.75 + 21 / 81))
    assert found.interval.low < found.value < found.interval.high
