"""Whether a filter judges as the one of the round before did."""

from components.common.contracts import Calibration, Drift, PurityPoint


def find_drift(before: Calibration | None, after: Calibration, limit: float) -> Drift | None:
    """How purity and yield moved at the threshold that was in use before.

    Both filters are compared at the same threshold: one that was chosen for a target hides a drift by moving with it.

    Args:
        before: the filter of the round before; None: there was none.
        after: the filter of this round.
        limit: change of purity or yield up to which there is nothing to tell.
    """
    if before is None:
        return None
    old, new = _point(before, before.chosen.threshold), _point(after, before.chosen.threshold)
    purity, yields = new.purity - old.purity, new.yield_share - old.yield_share
    if max(abs(purity), abs(yields)) <= limit:
        return None
    moved = (
        f"at threshold {old.threshold:g} the filter's {_went('purity', old.purity, new.purity)} and its "
        f"{_went('yield', old.yield_share, new.yield_share)} since the round before"
    )
    return Drift(worse=min(purity, yields) < -limit, text=f"{moved}: {_meaning(purity, yields, limit)}")


def _point(calibration: Calibration, threshold: float) -> PurityPoint:
    """The last kept point of a curve up to a threshold: the same place in every curve."""
    return next(point for point in reversed(calibration.curve) if point.threshold <= threshold)


def _went(name: str, before: float, after: float) -> str:
    return f"{name} went from {before * 100:.1f} % to {after * 100:.1f} %"


def _meaning(purity: float, yields: float, limit: float) -> str:
    """What such a drift usually means."""
    if purity < -limit:
        return (
            "it lets more wrong texts through. Usually the model it was finetuned from has learnt from wrong texts "
            "that were kept, or its training ended early: look at its losses and examples before using what it keeps"
        )
    if yields < -limit:
        return (
            "it is stricter and loses right texts. Usually its scores have shifted as a whole: with a "
            "capfilt.target_precision the threshold moves with them, and shares of rejected texts do not compare"
        )
    return "it has become better; shares of rejected texts do not compare with those of the round before"
