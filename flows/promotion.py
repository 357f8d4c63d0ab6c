"""Which round did best, and whether its models take the place of the champion that an earlier bootstrap registered."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components.common.contracts import AskedData, Comparison, DatasetRef, ModelRef, Promotion, RoundResult, Weighed
from components.common.errors import CapfiltError, DataError
from components.common.storage import open_store
from components.evaluation.config import EvaluationConfig
from components.evaluation.gate import faults, weigh
from flows.answering import measure_answers
from flows.assessment import measure
from flows.stages import BootstrapContext

logger = logging.getLogger(__name__)

Reasons = tuple[str, ...]
_OF_ANSWERS = "eval/vqa/"


class _Measured(NamedTuple):
    """What was found of somebody's models, and where the details per image lie: of captions and ranks, of answers."""

    metrics: Mapping[str, float]
    details: str | None
    answers: str | None

    def details_of(self, name: str) -> str | None:
        """Where the details of a metric lie."""
        return self.answers if name.startswith(_OF_ANSWERS) else self.details


def promote(
    context: BootstrapContext, rounds: Sequence[RoundResult], test: DatasetRef, asked: AskedData | None = None
) -> Promotion:
    """Decide which round won, and whether it is better than the registered champion on the same test split.

    Args:
        context: of the bootstrap.
        rounds: all of it.
        test: the human test split.
        asked: questions, where they are a task.
    """
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
    promoted, against, last = _challenge(context, best, rounds, held, test, asked)
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
            found, why = _weigh(one, _measured(champion), f"round {champion.round}", config)
            weighed.append(found)
            wins = found.better
        place = f"round {one.round}: " if len(rounds) > 2 or one.round == 0 else ""
        reasons += [f"{place}{reason}" for reason in why]
        champion = one if wins else champion
    return champion, tuple(reasons) or ("the only round",), tuple(weighed)


def _measured(one: RoundResult) -> _Measured:
    return _Measured(one.metrics, one.details_uri, one.answers_uri)


def _weigh(one: RoundResult, held: _Measured, against: str, config: EvaluationConfig) -> tuple[Weighed, Reasons]:
    """What the gate says of a round against whoever holds the place, image by image of the test split.

    Where the details of either are not at hand, nothing says what is noise, and the place stays with its holder.
    """
    try:
        comparisons = _compared(held, _measured(one), config)
    except CapfiltError as error:
        reason = f"not weighed against {against}, which stays, as noise could pass for a gain: {error}"
        return Weighed(candidate=one.round, against=against, better=False, comparisons=()), (reason,)
    decision = weigh(comparisons, config.gate)
    return (
        Weighed(candidate=one.round, against=against, better=decision.promote, comparisons=comparisons),
        decision.reasons,
    )


def _compared(before: _Measured, after: _Measured, config: EvaluationConfig) -> tuple[Comparison, ...]:
    """The metrics that decide, of the details that hold them."""
    from components.evaluation.intervals import compare, read_measured

    known: dict[str, Comparison] = {}
    for old, new in dict.fromkeys((before.details_of(name), after.details_of(name)) for name in config.gate.metrics):
        if old is None or new is None:
            raise DataError("details per image were not kept")
        known |= compare(read_measured(old), read_measured(new), config.intervals)
    return tuple(known[name] for name in config.gate.metrics)


def _challenge(
    context: BootstrapContext,
    best: RoundResult,
    rounds: Sequence[RoundResult],
    held: Sequence[ModelRef],
    test: DatasetRef,
    asked: AskedData | None,
) -> tuple[bool, Reasons, Weighed | None]:
    """Whether a round is better than the registered champion, and why; what is within noise leaves it in its place."""
    captioner, filter = held
    version = f"the registered champion (version {captioner.registered_version})"
    if (captioner.digest, filter.digest) == (best.captioner.digest, best.filter.digest):
        return True, (), None
    own = [one for one in rounds if (one.captioner.digest, one.filter.digest) == (captioner.digest, filter.digest)]
    try:
        found = _measured(own[0]) if own else _measured_anew(context, captioner, filter, test, asked)
    except CapfiltError as error:
        logger.warning("%s cannot be measured: %s", version, error)
        return False, (f"{version} could not be measured on this test split, so it stays: {error}",), None
    config = context.config.evaluation
    if why := faults(found.metrics, config.gate):
        return True, tuple(f"{version} does not pass the gate: {reason}" for reason in why), None
    weighed, reasons = _weigh(best, found, version, config)
    return weighed.better, tuple(f"against {version}: {reason}" for reason in reasons), weighed


def _measured_anew(
    context: BootstrapContext, captioner: ModelRef, filter: ModelRef, test: DatasetRef, asked: AskedData | None
) -> _Measured:
    """The registered champion on this test split; its own model for retrieval and its answers where they count."""
    config = context.config
    retrieval = _held(context, "retrieval") if config.retrieval is not None else None
    report = measure(context, "champion/evaluate", captioner, retrieval or filter, test)
    gate = config.evaluation.gate
    counts = any(name.startswith(_OF_ANSWERS) for name in (*gate.metrics, *gate.floors))
    model = _held(context, "vqa") if counts and asked is not None else None
    if model is None or asked is None:
        return _Measured(report.metrics, report.uri, None)
    answers = measure_answers(context, "champion/evaluate-vqa", model, asked.test)
    return _Measured({**report.metrics, **answers.metrics}, report.uri, answers.uri)


def _held(context: BootstrapContext, role: str) -> ModelRef | None:
    """The registered champion's model of a role that not every bootstrap has; None: it has none."""
    found = context.tracker.find_champions([f"{context.config.name}-{role}"])
    if found is None:
        raise CapfiltError(f"MLflow does not say which {role} model is the champion's")
    return next((model for model in found if open_store(model.uri).exists("model.json")), None)


def _is_there(model: ModelRef) -> bool:
    """Whether a registered model's folder still exists: one that was deleted holds no place."""
    if open_store(model.uri).exists("model.json"):
        return True
    logger.warning("the registered champion's folder %s is gone; the new models take its place", model.uri)
    return False
