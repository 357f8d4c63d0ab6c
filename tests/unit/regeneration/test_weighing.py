"""ITM and ITC weighed: against scipy's minimum, on scores made by a known rule, and by how reliable the result is."""

import numpy as np
import pytest
from pydantic import ValidationError

from components.common.contracts import ScoreWeights
from components.regeneration.config import CapfiltConfig
from components.regeneration.policy import Text, decide, passes, weigh, with_weights
from components.regeneration.weighing import ScoredImage, ScoredText, deciding_scores, fit, reliability

optimize = pytest.importorskip("scipy.optimize")


def some_images(seed: int = 0, images: int = 200, wrong: int = 3) -> list[ScoredImage]:
    """A filter whose match probabilities are too sure by far, and whose cosines know more."""
    rng = np.random.default_rng(seed)

    def text(number: int, right: bool) -> ScoredText:
        knows, cosine = rng.normal(0.8 if right else -0.8), rng.normal(0.30 if right else 0.16, 0.08)
        return ScoredText(f"text {number}", float(1 / (1 + np.exp(-4 * knows))), float(cosine))

    return [
        ScoredImage(f"{image:03d}", tuple(text(k, True) for k in range(2)), tuple(text(k, False) for k in range(wrong)))
        for image in range(images)
    ]


def objective(images: list[ScoredImage], kind: str, bad: float):
    """The loss as it is documented: ridge in units of each feature's deviation, wrong texts weighing `bad`."""
    texts = [(one, 1) for row in images for one in row.right] + [(one, 0) for row in images for one in row.wrong]
    match = np.clip([one.probability for one, _ in texts], 1e-6, 1 - 1e-6)  # scores have six digits
    logits = np.log(match / (1 - match))
    cosines = np.array([one.similarity for one, _ in texts])
    y = np.array([label for _, label in texts])
    share = np.where(y == 1, (1 - bad) / y.sum(), bad / (1 - y).sum()) * len(y)

    def loss(found):
        itm, itc, bias = (0.0, *found) if kind == "itc" else found
        z = itm * logits + itc * cosines + bias
        ridge = ((itm * logits.std()) ** 2 + (itc * cosines.std()) ** 2) / 2
        return float((share * (np.log1p(np.exp(z)) - y * z)).sum() + ridge)

    return loss


@pytest.mark.parametrize("kind", ["both", "itc"])
@pytest.mark.parametrize("bad", [0.5, 0.8])
def test_the_weights_are_at_scipys_minimum(kind: str, bad: float) -> None:
    images = some_images(images=60)
    found = fit(images, kind, bad)
    loss = objective(images, kind, bad)
    start = np.zeros(2 if kind == "itc" else 3)
    best = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 9999})
    ours = [found.itc, found.bias] if kind == "itc" else [found.itm, found.itc, found.bias]
    assert ours == pytest.approx(best.x, abs=2e-3)
    assert loss(ours) <= best.fun + 1e-4
    assert found.itm == 0 or kind == "both"


def test_both_together_tell_more_than_either_and_what_they_say_is_so() -> None:
    """The error of the scores as they are, and of those weighed by regressions that have not seen the image."""
    images = some_images(images=1000)

    def measured(kind: str) -> tuple[float, float]:
        right, wrong, _ = deciding_scores(images, kind, None, 0.5)
        flat = [[one for row in side for one in row] for side in (right, wrong)]
        ranks = np.argsort(np.argsort(np.concatenate(flat)))
        count = len(flat[0])
        area = (ranks[:count].sum() - count * (count - 1) / 2) / (count * len(flat[1]))
        return float(area), reliability(*flat, 0.5)[1]

    (itm, unsure), (itc, _), (both, error) = map(measured, ("itm", "itc", "both"))
    assert both > max(itm, itc) + 0.02
    assert error < 0.02 < 0.05 < unsure


