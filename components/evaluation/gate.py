"""Whether a new model takes the champion's place, with the reasons in words.

A mean of gains hides a loss, and the size of a gain says nothing of its certainty. So each metric speaks for itself:
one has to rise by more than the choice of test images explains, and none may fall.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.common.contracts import Comparison
from components.common.metrics import metric
from components.evaluation.config import GateConfig


@dataclass(frozen=True)
class GateDecision:
    """Promote or not, and why, one sentence per metric."""

    promote: bool
    reasons: tuple[str, ...]


def faults(measured: Mapping[str, float], config: GateConfig) -> tuple[str, ...]:
    """Why a model can be no champion, whatever the others are: figures that are missing, not finite, below a floor."""
    return (*_broken(measured, config), *_below(measured, config))


def weigh(comparisons: Sequence[Comparison], config: GateConfig) -> GateDecision:
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
    broken = [f"{_named(one)} is not finite" for one in comparisons if not _finite(one)]
    if broken or not comparisons:
        return GateDecision(False, tuple(broken) or ("no metric was compared",))
    risen = [_named(one) for one in comparisons if one.interval.low > config.min_gain * abs(one.before)]
    losses = [loss for one in comparisons if (loss := _loss(one, config)) is not None]
    needed = f" by more than {config.min_gain:.1%}" if config.min_gain else ""
    verdict = f"better beyond noise{needed}: {', '.join(risen) or 'nothing'}"
    return GateDecision(bool(risen) and not losses, (*map(_line, comparisons), verdict, *losses))


def _broken(measured: Mapping[str, float], config: GateConfig) -> list[str]:
    names = dict.fromkeys([*config.metrics, *config.floors])
    missing = [f"{metric(name).in_words} was not measured" for name in names if name not in measured]
    return missing + [
        f"{metric(name).in_words} is {measured[name]}" for name in names if not math.isfinite(measured.get(name, 0))
    ]


def _below(measured: Mapping[str, float], config: GateConfig) -> list[str]:
    return [
        f"{metric(name).in_words} is {measured[name]:.4f}, below its floor of {floor:.4f}"
        for name, floor in config.floors.items()
        if name in measured and measured[name] < floor
    ]


def _named(one: Comparison) -> str:
    return metric(one.metric).in_words


def _finite(one: Comparison) -> bool:
    return all(math.isfinite(value) for value in (one.before, one.after, one.interval.low, one.interval.high))


def _loss(one: Comparison, config: GateConfig) -> str | None:
    """Why a metric counts as lost, if it does."""
    allowed = -config.max_loss * abs(one.before)
    if one.interval.high < 0:
        return f"{_named(one)} is worse beyond noise"
    if one.difference < allowed:
        return f"{_named(one)} falls by more than {config.max_loss:.1%}"
    if config.sure_of_no_loss and one.interval.low < allowed:
        return f"{_named(one)} may have fallen by more than {config.max_loss:.1%}: more test images would tell"
    return None


def _line(one: Comparison) -> str:
    interval = f"{one.interval.low:+.4f} to {one.interval.high:+.4f}"
    return f"{_named(one)} {one.before:.4f} -> {one.after:.4f} ({one.difference:+.4f}, {interval}: {one.verdict})"
