"""How clean a filter's selection is at any threshold, from the scores of texts that fit and of texts that do not.

At threshold t a text passes if its match probability is at least t. Of P right texts the share

    yield(t) = #{right scores >= t} / P

passes; of N wrong texts the share that passes is estimated as

    leak(t) = (#{wrong scores >= t} + 1) / (N + 1).

Among texts of which a share b is wrong before filtering, the share of right ones behind the filter is, by Bayes,

    purity(t) = (1 - b) yield(t) / ((1 - b) yield(t) + b leak(t)).

The two ones in leak(t) are those of Phipson and Smyth, "Permutation P-values should never be zero" (2010): N wrong
texts cannot show that fewer than one in N + 1 passes. Without them the highest threshold of all, which lets a single
right text through, would claim purity 1 of any filter. They vanish as N grows.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from components.common.contracts import PurityPoint

Scores = npt.NDArray[np.float64]

GRID = (*(step / 100 for step in range(100)), 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999, 1.0)
"""Thresholds at which every filter's curve is kept: finer at the top, where the scores of a sure filter lie."""


_ROUNDING = 1e-12  # a purity of exactly the target must not miss it by a last digit


class PurityCurve:
    """Purity and yield of a filter over thresholds.

    Args:
        right: match probabilities of P texts with images that they fit, at least one.
        wrong: match probabilities of N texts with images that they do not fit, at least one.
        bad_share: share b of wrong texts before filtering, between 0 and 1.
    """

    def __init__(self, right: Sequence[float], wrong: Sequence[float], bad_share: float = 0.5) -> None:
        self.right: Scores = np.sort(np.asarray(right, dtype=np.float64))
        self.wrong: Scores = np.sort(np.asarray(wrong, dtype=np.float64))
        self.bad_share = bad_share

    def at(self, threshold: float) -> PurityPoint:
        """The point of one threshold; where no right text passes, purity is 0."""
        return self.points([threshold])[0]

    def points(self, thresholds: Sequence[float] | Scores) -> list[PurityPoint]:
        """The points of several thresholds."""
        purity, passed = self._figures(np.asarray(thresholds, dtype=np.float64))
        rows = zip(thresholds, purity.tolist(), passed.tolist(), strict=True)
        return [PurityPoint(threshold=float(t), purity=p, yield_share=y) for t, p, y in rows]

    def least(self, target: float) -> PurityPoint | None:
        """The smallest threshold whose purity reaches the target, so the one of the highest yield; None: none does."""
        thresholds = self._thresholds()
        purity, _ = self._figures(thresholds)
        reaching = thresholds[purity >= target - _ROUNDING]
        return self.at(float(reaching[0])) if len(reaching) else None

    def purest(self) -> PurityPoint:
        """The threshold of the highest purity, the smallest of equals."""
        thresholds = self._thresholds()
        purity, _ = self._figures(thresholds)
        return self.at(float(thresholds[purity.argmax()]))

    def _thresholds(self) -> Scores:
        """0, and every score: between two neighbouring scores nothing changes."""
        return np.unique(np.concatenate([[0.0], self.right, self.wrong]))

    def _figures(self, thresholds: Scores) -> tuple[Scores, Scores]:
        """Purity and yield [T] at thresholds [T]."""
        yields = _at_least(self.right, thresholds) / len(self.right)
        leaks = (_at_least(self.wrong, thresholds) + 1) / (len(self.wrong) + 1)
        good, bad = (1 - self.bad_share) * yields, self.bad_share * leaks
        return good / (good + bad), yields


def _at_least(scores: Scores, thresholds: Scores) -> Scores:
    """How many of the sorted scores [N] reach each threshold [T]."""
    return (len(scores) - np.searchsorted(scores, thresholds, side="left")).astype(np.float64)
