"""Whether a change is more than noise, and for the better: what the gate asks of two rounds, in words.

A mean of gains hides a loss, and the size of a gain says nothing of its certainty. So each metric speaks for itself:
one has to rise by more than the choice of test images explains, and none may fall.
"""

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from components.evaluation.gate import GateDecision
from components.evaluation.intervals import Comparison


class EvidenceConfig(BaseModel):
    """How far beyond noise a model must be better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_gain: float = Field(
        default=0.0,
        ge=0,
        description="relative gain that the lower end of the interval must exceed in one of the metrics; 0: any gain "
        "beyond noise",
    )
    max_loss: float = Field(
        default=0.02, ge=0, description="relative loss allowed in a single metric while it is within noise"
    )
    sure_of_no_loss: bool = Field(
        default=False,
        description="ask for certainty: no interval may reach below max_loss, so that metrics that the test images "
        "measure too coarsely refuse too",
    )


def weigh(comparisons: Sequence[Comparison], config: EvidenceConfig) -> GateDecision:
    """Promote if one metric rises beyond noise and none falls.

    A metric falls if its whole interval lies below 0, however little; if it is lower by more than `max_loss`; or, where
    `sure_of_no_loss` is set, if it could be.

    Args:
        comparisons: the metrics that decide, the champion before and the candidate after; higher is better.
        config: how far beyond noise.

    Returns:
        The decision, with a sentence per metric and one that sums up. Without metrics, or with one that is not finite:
        no promotion.
    """
    broken = [f"{one.metric} is not finite" for one in comparisons if not _finite(one)]
    if broken or not comparisons:
        return GateDecision(False, tuple(broken) or ("no metric was compared",))
    risen = [one.metric for one in comparisons if one.interval.low > config.min_gain * abs(one.before)]
    losses = [loss for one in comparisons if (loss := _loss(one, config)) is not None]
    needed = f" by more than {config.min_gain:.1%}" if config.min_gain else ""
    verdict = f"better beyond noise{needed}: {', '.join(risen) or 'nothing'}"
    return GateDecision(bool(risen) and not losses, (*map(_line, comparisons), verdict, *losses))


def _finite(one: Comparison) -> bool:
    return all(math.isfinite(value) for value in (one.before, one.after, one.interval.low, one.interval.high))


def _loss(one: Comparison, config: EvidenceConfig) -> str | None:
    """Why a metric counts as lost, if it does."""
    allowed = -config.max_loss * abs(one.before)
    if one.interval.high < 0:
        return f"{one.metric} is worse beyond noise"
    if one.difference < allowed:
        return f"{one.metric} falls by more than {config.max_loss:.1%}"
    if config.sure_of_no_loss and one.interval.low < allowed:
        return f"{one.metric} may have fallen by more than {config.max_loss:.1%}: more test images would tell"
    return None


def _line(one: Comparison) -> str:
    interval = f"{one.interval.low:+.4f} to {one.interval.high:+.4f}"
    return f"{one.metric} {one.before:.4f} -> {one.after:.4f} ({one.difference:+.4f}, {interval}: {one.verdict})"
