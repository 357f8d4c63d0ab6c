"""What is told, and how loudly, when a filter judges otherwise than the one of the round before."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.common.contracts import Calibration, PurityPoint
from components.common.errors import DataError
from components.common.resampling import IntervalConfig
from components.regeneration.drift import find_drift

FEW = IntervalConfig(resamples=300)
Filter = Callable[..., Calibration]


@pytest.fixture
def filter(tmp_path: Path) -> Filter:
    """A filter measured on 100 images: of five right and five wrong texts each so many pass at 0.5, on average."""
    made = iter(range(10_000))

    def of(
        passing: float, leaking: float, *, seed: int, shared: int = 5, human: str = "h", images: int = 100
    ) -> Calibration:
        rng, lucks = np.random.default_rng(seed), np.random.default_rng(77)
        rows = []
        for number in range(images):
            luck = lucks.normal(0, 0.1)  # an image is hard for every filter alike

            def texts(kind: str, mean: float, own: int, luck: float = luck) -> list[list[object]]:
                names = [f"{kind} {k}" for k in range(own)] + [f"{kind} {seed} {k}" for k in range(own, 5)]
                return [[name, 0.9 if rng.random() < mean + luck else 0.1, 0.0] for name in names]

            rows.append({"key": str(number), "right": texts("r", passing, 5), "wrong": texts("w", leaking, shared)})
        path = tmp_path / f"{next(made)}.json"
        path.write_text(json.dumps({"images": rows}))
        point = PurityPoint(threshold=0.5, purity=0.8, yield_share=0.9)
        return Calibration(
            filter="f", human=human, chosen=point, target=None, reached=True, curve=(point,), images=images,
            positives=5 * images, negatives=5 * images, bad_share=0.5, scores_uri=str(path),
        )  # fmt: skip

    return of


def test_there_is_nothing_to_drift_from_without_scores_of_both(filter: Filter) -> None:
    one, other = filter(0.8, 0.2, seed=0), filter(0.3, 0.7, seed=1)
    assert find_drift(None, one, 0.05, FEW) is None
    assert find_drift(one.model_copy(update={"scores_uri": None}), other, 0.05, FEW) is None
    assert find_drift(one, other.model_copy(update={"scores_uri": None}), 0.05, FEW) is None
    assert find_drift(one, filter(0.3, 0.7, seed=1, human="others"), 0.05, FEW) is None
    assert find_drift(one, other, 0.05, FEW) is not None


@pytest.mark.parametrize(
    ("passing", "leaking", "worse", "words"),
    [
        (0.8, 0.5, True, "lets more wrong texts through"),
        (0.5, 0.125, True, "loses right texts and is no purer"),
        (0.5, 0.3, True, "tells right texts from wrong ones less well"),
        (0.5, 0.05, False, "it is stricter, not worse"),
        (0.95, 0.45, False, "it is more lenient, not worse"),
        (0.8, 0.05, False, "become better"),
        (0.95, 0.2, False, "become better"),
    ],
)
def test_what_it_means(filter: Filter, passing: float, leaking: float, worse: bool, words: str) -> None:
    before, after = filter(0.8, 0.2, seed=0), filter(passing, leaking, seed=1)
    drift = find_drift(before, after, 0.05, FEW)
    assert drift is not None
    assert drift.worse is worse
    assert words in drift.text
    assert drift.text.startswith("at threshold 0.5, on texts that both have judged, the filter's purity went from ")


def test_a_change_must_be_as_large_as_the_config_asks(filter: Filter) -> None:
    before, after = filter(0.8, 0.2, seed=0), filter(0.8, 0.5, seed=1)
    assert find_drift(before, after, 0.05, FEW) is not None
    assert find_drift(before, after, 0.5, FEW) is None


def leak(one: Calibration) -> float:
    images = json.loads(Path(one.scores_uri or "").read_text())["images"]
    scores = [score for image in images for _, score, _ in image["wrong"]]
    return sum(score >= 0.5 for score in scores) / len(scores)


def test_large_changes_on_few_images_are_noise(filter: Filter) -> None:
    """Filters alike, measured on 20 images: the share of wrong texts that pass moves by 5 points as often as not."""
    pairs = [(filter(0.8, 0.3, seed=s, images=20), filter(0.8, 0.3, seed=s + 50, images=20)) for s in range(40)]
    told = [find_drift(before, after, 0.05, FEW) for before, after in pairs]
    large = sum(abs(leak(after) - leak(before)) > 0.05 for before, after in pairs)
    assert large > 15
    assert sum(one is not None for one in told) <= large / 3


def test_only_texts_that_both_have_judged_count(filter: Filter) -> None:
    """Of its own nearest wrong texts a better filter may accept more: they are harder."""
    before, after = filter(0.8, 0.2, seed=0, shared=5), filter(0.8, 0.2, seed=1, shared=3)
    path = Path(after.scores_uri or "")
    details = json.loads(path.read_text())
    for image in details["images"]:
        image["wrong"] = [[text, 0.9 if text.startswith("w 1 ") else score, 0.0] for text, score, _ in image["wrong"]]
    path.write_text(json.dumps(details))
    assert find_drift(before, after, 0.05, FEW) is None


def test_warnings_are_right_more_often_than_wrong(filter: Filter) -> None:
    """Filters alike, and filters that let half as many more wrong texts through."""
    same = [find_drift(filter(0.8, 0.3, seed=s), filter(0.8, 0.3, seed=s + 500), 0.05, FEW) for s in range(40)]
    worse = [find_drift(filter(0.8, 0.3, seed=s), filter(0.8, 0.45, seed=s + 500), 0.05, FEW) for s in range(40)]
    false, true = (sum(one is not None and one.worse for one in told) for told in (same, worse))
    assert false <= 3
    assert true >= 36


def test_files_that_hold_no_scores_are_told(filter: Filter) -> None:
    one, other = filter(0.8, 0.2, seed=0), filter(0.3, 0.7, seed=1)
    Path(other.scores_uri or "").write_text('{"images": 3}')
    with pytest.raises(DataError, match="holds no scores of a calibration"):
        find_drift(one, other, 0.05, FEW)
