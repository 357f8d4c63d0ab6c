"""How sure a share is that was counted on a sample: exact intervals of a binomial share (Clopper and Pearson 1934)."""

import math

import numpy as np

from components.common.contracts import Interval

LEVEL = 0.95
_HALVINGS = 50


def share_interval(hits: float, trials: int, level: float = LEVEL) -> Interval:
    """The shares under which a count like this one is not too rare, at either side by half of what `level` leaves.

    Args:
        hits: how many of the trials; where a trial may count in part, the sum. Then the interval is a wide one: a
            number between 0 and 1 varies at most as much as a coin of its mean.
        trials: how many were looked at, independently of one another; of none nothing is known.
        level: how often such intervals hold the share, at least.
    """
    rare = (1 - level) / 2
    return Interval(low=at_least(hits, trials, rare), high=at_most(hits, trials, rare))


def at_most(hits: float, trials: int, rare: float = 1 - LEVEL) -> float:
    """The largest share under which so few hits are not rarer than `rare`."""
    count = math.ceil(hits)
    return 1.0 if count >= trials else _crossing(count, trials, rare)


def at_least(hits: float, trials: int, rare: float = 1 - LEVEL) -> float:
    """The smallest share under which so many hits are not rarer than `rare`."""
    count = math.floor(hits)
    return 0.0 if count <= 0 or not trials else 1 - at_most(trials - count, trials, rare)


def _crossing(count: int, trials: int, rare: float) -> float:
    """The share at which P(at most `count` hits) is `rare`: it falls as the share rises."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(count, trials, middle) > rare else (low, middle)
    return high


def _tail(count: int, trials: int, share: float) -> float:
    """P(at most `count` of `trials`)."""
    if share in (0.0, 1.0):
        return float(share == 0.0)
    counts = np.arange(count + 1)
    steps = np.log((trials - counts[:-1]) / counts[1:]) if count else np.empty(0)  # from one binomial to the next
    ways = np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.exp(ways + counts * math.log(share) + (trials - counts) * math.log1p(-share)).sum())
