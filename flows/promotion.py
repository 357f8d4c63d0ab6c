"""Which round did best: the gate's word on each, one after the other."""

from collections.abc import Sequence

from components.common.contracts import RoundResult
from components.evaluation.config import GateConfig
from components.evaluation.gate import decide


def promote(rounds: Sequence[RoundResult], gate: GateConfig) -> tuple[int, tuple[str, ...]]:
    """Decide which round won.

    Returns:
        the winning round's number, and the reasons in words.
    """
    champion = rounds[0]
    reasons: tuple[str, ...] = ("the only round",)
    for challenger in rounds[1:]:
        decision = decide(challenger.metrics, champion.metrics, gate)
        reasons = decision.reasons
        if decision.promote:
            champion = challenger
    return champion.round, reasons
