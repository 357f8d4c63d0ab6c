"""Whether a filter judges otherwise than the one of the round before did, by more than noise.

Both are compared at the same threshold, image by image, on the texts that both have judged: all right ones, and of the
wrong ones those that both were given. (Each filter is measured on captions of the images that look alike to itself; the
better it knows what looks alike, the harder they are, so purities of different rounds do not compare.)

A change is told where it is larger than the config asks for and its interval leaves 0 out. It is for the worse, and
warned of, where purity or yield falls so and the other does not rise so: where one rises as the other falls, scores
have shifted along the filter's curve, which says nothing against it.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from components.common.contracts import Calibration, Drift, Interval, ScoreWeights
from components.common.errors import DataError
from components.common.resampling import Floats, IntervalConfig, bootstrap
from components.common.storage import open_store, split_uri
from components.regeneration.weighing import ScoredImage, ScoredText

_IMAGES = TypeAdapter(list[ScoredImage])


class _Move(NamedTuple):
    """Purity or yield of both filters, and the interval of the difference."""

    before: float
    after: float
    interval: Interval

    def told(self, limit: float) -> int:
        """1 or -1: it rises or falls by more than the limit and beyond noise; 0: neither."""
        moved = self.after - self.before
        return 0 if abs(moved) <= limit or not self.interval.beyond_noise else 1 if moved > 0 else -1

    def __str__(self) -> str:
        ends = f"{self.interval.low * 100:+.1f} to {self.interval.high * 100:+.1f} points"
        return f"from {self.before * 100:.1f} % to {self.after * 100:.1f} % ({ends})"


def find_drift(before: Calibration | None, after: Calibration, limit: float, intervals: IntervalConfig) -> Drift | None:
    """How purity and yield moved at the threshold that was in use before, if that is more than noise.

    A threshold that was chosen for a target would hide a drift by moving with it.

    Args:
        before: the filter of the round before; None: there was none.
        after: the filter of this round.
        limit: change of purity or yield up to which there is nothing to tell.
        intervals: how noise is reckoned.

    Raises:
        StorageError: the scores of either are gone.
        DataError: they are no scores.
    """
    if before is None or before.scores_uri is None or after.scores_uri is None or before.human != after.human:
        return None
    common = _common(stored_scores(before.scores_uri), stored_scores(after.scores_uri))
    if len(common) < 2:
        return None
    threshold = before.chosen.threshold
    purity, yields = _moves(_sums(common, threshold, before.weights, after.weights), before.bad_share, intervals)
    signs = purity.told(limit), yields.told(limit)
    if signs == (0, 0):
        return None
    text = (
        f"at threshold {threshold:g}, on texts that both have judged, the filter's purity went {purity} and its yield "
        f"{yields} since the round before: {_meaning(*signs)}"
    )
    return Drift(worse=min(signs) < 0 and max(signs) <= 0, text=text)


def stored_scores(uri: str) -> list[ScoredImage]:
    """The scores of all texts that a calibration has kept (`Calibration.scores_uri`).

    Raises:
        DataError: they are gone, or cannot be read.
    """
    folder, name = split_uri(uri)
    try:
        return _IMAGES.validate_python(json.loads(open_store(folder).read(name))["images"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{uri} holds no scores of a calibration ({error}); calibrate the filter again") from error


_Pair = tuple[list[tuple[ScoredText, ScoredText]], list[tuple[ScoredText, ScoredText]]]


def _common(before: Sequence[ScoredImage], after: Sequence[ScoredImage]) -> list[_Pair]:
    """Per image that both have, right and wrong texts that both have judged, each with both verdicts."""
    later = {row.key: row for row in after}
    return [
        (_matched(row.right, later[row.key].right), _matched(row.wrong, later[row.key].wrong))
        for row in before
        if row.key in later
    ]


def _matched(before: Sequence[ScoredText], after: Sequence[ScoredText]) -> list[tuple[ScoredText, ScoredText]]:
    later = {one.text: one for one in after}
    return [(one, later[one.text]) for one in before if one.text in later]


def _sums(common: Sequence[_Pair], threshold: float, before: ScoreWeights | None, after: ScoreWeights | None) -> Floats:
    """Per image `[N, 6]`: right texts, and those that pass before and after; the same of wrong ones."""

    def passed(one: ScoredText, weights: ScoreWeights | None) -> bool:
        score = one.probability if weights is None else one.weighed(weights)
        return score >= threshold

    return np.array(
        [
            [
                count
                for side in pair
                for count in (
                    len(side),
                    sum(passed(old, before) for old, _ in side),
                    sum(passed(new, after) for _, new in side),
                )
            ]
            for pair in common
        ],
        dtype=np.float64,
    )


def _moves(sums: Floats, bad_share: float, intervals: IntervalConfig) -> tuple[_Move, _Move]:
    """Of purity and of yield."""

    def figures(parts: Sequence[Floats]) -> Floats:
        """Sums `[…, 6]` to purity before, after, yield before, after `[…, 4]`; see purity.py for the formulas."""
        (part,) = parts
        rights, wrongs = np.maximum(part[..., 0], 1), part[..., 3]
        passed = part[..., 1:3] / rights[..., None]
        leak = (part[..., 4:6] + 1) / (wrongs[..., None] + 1)
        purity = (1 - bad_share) * passed / ((1 - bad_share) * passed + bad_share * leak)
        return np.concatenate([purity, passed], axis=-1)

    def differences(parts: Sequence[Floats]) -> Floats:
        found = figures(parts)
        return found[..., 1::2] - found[..., ::2]

    both = 1 - (1 - intervals.level) / 2  # two figures are looked at: either may leave 0 out by chance
    ends = bootstrap(differences, [sums], intervals).intervals(both)
    whole = figures([sums.sum(0)]).tolist()
    return _Move(whole[0], whole[1], ends[0]), _Move(whole[2], whole[3], ends[1])


def _meaning(purity: int, yields: int) -> str:
    """What such a drift usually means."""
    if purity * yields < 0:
        return (
            f"its scores have shifted as a whole, so that it is {'stricter' if yields < 0 else 'more lenient'}, not "
            "worse: with a capfilt.target_precision the threshold moves with them; shares of rejected texts do not "
            "compare"
        )
    if purity < 0:
        how = "tells right texts from wrong ones less well" if yields < 0 else "lets more wrong texts through"
        return (
            f"it {how}. Usually the model it was finetuned from has learnt from wrong texts that were kept, or its "
            "training ended early: look at its losses and examples before using what it keeps"
        )
    if yields < 0:
        return (
            "it loses right texts and is no purer for it: look at its losses, or choose the threshold by "
            "capfilt.target_precision"
        )
    return "it has become better; shares of rejected texts do not compare with those of the round before"
