"""What a sample says of the whole, before the whole is paid for: shares with intervals, and time."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from components.common.contracts import Contract, Interval
from components.common.progress import Progress
from components.common.resampling import Floats, IntervalConfig, bootstrap
from components.common.shares import share_interval


class Estimate(Contract):
    """A share of the whole as a sample has it."""

    value: float = Field(description="share in the sample")
    interval: Interval = Field(description="where that of the whole lies, with 95 % certainty")


class PilotResult(Contract):
    """What a pilot found."""

    images: int = Field(description="images that were drawn")
    of: int = Field(description="images of the whole")
    counted: bool = Field(description="whether those were counted; else reckoned by the sizes of the shards")
    shards: int = Field(description="shards that images were drawn from")
    threshold: float | None = Field(description="score from which texts are kept; null: a rule or a coin decides")
    kept: Estimate = Field(description="images with at least one kept text")
    pairs: int = Field(description="pairs that the whole would have")
    noise: dict[str, float] = Field(description="share of the texts that the filter rejects, by source")
    precision: Estimate | None = Field(
        default=None, description="kept texts that fit their image, where it can be said"
    )
    precision_by: str = Field(default="", description="what that is known by")
    images_per_second: float = Field(description="of all workers together, once the models are loaded")
    seconds: float = Field(description="that the whole would take, models loaded")
    requests: int | None = Field(default=None, description="requests to the captioner's server for the whole")
    tokens: int | None = Field(default=None, description="tokens that it would answer with")
    page: str = Field(description="page with figures and examples")


def kept_share(by_shard: Mapping[str, tuple[int, int]], *, all_shards: bool) -> Estimate:
    """The share of images that are kept.

    Args:
        by_shard: kept images and drawn images of each shard.
        all_shards: whether all shards were drawn from. If only some were, shards differ from one another by chance
            too: the interval is then that of so many fewer images as shards differ more than images alone would make
            them (the design effect, Kish 1965).
    """
    kept, drawn = (sum(one[part] for one in by_shard.values()) for part in (0, 1))
    share = kept / drawn
    fewer = 1.0 if all_shards else _design_effect(list(by_shard.values()), share)
    return Estimate(value=share, interval=share_interval(kept / fewer, max(1, round(drawn / fewer))))


def _design_effect(shards: Sequence[tuple[int, int]], share: float) -> float:
    used = [(kept, drawn) for kept, drawn in shards if drawn]
    if len(used) < 2 or share in (0.0, 1.0):
        return 1.0
    squares = sum(drawn * (kept / drawn - share) ** 2 for kept, drawn in used)
    return max(1.0, squares / ((len(used) - 1) * share * (1 - share)))


def counted_share(hits: int, trials: int) -> Estimate | None:
    """A share of things that were counted, of at most one per image; None where there are none."""
    return Estimate(value=hits / trials, interval=share_interval(hits, trials)) if trials else None


def human_precision(
    right: Sequence[Sequence[float]], wrong: Sequence[Sequence[float]], threshold: float, bad_share: float
) -> Estimate:
    """The purity of a filter on human captions (purity.py), with the interval of another choice of images.

    Args:
        right: deciding scores of each image's right texts.
        wrong: of its wrong ones.
        threshold: from which texts are kept.
        bad_share: share of wrong texts before filtering.
    """
    sums = np.array(
        [
            [len(good), sum(one >= threshold for one in good), len(bad), sum(one >= threshold for one in bad)]
            for good, bad in zip(right, wrong, strict=True)
        ],
        dtype=np.float64,
    )

    def purity(parts: Sequence[Floats]) -> Floats:
        (part,) = parts
        passed = (1 - bad_share) * part[..., 1] / np.maximum(part[..., 0], 1)
        leaks = bad_share * (part[..., 3] + 1) / (part[..., 2] + 1)
        return np.asarray((passed / (passed + leaks))[..., None])

    (interval,) = bootstrap(purity, [sums], IntervalConfig()).intervals(IntervalConfig().level)
    return Estimate(value=float(purity([sums.sum(0)])[0]), interval=interval)


class Watch(Progress):
    """Progress that remembers when how much was done."""

    def __init__(self, total: int, label: str) -> None:
        super().__init__(total, "images", label)
        self._marks = [(time.monotonic(), 0)]

    def update(self, done: int, **info: object) -> None:
        """As Progress has it."""
        if done > self._marks[-1][1]:
            self._marks.append((time.monotonic(), done))
        super().update(done, **info)

    @property
    def images_per_second(self) -> float:
        """Images a second behind the first batch, before which models are loaded; of one batch alone, with that."""
        (start, before), (end, done) = self._marks[min(1, max(0, len(self._marks) - 2))], self._marks[-1]
        return (done - before) / max(end - start, 1e-9)
