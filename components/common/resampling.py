"""How far a figure could be off by the choice of images: a bootstrap over images, each with all that is of it.

Intervals are BCa: corrected for bias and skewness (Efron 1987, as scipy.stats.bootstrap has it). They speak of the
images alone: another seed of the training varies besides. On a hundred images and more they are right as often as they
say, within 2 %; on sixty, 95 % of a skewed figure are 93 %. A share of 0 or 1 on every image has an interval of no
width, which says nothing.

Shapes: N images, R resamples, s sums, m figures.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from components.common.contracts import Interval

Floats = npt.NDArray[np.float64]

_DRAWS = 1 << 20  # images drawn at a time, 8 MiB
_NORMAL = NormalDist()


class IntervalConfig(BaseModel):
    """How intervals are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resamples: int = Field(default=2000, ge=100, description="times the images are drawn anew")
    level: float = Field(
        default=0.95, gt=0.5, lt=1, description="share of splits of images that an interval should be right for"
    )
    seed: int = Field(default=0, ge=0, description="seed of the draws: the same measurements give the same intervals")


class Spread(NamedTuple):
    """A statistic on all images `[m]`, on resamples of them `[R, m]`, and with one left out `[N, m]`."""

    value: Floats
    resampled: Floats
    left_out: Floats

    def intervals(self, level: float) -> list[Interval]:
        """One per metric."""
        columns = zip(self.value, self.resampled.T, self.left_out.T, strict=True)
        return [bca(float(value), resampled, left_out, level) for value, resampled, left_out in columns]


def bootstrap(
    statistic: Callable[[Sequence[Floats]], Floats], rows: Sequence[Floats], config: IntervalConfig
) -> Spread:
    """Resample images.

    Args:
        statistic: sums over images, of each of the rows `[…, s]`, to metrics `[…, m]`.
        rows: what is added up, `[N, s]` each, the same images in the same order.
        config: how often, and by which seed.
    """
    total = [part.sum(0) for part in rows]
    resampled = [statistic([weights @ part for part in rows]) for weights in _weights(len(rows[0]), config)]
    left_out = statistic([whole - part for whole, part in zip(total, rows, strict=True)])
    return Spread(statistic(total), np.concatenate(resampled), left_out)


def _weights(images: int, config: IntervalConfig) -> Iterator[Floats]:
    """How often each image is drawn in each resample, `[some of R, N]` at a time."""
    rng, size = np.random.default_rng(config.seed), max(1, _DRAWS // images)
    for start in range(0, config.resamples, size):
        count = min(size, config.resamples - start)
        drawn = rng.integers(images, size=(count, images)) + np.arange(count)[:, None] * images
        yield np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)


def bca(value: float, resampled: Floats, left_out: Floats, level: float) -> Interval:
    """The interval of a statistic: quantiles of its resamples, moved by their bias and their skewness.

    Args:
        value: on all images.
        resampled: on R resamples of them, `[R]`.
        left_out: on all but one, `[N]`.
        level: share of test splits that the interval should be right for.
    """
    below = float(np.mean(resampled < value) + np.mean(resampled <= value)) / 2
    edge = 0.5 / len(resampled)
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    spread = left_out.mean() - left_out
    squares = float((spread**2).sum())
    acceleration = float((spread**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0

    def moved(share: float) -> float:
        shifted = bias + _NORMAL.inv_cdf(share)
        return _NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9))

    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [moved(tail), moved(1 - tail)])
    return Interval(low=float(low), high=float(high))