def test_scores_are_of_regressions_that_have_not_seen_the_image() -> None:
    images = some_images(images=20)
    right, wrong, weights = deciding_scores(images, "both", None, 0.5)
    assert weights == fit(images, "both", 0.5)
    for number, row in enumerate(images):
        rest = [one for place, one in enumerate(images) if place % 5 != number % 5]
        own = fit(rest, "both", 0.5)
        assert right[number] == [own.probability(one.probability, one.similarity) for one in row.right]
        assert wrong[number] == [own.probability(one.probability, one.similarity) for one in row.wrong]


def test_weights_that_are_given_are_used_and_itm_alone_is_left_as_it_is() -> None:
    images = some_images(images=10)
    given = ScoreWeights(itm=1.0, itc=0.0, bias=0.0)
    right, wrong, weights = deciding_scores(images, "both", given, 0.5)
    plain_right, plain_wrong, none = deciding_scores(images, "itm", None, 0.5)
    assert (weights, none) == (given, None)
    for side, plain in ((right, plain_right), (wrong, plain_wrong)):
        for row, as_it_is in zip(side, plain, strict=True):
            assert row == pytest.approx(as_it_is, abs=2e-6)


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_a_filter_that_is_sure_of_everything_has_weights_too(sure: float) -> None:
    one = ScoredImage("a", (ScoredText("x", sure, 0.5),), (ScoredText("y", sure, 0.5),))
    found = fit([one, one], "both", 0.5)
    assert found.probability(sure, 0.5) == pytest.approx(0.5, abs=1e-3)


def with_cosines(images: list[ScoredImage], factor: float) -> list[ScoredImage]:
    """The same with other cosines: 0 says nothing, -1 the opposite, as of texts that were chosen for theirs."""

    def side(texts: tuple[ScoredText, ...]) -> tuple[ScoredText, ...]:
        return tuple(one._replace(similarity=factor * (one.similarity or 0)) for one in texts)

    return [row._replace(right=side(row.right), wrong=side(row.wrong)) for row in images]


def test_a_score_is_never_turned_round() -> None:
    images = some_images()
    lost = fit(with_cosines(images, -1), "itc", 0.5)
    assert (lost.itm, lost.itc) == (0, 0)
    found, alone = (fit(with_cosines(images, factor), "both", 0.5) for factor in (-1, 0))
    assert (found.itm, found.itc, found.bias) == pytest.approx((alone.itm, 0.0, alone.bias))
    assert found.itm > 0


def test_reliability_counts_texts_by_what_is_said() -> None:
    bins, error = reliability([0.95, 0.95, 0.15], [0.91, 0.12, 0.14, 0.19], 0.5)
    low, high = bins
    assert (low.texts, high.texts) == (4, 3)
    # right texts weigh 1/6 each, wrong ones 1/8: (1/6) / (1/6 + 3/8) and (2/6) / (2/6 + 1/8)
    assert low.right == pytest.approx((1 / 6) / (1 / 6 + 3 / 8))
    assert high.right == pytest.approx((2 / 6) / (2 / 6 + 1 / 8))
    weights = (1 / 6 + 3 / 8, 2 / 6 + 1 / 8)
    expected = sum(weight * abs(one.said - one.right) for weight, one in zip(weights, bins, strict=True))
    assert error == pytest.approx(expected)
    assert reliability([1.0], [0.0], 0.5)[1] == 0


WEIGHTS = ScoreWeights(itm=0.0, itc=10.0, bias=-2.0)


def test_the_weighed_score_decides_in_every_policy() -> None:
    texts = [
        Text("web", "a dog", probability=0.99, similarity=0.1),
        Text("synthetic", "a cat", probability=0.01, similarity=0.4),
        Text("synthetic", "", problem="empty_text"),
    ]
    assert passes(texts, 0.5) == [True, False, False]
    weighed = with_weights(texts, WEIGHTS)
    assert passes(weighed, 0.5) == [False, True, False]
    kept = [one.kept for one in decide(weighed, "best_of", passes(weighed, 0.2))]
    assert kept == [False, True, False]
    assert weigh(0.5, 0.3, None) is None
    assert with_weights(texts, None) == texts


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weights": WEIGHTS}, "set calibrated to both"),
        ({"calibrated": "both", "coin": 0.5}, "calibrated and coin both say"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        CapfiltConfig.model_validate(settings)
