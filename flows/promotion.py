"""Which round did best, and whether its models take the place of the champion that an earlier bootstrap registered."""

import logging
from collections.abc import Sequence

from components.common.contracts import DatasetRef, ModelRef, Promotion, RoundResult, Weighed
from components.common.errors import CapfiltError, DataError
from components.common.storage import open_store
from components.evaluation.config import EvaluationConfig
from components.evaluation.gate import faults, weigh
from flows.assessment import measure
from flows.stages import BootstrapContext

logger = logging.getLogger(__name__)

Reasons = tuple[str, ...]


def promote(context: BootstrapContext, rounds: Sequence[RoundResult], test: DatasetRef) -> Promotion:
    """Decide which round won, and whether it is better than the registered champion on the same test split."""
    best, reasons, weighed = _best(rounds, context.config.evaluation)
    if best is None:
        return Promotion(champion=None, promoted=False, reasons=reasons)
    names = [f"{context.config.name}-{role}" for role in ("captioner", "filter")]
    held = context.tracker.find_champions(names)
    if held is None:
        unknown = "MLflow does not say which models are the champion, so it stays"
        return Promotion(champion=best.round, promoted=False, reasons=(*reasons, unknown), weighed=weighed)
    if len(held) < len(names) or not all(_is_there(model) for model in held):
        return Promotion(champion=best.round, promoted=True, reasons=reasons, weighed=weighed)
    promoted, against, last = _challenge(context, best, rounds, held, test)
    more = (last,) if last is not None else ()
    return Promotion(champion=best.round, promoted=promoted, reasons=(*reasons, *against), weighed=(*weighed, *more))


def _best(
    rounds: Sequence[RoundResult], config: EvaluationConfig
) -> tuple[RoundResult | None, Reasons, tuple[Weighed, ...]]:
    """The round that won; None if the gate lets none of them pass, whose figures are missing, broken or too low."""
    champion: RoundResult | None = None
    reasons: list[str] = []
    weighed: list[Weighed] = []
    for one in rounds:
        why = faults(one.metrics, config.gate)
        wins = not why
        if wins and champion is not None:
            found, why = _weigh(one, champion.details_uri, f"round {champion.round}", config)
            weighed.append(found)
            wins = found.better
        place = f"round {one.round}: " if len(rounds) > 2 or one.round == 0 else ""
        reasons += [f"{place}{reason}" for reason in why]
        champion = one if wins else champion
    return champion, tuple(reasons) or ("the only round",), tuple(weighed)


def _weigh(
    one: RoundResult, details_uri: str | None, against: str, config: EvaluationConfig
) -> tuple[Weighed, Reasons]:
    """What the gate says of a round against whoever holds the place, image by image of the test split.

    Where the details of either are not at hand, nothing says what is noise, and the place stays with its holder.
    """
    from components.evaluation.intervals import compare, read_measured

    try:
        if details_uri is None or one.details_uri is None:
            raise DataError("details per image were not kept")
        known = compare(read_measured(details_uri), read_measured(one.details_uri), config.intervals)
    except CapfiltError as error:
        reason = f"not weighed against {against}, which stays, as noise could pass for a gain: {error}"
        return Weighed(candidate=one.round, against=against, better=False, comparisons=()), (reason,)
    comparisons = tuple(known[name] for name in config.gate.metrics)
    decision = weigh(comparisons, config.gate)
    return (
        Weighed(candidate=one.round, against=against, better=decision.promote, comparisons=comparisons),
        decision.reasons,
    )


def _challenge(
    context: BootstrapContext,
    best: RoundResult,
    rounds: Sequence[RoundResult],
    held: Sequence[ModelRef],
    test: DatasetRef,
) -> tuple[bool, Reasons, Weighed | None]:
    """Whether a round is better than the registered champion, and why; what is within noise leaves it in its place."""
    captioner, filter = held
    version = f"the registered champion (version {captioner.registered_version})"
    if (captioner.digest, filter.digest) == (best.captioner.digest, best.filter.digest):
        return True, (), None
    own = [one for one in rounds if (one.captioner.digest, one.filter.digest) == (captioner.digest, filter.digest)]
    try:
        if own:
            metrics, details = own[0].metrics, own[0].details_uri
        else:
            report = measure(context, "champion/evaluate", captioner, filter, test)
            metrics, details = report.metrics, report.uri
    except CapfiltError as error:
        logger.warning("%s cannot be measured: %s", version, error)
        return False, (f"{version} could not be measured on this test split, so it stays: {error}",), None
    config = context.config.evaluation
    if why := faults(metrics, config.gate):
        return True, tuple(f"{version} does not pass the gate: {reason}" for reason in why), None
    weighed, reasons = _weigh(best, details, version, config)
    return weighed.better, tuple(f"against {version}: {reason}" for reason in reasons), weighed


def _is_there(model: ModelRef) -> bool:
    """Whether a registered model's folder still exists: one that was deleted holds no place."""
    if open_store(model.uri).exists("model.json"):
        return True
    logger.warning("the registered champion's folder %s is gone; the new models take its place", model.uri)
    return False
