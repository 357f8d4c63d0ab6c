"""Whether a new model takes the champion's place: a pure decision over metrics, with its reasons in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from components.common.metrics import metric
from components.evaluation.config import GateConfig


@dataclass(frozen=True)
class GateDecision:
    """Promote or not, and why, one sentence per metric."""

    promote: bool
    reasons: tuple[str, ...]


def decide(candidate: Mapping[str, float], champion: Mapping[str, float] | None, config: GateConfig) -> GateDecision:
    """Compare a candidate's metrics with the champion's.

    Promoted if all metrics are there and finite, no floor is missed, no metric falls by more than `max_loss`, and the
    mean relative gain is more than nothing and at least `min_gain`. Without a champion, floors alone decide.
    """
    problems = _broken(candidate, config) + _floors(candidate, config)
    if problems:
        return GateDecision(False, tuple(problems))
    if champion is None:
        return GateDecision(True, ("no champion yet",))
    gains = {name: _gain(candidate[name], champion.get(name)) for name in config.metrics}
    lines = [_line(name, candidate[name], champion.get(name), gain) for name, gain in gains.items()]
    known = [gain for gain in gains.values() if gain is not None]
    lost = [name for name, gain in gains.items() if gain is not None and gain < -config.max_loss]
    mean = math.fsum(known) / len(known) if known else 0.0
    enough = mean > 0 and mean >= config.min_gain
    verdict = f"mean gain {mean:+.1%}" + ("" if enough else f", needed more than {max(config.min_gain, 0):.1%}")
    losses = [f"{metric(name).in_words} falls by more than {config.max_loss:.1%}" for name in lost]
    return GateDecision(enough and not lost, (*lines, verdict, *losses))


def _broken(candidate: Mapping[str, float], config: GateConfig) -> list[str]:
    names = [*config.metrics, *config.floors]
    missing = [f"{metric(name).in_words} was not measured" for name in dict.fromkeys(names) if name not in candidate]
    return missing + [
        f"{metric(name).in_words} is {candidate[name]}"
        for name in dict.fromkeys(names)
        if not math.isfinite(candidate.get(name, 0))
    ]


def _floors(candidate: Mapping[str, float], config: GateConfig) -> list[str]:
    return [
        f"{metric(name).in_words} is {candidate[name]:.4f}, below its floor of {floor:.4f}"
        for name, floor in config.floors.items()
        if name in candidate and candidate[name] < floor
    ]


def _gain(value: float, before: float | None) -> float | None:
    """Relative gain; None where the champion has no finite value, so that nothing can be compared."""
    if before is None or not math.isfinite(before):
        return None
    if before == 0:
        return 0.0 if value == 0 else math.copysign(1.0, value)
    return (value - before) / abs(before)


def _line(name: str, value: float, before: float | None, gain: float | None) -> str:
    if before is None or gain is None:
        return f"{metric(name).in_words} {value:.4f}, the champion's is not known"
    return f"{metric(name).in_words} {before:.4f} -> {value:.4f} ({gain:+.1%})"
