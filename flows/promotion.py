"""Which round did best, and whether its models take the place of the champion that an earlier bootstrap registered."""

import logging
from collections.abc import Sequence

from components.common.contracts import DatasetRef, ModelRef, Promotion, RoundResult
from components.common.errors import CapfiltError
from components.common.storage import open_store
from components.evaluation.config import GateConfig
from components.evaluation.gate import decide
from flows.assessment import measure
from flows.stages import BootstrapContext

logger = logging.getLogger(__name__)


def promote(context: BootstrapContext, rounds: Sequence[RoundResult], test: DatasetRef) -> Promotion:
    """Decide which round won, and whether it is better than the registered champion on the same test split."""
    gate = context.config.evaluation.gate
    best, reasons = _best(rounds, gate)
    if best is None:
        return Promotion(champion=None, promoted=False, reasons=reasons)
    names = [f"{context.config.name}-{role}" for role in ("captioner", "filter")]
    held = context.tracker.find_champions(names)
    if held is None:
        unknown = "MLflow does not say which models are the champion, so it stays"
        return Promotion(champion=best.round, promoted=False, reasons=(*reasons, unknown))
    if len(held) < len(names) or not all(_is_there(model) for model in held):
        return Promotion(champion=best.round, promoted=True, reasons=reasons)
    promoted, against = _challenge(context, best, rounds, held, test)
    return Promotion(champion=best.round, promoted=promoted, reasons=(*reasons, *against))


def _best(rounds: Sequence[RoundResult], gate: GateConfig) -> tuple[RoundResult | None, tuple[str, ...]]:
    """The round that won; None if the gate lets none of them pass, whose figures are missing, broken or too low."""
    champion: RoundResult | None = None
    reasons: list[str] = []
    for one in rounds:
        decision = decide(one.metrics, champion.metrics if champion else None, gate)
        if champion is not None or not decision.promote:
            place = f"round {one.round}: " if len(rounds) > 2 or one.round == 0 else ""
            reasons += [f"{place}{reason}" for reason in decision.reasons]
        if decision.promote:
            champion = one
    return champion, tuple(reasons) or ("the only round",)


def _challenge(
    context: BootstrapContext,
    best: RoundResult,
    rounds: Sequence[RoundResult],
    held: Sequence[ModelRef],
    test: DatasetRef,
) -> tuple[bool, tuple[str, ...]]:
    """Whether a round is better than the registered champion, and why; a draw leaves the champion in its place."""
    captioner, filter = held
    version = f"the registered champion (version {captioner.registered_version})"
    if (captioner.digest, filter.digest) == (best.captioner.digest, best.filter.digest):
        return True, ()
    own = [one for one in rounds if (one.captioner.digest, one.filter.digest) == (captioner.digest, filter.digest)]
    try:
        metrics = own[0].metrics if own else measure(context, "champion/evaluate", captioner, filter, test).metrics
    except CapfiltError as error:
        logger.warning("%s cannot be measured: %s", version, error)
        return False, (f"{version} could not be measured on this test split, so it stays: {error}",)
    gate = context.config.evaluation.gate
    own_right = decide(metrics, None, gate)
    if not own_right.promote:
        return True, tuple(f"{version} does not pass the gate: {reason}" for reason in own_right.reasons)
    decision = decide(best.metrics, metrics, gate)
    return decision.promote, tuple(f"against {version}: {reason}" for reason in decision.reasons)


def _is_there(model: ModelRef) -> bool:
    """Whether a registered model's folder still exists: one that was deleted holds no place."""
    if open_store(model.uri).exists("model.json"):
        return True
    logger.warning("the registered champion's folder %s is gone; the new models take its place", model.uri)
    return False
