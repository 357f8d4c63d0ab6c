"""The benchmarks themselves, at sizes that mean nothing: they run, and what they print is reckoned rightly."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.storage import open_store
from components.data.sampleworld.language import human_caption
from components.data.sampleworld.scene import COLOURS, Scene, Thing, sample_scene
from components.evaluation.dataset import Truth
from components.model.checkpoints.publishing import reference_model
from components.regeneration.config import CapfiltConfig
from components.regeneration.policy import Text
from components.regeneration.run import run_capfilt
from tests.benchmarks import browse, loop_study, oracle, scale, score_web_truth, search_scale, search_world
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

TINY = ("--width", "64", "--depth", "1", "--image-size", "32", "--batch", "2", "--threads", "1")


def printed(module: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *TINY, *options]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def test_training_steps_are_compared() -> None:
    lines = printed("bench_pretrain_step", "--steps", "1", "--texts", "real")
    assert [side in line for side, line in zip(("transformers", "ours", "ratio"), lines, strict=True)] == [True] * 3


def test_both_capfilts_write_the_same() -> None:
    lines = printed("bench_capfilt", "--turns", "1", "--dtype", "fp32")  # ends otherwise where they do not
    assert "captions equal True" in lines[0]
    assert "ratio" in lines[-1]


def test_study_holds_each_arm_against_round_0_of_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finished(name: str, *recalls: float) -> None:
        metrics = [{loop_study.RECALL: recall, loop_study.CIDER: 1 + at / 10} for at, recall in enumerate(recalls)]
        metrics[-1] |= {"capfilt/kept_pairs": 30, "capfilt/dropped_pairs": 70}
        report = {"rounds": [{"round": number, "metrics": one} for number, one in enumerate(metrics)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))

    for seed, loss in ((0, 0.0), (1, 0.25)):
        finished(f"seed{seed}-bad0.55", 0.5, 0.7 - loss)
        finished(f"seed{seed}-bad0.55-coin", 0.5, 0.55 - loss)
        finished(f"seed{seed}-bad0.55-longer", 0.6)
    arms = ["--arms", "filter", "coin", "longer"]
    monkeypatch.setattr(sys, "argv", ["study", "--seeds", "0", "1", *arms, "--out", str(tmp_path)])
    loop_study.main()
    table = capsys.readouterr().out
    assert "filter: round 1 above round 0 in both in 1 of 2; mean gain mean recall +0.075 (" in table
    assert "coin: round 1 above round 0 in both in 1 of 2; mean gain mean recall -0.075 (" in table
    assert "longer: round 1 above round 0 in both in 0 of 2; mean gain mean recall +0.100 (+0.100 to +0.100)" in table
    assert "CIDEr +0.100" in table
    assert "the filter above it: mean recall +0.150 (+0.150 to +0.150), CIDEr +0.000 (+0.000 to +0.000)" in table
    assert table.count("the filter above it") == 2  # both controls


def test_study_counts_claims_and_kept_texts(tmp_path: Path) -> None:
    captions = {"a red circle": ["a large red circle", "a red circle"], "a cat": ["a blue square and a red star"]}
    images = [{"caption": caption, "references": references} for caption, references in captions.items()]
    (tmp_path / "details.json").write_text(json.dumps({"images": images}))
    assert loop_study.claims({"details_uri": str(tmp_path / "details.json")}) == pytest.approx(2 / (2.5 + 4))
    assert loop_study.claims({}) != loop_study.claims({})  # nothing is known
    metrics = {"capfilt/kept_pairs": 30, "capfilt/dropped_pairs": 70}
    assert loop_study.kept_share({"rounds": [{}, {"metrics": metrics}]}) == 0.3


def test_an_oracle_knows_what_is_true_of_a_picture() -> None:
    scene = sample_scene(random.Random(1))
    known = Truth("match", scene)
    true = human_caption(scene, random.Random(2))
    assert oracle.is_true(Text("synthetic", true), known)
    assert not oracle.is_true(Text("synthetic", "three purple elephants and a green moon"), known)
    assert oracle.is_true(Text("web", "whatever it says"), known)
    assert not oracle.is_true(Text("web", true), Truth("junk", scene))


def test_score_against_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = save_tiny_models(tmp_path / "models")
    config = CapfiltConfig(threads=1, threshold=0.0)
    web = write_web(tmp_path / "web", shards=2, samples=4)
    result = run_capfilt(str(web), *models, config, store=open_store(str(tmp_path / "out")), name="out")
    scores = score_web_truth.web_scores(result.dataset.uri)
    best = sorted(scores, key=lambda key: scores[key])[-3:]
    kinds = ["match" if key in best else "junk" for key in scores]
    pq.write_table(pa.table({"key": list(scores), "kind": kinds}), tmp_path / "truth.parquet")
    score_web_truth.main(result.dataset.uri, str(tmp_path / "truth.parquet"))
    assert "texts scored 8   ROC-AUC match vs rest 1.0000" in capsys.readouterr().out


def test_scale_goes_through_all_its_steps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["scale", "--shards", "3"])
    scale.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [step.__name__ for step in scale.STEPS]


def test_search_scale_goes_through_all_its_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def halved(vectors: np.ndarray, path: Path) -> Callable[[np.ndarray], list[int]]:
        path.write_bytes(b"index")
        # as a library that searches every second vector finds half of the nearest, more or less
        return lambda query: [2 * int(row) for row in np.argsort(-(vectors[::2] @ query))[: search_scale.TOP]]

    monkeypatch.setattr(search_scale, "PART", 400)
    monkeypatch.setitem(search_scale.LIBRARIES, "usearch", halved)
    options = ["--vectors", "1000", "--queries", "8", "--folder", str(tmp_path), "--against", "usearch"]
    monkeypatch.setattr("sys.argv", ["search_scale", *options])
    search_scale.main()
    exact, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert (exact["search"], exact["vectors"], other["search"]) == ("exact", 1000, "usearch")
    assert 0.2 < other["recall"] < 0.8 and not list(tmp_path.iterdir())
    vectors = search_scale.made_up(400, 1).astype(np.float16)
    queries = search_scale.made_up(2, 5)
    search_scale.write_vectors_of(tmp_path, 400)
    found, _ = search_scale.exact(tmp_path, queries)
    true = np.argsort(-(queries @ vectors.astype(np.float32).T), axis=1)[:, : search_scale.TOP]
    assert [list(one) for one in found] == true.tolist()


def test_search_is_scored_against_the_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = save_tiny_models(tmp_path / "models")
    models = reference_model(made[0].uri, "captioner"), reference_model(made[1].uri, "filter")
    web = write_web(tmp_path / "web", shards=2, samples=12)
    config = CapfiltConfig(threads=1, threshold=0.0)
    uri = run_capfilt(str(web), *models, config, store=open_store(str(tmp_path / "out")), name="out").dataset.uri
    keys = sorted(score_web_truth.web_scores(uri))
    things = [Thing("circle", COLOURS[at % 2], "large", "plain", 0.5, 0.5, 0.15) for at in range(len(keys))]
    scenes = [Scene((thing,), "grey", "plain").to_json() for thing in things]
    pq.write_table(pa.table({"key": keys, "scene": scenes}), tmp_path / "truth.parquet")
    monkeypatch.setattr("sys.argv", ["search_world", uri, str(tmp_path / "truth.parquet"), "--rerank", "0", "24"])
    search_world.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum("recall at 10 over all" in line for line in lines) == 4
    rows = [line for line in lines if line.get("queries") == "colour, shape"]
    assert [(row["rerank"], row["captions"], row["asked"]) for row in rows] == [
        (0, False, 2),
        (0, True, 2),
        (24, False, 2),
        (24, True, 2),
    ]
    assert {line.get("queries") for line in lines} == {"colour, shape", "size, colour, shape", None}  # no texture here
    # a red or a blue circle is every second image: what one query misses of ten, the other may find, and no more
    assert all(0 <= row["lowest"] <= row["recall at 10"] <= 1 for row in rows)
    red = search_world.relevant([Scene.from_json(one) for one in scenes], "a red circle")
    assert red.tolist() == [True, False] * 12
    assert search_world.recall_at([True, False, True] + [False] * 7 + [True], 4) == 0.5
    assert search_world.recall_at([True] * 10, 80) == 1


def test_the_browser_is_measured(tmp_path: Path) -> None:
    found = browse.measure(browse.write_dataset(tmp_path / "made", 5000), str(tmp_path))
    assert {"open", "first page", "filter", "slider", "like an image", "peak MB"} <= found.keys()
