"""Noise ratios and scores against the truth, counted by hand on a dozen rows."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.errors import DataError
from components.data.candidates import Candidate
from components.data.sampleworld.language import human_caption
from components.data.sampleworld.scene import Scene, Thing, sample_scene
from components.evaluation.dataset import Truth, load_truth, noise_metrics, roc_auc, score_against_truth


def row(key, source, score, kept, reason="", text="a text"):
    return Candidate(key, "0" * 64, source, text, score, None, kept, reason)


WEB = [
    row("1", "web", 0.9, True),
    row("2", "web", 0.2, False, "below_threshold"),
    row("3", "web", 0.8, True),
    row("4", "web", 0.1, False, "below_threshold"),
    row("5", "web", 0.6, False, "not_best"),
    row("6", "web", None, False, "empty_text"),
    row("7", "web", 0.7, True),
]
TRUTH = {
    "1": Truth("match"),
    "2": Truth("match"),
    "3": Truth("junk"),
    "4": Truth("junk"),
    "5": Truth("match"),
    "6": Truth("match"),
    "7": Truth("cc12m"),
}


def test_noise_ratio_counts_only_what_the_filter_judged():
    synthetic = [row("1", "synthetic", 0.9, True), row("2", "synthetic", 0.1, False, "below_threshold")]
    got = noise_metrics([*WEB, *synthetic, row("3", "synthetic", 0.9, False, "duplicate")])
    assert got == {
        "capfilt/kept_pairs": 4,
        "capfilt/dropped_pairs": 6,
        "capfilt/kept_web": 3,
        "capfilt/kept_synthetic": 1,
        "capfilt/noise_ratio_web": pytest.approx(2 / 6),
        "capfilt/noise_ratio_synthetic": 0.5,
    }
    assert "capfilt/noise_ratio_synthetic" not in noise_metrics(WEB)


def test_precision_and_recall_by_hand():
    got = score_against_truth(WEB, TRUTH)
    assert got["truth/filter_precision"] == pytest.approx(2 / 3)  # 1 and 5 of 1, 3, 5; unjudged 6 and unknown 7 aside
    assert got["truth/filter_recall"] == pytest.approx(2 / 3)  # 1 and 5 of 1, 2, 5
    assert got["truth/rejected/junk"] == 0.5
    assert got["truth/web_true_before"] == pytest.approx(4 / 6)
    assert got["truth/web_true"] == 0.5  # of the kept 1 and 3
    assert got["truth/filter_auc"] == pytest.approx(4 / 6)  # (0.9, 0.2, 0.6) against (0.8, 0.1)
    assert got["truth/auc/junk"] == got["truth/filter_auc"]
    assert not any("synthetic" in name or "cc12m" in name for name in got)


def test_synthetic_captions_are_judged_against_the_scene():
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(4)]
    truth = {str(i): Truth("match", scene) for i, scene in enumerate(scenes)}
    right = [human_caption(scene, rng) for scene in scenes]
    rows = [row(str(i), "web", 0.9, True) for i in range(4)] + [
        row("0", "synthetic", 0.9, True, text=right[0]),
        row("1", "synthetic", 0.2, False, "below_threshold", text=right[1]),
        row("2", "synthetic", 0.1, False, "below_threshold", text="nothing to see"),
        row("3", "synthetic", 0.8, True, text="a circle and a square and a star and a moon and a ring"),
    ]
    got = score_against_truth(rows, truth)
    assert got["truth/synthetic_true_before"] == 0.5
    assert got["truth/synthetic_true"] == 0.5
    assert got["truth/synthetic_recall"] == 0.5
    assert got["truth/pairs_true"] == pytest.approx(5 / 6)


def test_a_caption_that_lost_to_a_better_one_is_accepted_but_not_kept():
    rng = random.Random(0)
    scene = sample_scene(rng)
    rows = [
        row("0", "web", 0.9, True),
        row("0", "synthetic", 0.8, False, "not_best", text=human_caption(scene, rng)),
        row("0", "synthetic", 0.9, True, text="a circle and a square and a star and a moon and a ring"),
    ]
    got = score_against_truth(rows, {"0": Truth("match", scene)})
    assert (got["truth/synthetic_true_before"], got["truth/synthetic_true"]) == (0.5, 0.0)
    assert got["truth/synthetic_recall"] == 1.0


def test_facts_are_counted_one_by_one():
    red = Thing("circle", "red", "large", "plain", 1 / 6, 0.5, 0.15)
    blue = Thing("star", "blue", "small", "striped", 5 / 6, 0.5, 0.08)
    truth = {"1": Truth("match", Scene((red,), "teal", "plain")), "2": Truth("junk", Scene((blue,), "tan", "plain"))}
    rows = [
        row("1", "web", 0.9, True, text="a red circle"),
        row("2", "web", 0.2, False, "below_threshold", text="IMG_1234.JPG"),  # says nothing: not counted
        row("1", "synthetic", 0.9, True, text="a large red star"),
        row("2", "synthetic", 0.1, False, "below_threshold", text="a red star"),
    ]
    got = score_against_truth(rows, truth)
    assert got["truth/web_facts_right_before"] == got["truth/web_facts_right"] == 1
    assert got["truth/synthetic_facts_right_before"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert got["truth/synthetic_facts_right"] == pytest.approx(2 / 3)
    assert got["truth/facts_right_by_chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)  # each under the other image
    assert got["truth/synthetic_true_before"] == 0


def test_truth_of_other_data_is_refused():
    with pytest.raises(DataError, match="other web data"):
        score_against_truth(WEB, {"x": Truth("match")})
    assert score_against_truth([], TRUTH) == {}


def test_auc():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 200).astype(float), rng.random(200) < 0.4
    pairs = [(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    assert roc_auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert roc_auc(scores, np.ones(200, dtype=bool)) is None


def test_truth_table_is_read_and_checked(tmp_path):
    scene = sample_scene(random.Random(1))
    pq.write_table(pa.table({"key": ["1"], "kind": ["junk"], "scene": [scene.to_json()]}), tmp_path / "a.parquet")
    assert load_truth(str(tmp_path / "a.parquet")) == {"1": Truth("junk", scene)}
    pq.write_table(pa.table({"key": ["1"], "kind": ["junk"], "human_caption": ["x"]}), tmp_path / "b.parquet")
    assert load_truth(str(tmp_path / "b.parquet")) == {"1": Truth("junk")}
    pq.write_table(pa.table({"kind": ["junk"]}), tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_text("no")
    for name in "cd":
        with pytest.raises(DataError, match=rf"{name}\.parquet"):
            load_truth(str(tmp_path / f"{name}.parquet"))
