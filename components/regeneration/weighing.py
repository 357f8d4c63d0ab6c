"""ITM and ITC weighed into one probability, and how far what a filter says of texts is so.

The paper's filter decides by ITM alone. ITC's cosine says something of its own, and a match probability is seldom one:
a filter that is sure of everything says 0.99 of texts of which half are right. A logistic regression on human captions
mends both. Three numbers fitted to some thousand texts do not learn them by heart; even so, the scores that purity and
reliability are measured by come from regressions that have not seen the image (five folds).

Shapes: n texts, f features (the logit of ITM, the cosine, or both).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.contracts import ReliabilityBin, ScoreKind, ScoreWeights

Floats = npt.NDArray[np.float64]

FOLDS = 5
BINS = 10
_RIDGE = 1.0  # a text's worth of doubt in either weight, features in units of their deviation
_STEPS = 50


class ScoredText(NamedTuple):
    """A validation text and what the filter says of it: its first score (BLIP: ITM), and ITC's cosine if it has one."""

    text: str
    probability: float
    similarity: float | None = None

    def weighed(self, weights: ScoreWeights) -> float:
        """Both as one probability; `calibrated` is refused where there is no cosine."""
        return weights.probability(self.probability, self.similarity or 0.0)


class ScoredImage(NamedTuple):
    """A validation image: its own captions, and near ones of others."""

    key: str
    right: tuple[ScoredText, ...]
    wrong: tuple[ScoredText, ...]


def deciding_scores(
    images: Sequence[ScoredImage], kind: ScoreKind, given: ScoreWeights | None, bad_share: float
) -> tuple[list[list[float]], list[list[float]], ScoreWeights | None]:
    """What decides of each text, right ones and wrong ones by image, and the weights to use on others.

    Args:
        images: all validation images.
        kind: `itm`: the match probability as it is; else weighed.
        given: weights that are settled; None: they are fitted.
        bad_share: share of wrong texts that the probabilities reckon with.
    """
    if kind == "itm":
        return (
            [[one.probability for one in row.right] for row in images],
            [[one.probability for one in row.wrong] for row in images],
            None,
        )
    weights = given or fit(images, kind, bad_share)
    held_out = [given or _without(images, kind, fold, bad_share) or weights for fold in range(FOLDS)]
    right, wrong = (
        [_weighed(texts, held_out[number % FOLDS]) for number, texts in enumerate(side)]
        for side in ([row.right for row in images], [row.wrong for row in images])
    )
    return right, wrong, weights


def _weighed(texts: Sequence[ScoredText], weights: ScoreWeights) -> list[float]:
    return [one.weighed(weights) for one in texts]


def _without(images: Sequence[ScoredImage], kind: ScoreKind, fold: int, bad_share: float) -> ScoreWeights | None:
    """Weights of all images but a fold's; None if no right or no wrong text is left."""
    rest = [row for number, row in enumerate(images) if number % FOLDS != fold]
    return fit(rest, kind, bad_share) if any(row.right for row in rest) and any(row.wrong for row in rest) else None


def fit(images: Sequence[ScoredImage], kind: ScoreKind, bad_share: float) -> ScoreWeights:
    """The regularised logistic regression of right against wrong texts, the wrong ones together weighing `bad_share`.

    A score that comes out against the texts it is high for is left out: that is noise of few images, and turned round
    it would keep what fits worst. Both weights are 0 where none is left (calibration.settle refuses them).

    Args:
        images: with one right and one wrong text at least.
        kind: `itc`: of the cosine alone; `both`: of it and the logit of ITM.
        bad_share: between 0 and 1.
    """
    sides = [[one for row in images for one in row.right], [one for row in images for one in row.wrong]]
    rows = np.array([_features(one) for side in sides for one in side])
    right = np.repeat([1.0, 0.0], [len(side) for side in sides])
    share = np.where(right == 1, (1 - bad_share) / len(sides[0]), bad_share / len(sides[1])) * len(right)
    used = [1] if kind == "itc" else [0, 1]
    slopes, bias = _weights(rows[:, used], right, share)
    while used and slopes.min() < 0:
        del used[int(slopes.argmin())]
        slopes, bias = _weights(rows[:, used], right, share)
    found = dict(zip(used, slopes.tolist(), strict=True))
    return ScoreWeights(itm=found.get(0, 0.0), itc=found.get(1, 0.0), bias=bias)


def _weights(features: Floats, right: Floats, share: Floats) -> tuple[Floats, float]:
    """Slopes `[f]` and bias for features `[n, f]` as they are, found in units of their deviation."""
    middle, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    found = _logistic((features - middle) / spread, right, share)
    slopes = found[:-1] / spread
    return slopes, float(found[-1] - slopes @ middle)


def _features(one: ScoredText) -> tuple[float, float]:
    match = min(max(one.probability, 1e-6), 1 - 1e-6)
    return float(np.log(match / (1 - match))), one.similarity or 0.0


def _logistic(features: Floats, right: Floats, share: Floats) -> Floats:
    """Slopes and bias `[f + 1]` by Newton's method, halving steps that overshoot; features `[n, f]`, the rest `[n]`."""
    design = np.column_stack([features, np.ones(len(features))])
    ridge = np.array([_RIDGE] * features.shape[1] + [1e-6])

    def loss(weights: Floats) -> float:
        logits = design @ weights
        return float(share @ (np.logaddexp(0, logits) - right * logits) + ridge @ weights**2 / 2)

    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        said = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        slope = design.T @ (share * (said - right)) + ridge * weights
        bend = design.T @ (design * (share * said * (1 - said))[:, None]) + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def reliability(
    right: Sequence[float], wrong: Sequence[float], bad_share: float
) -> tuple[tuple[ReliabilityBin, ...], float]:
    """What is said of texts against what is so, in ten steps of what is said, and the mean distance of the two.

    Args:
        right: scores of right texts, 0 to 1, at least one.
        wrong: scores of wrong ones, at least one.
        bad_share: share of wrong texts before filtering.
    """
    said = np.array([*right, *wrong])
    is_right = np.repeat([1.0, 0.0], [len(right), len(wrong)])
    share = np.where(is_right == 1, (1 - bad_share) / len(right), bad_share / len(wrong))
    place = np.clip((said * BINS).astype(int), 0, BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        here = place == number
        if not here.any():
            continue
        weight = share[here].sum()
        mean, truth = float(share[here] @ said[here] / weight), float(share[here] @ is_right[here] / weight)
        bins.append(ReliabilityBin(said=mean, right=truth, texts=int(here.sum())))
        error += float(weight) * abs(mean - truth)
    return tuple(bins), error
