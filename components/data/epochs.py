"""The order of an epoch: a pure function of seed and epoch, the same for any number of processes.

Shards are shuffled, then taken a few at a time (a window), and the pairs of a window are permuted together: nearly
uniform shuffling while only a window's shards are open. Process r of w takes every w-th stretch of this one sequence,
so a run can stop and go on with another w and neither repeats nor skips a pair.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from components.common.seeding import key_seed

Numbers = NDArray[np.int64]


class EpochPlan:
    """One epoch over numbered shards.

    Args:
        sizes: pairs per shard.
        seed: of the training.
        epoch: counted from 0.
        shuffle_shards: shards per window.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int, epoch: int, shuffle_shards: int) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._seed, self._epoch = seed, epoch
        order = self._rng("shards").permutation(np.flatnonzero(self._sizes))
        self.windows: list[Numbers] = [order[at : at + shuffle_shards] for at in range(0, len(order), shuffle_shards)]
        self._ends = np.cumsum([int(self._sizes[window].sum()) for window in self.windows])
        self._permuted: tuple[int, Numbers] | None = None

    @property
    def total(self) -> int:
        """Pairs in the epoch."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def stretch(self, start: int, count: int) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Positions `[start, start + count)` of the epoch, cut at its end.

        Yields:
            Per window it touches: window number, shard numbers and pair numbers within those shards, in order.
        """
        stop = min(start + count, self.total)
        while start < stop:
            window = int(np.searchsorted(self._ends, start, side="right"))
            first = int(self._ends[window - 1]) if window else 0
            end = min(stop, int(self._ends[window]))
            chosen = self._order(window)[start - first : end - first]
            shards = self.windows[window]
            ends = np.cumsum(self._sizes[shards])
            at = np.searchsorted(ends, chosen, side="right")
            yield window, shards[at], chosen - (ends[at] - self._sizes[shards[at]])
            start = end

    def _order(self, window: int) -> Numbers:
        """The permutation of a window's pairs; the last one asked for is kept."""
        if self._permuted is None or self._permuted[0] != window:
            count = int(self._sizes[self.windows[window]].sum())
            self._permuted = (window, self._rng(f"window-{window}").permutation(count))
        return self._permuted[1]

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(key_seed("epoch", self._seed, self._epoch, purpose)))
