"""The models of a run before it starts: their families, the settings that follow, and whose thresholds are in use."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from components.common.contracts import ModelRef
from components.common.errors import ConfigError
from components.data.scores import BLIP_COLUMNS, ITM, check_score_name
from components.inference.families import (
    BLIP,
    CaptionerFamily,
    ScorerFamily,
    captioner_family,
    engine_of,
    is_endpoint,
    scorer_family,
    settled_decoding,
)
from components.regeneration.config import CapfiltConfig
from components.regeneration.rules import Rule
from components.regeneration.textfilters import filter_engines


def settled_models(
    captioner: ModelRef, filter: ModelRef, scorers: Mapping[str, ModelRef], config: CapfiltConfig
) -> tuple[CapfiltConfig, dict[str, Any]]:
    """The config as it is for these models, and what a Plan says of them beyond their digests.

    With BLIP alone nothing changes, and nothing is added.

    Raises:
        ModelError: one of them is of no known family.
        ConfigError: names of scores clash, a rule asks for a score that nobody gives, or a threshold is another
            scorer's.
    """
    if is_endpoint(captioner.uri) and (config.engine == "ray" or config.workers > 1):
        raise ConfigError("one process asks a server: set engine to local and workers to 1, and endpoint.concurrency")
    writer, judge = captioner_family(captioner.uri), scorer_family(filter.uri)
    others = {check_score_name(name): scorer_family(one.uri) for name, one in scorers.items()}
    digests = _digests([(judge.column, judge, filter), *((name, one, scorers[name]) for name, one in others.items())])
    config = _settled(config, writer, judge)
    check_names(config, list(digests))
    check_thresholds(config, digests)
    roles: dict[str, CaptionerFamily | ScorerFamily] = {
        "captioner": writer,
        "filter": judge,
        **{f"scorer:{name}": one for name, one in others.items()},
    }
    engines: dict[str, Any] = {role: engine for role, one in roles.items() if (engine := engine_of(one)) is not None}
    engines |= filter_engines(config.text_filters)
    return config, {"scorers": tuple(scorers.items()), "engines": tuple(engines.items())}


def check_thresholds(config: CapfiltConfig, digests: Mapping[str, str]) -> None:
    """A threshold belongs to one scorer at one digest.

    Args:
        config: the settings, with the score that the threshold means.
        digests: digest of the scorer behind each score.

    Raises:
        ConfigError: it was found for another, or it is BLIP's by default and this is none.
    """
    check_belongs(config.threshold_of, digests)
    ruled = config.keep is not None or config.weigh is not None or config.coin is not None
    if config.score not in (None, ITM) and not ruled and "threshold" not in config.model_fields_set:
        raise ConfigError(
            f"a threshold of {config.threshold:g} is meant for BLIP's match probability, and {config.score} is another "
            "score: set threshold to one that was found for it, have it chosen (target_precision), or write a rule "
            "(keep)"
        )


def check_belongs(threshold_of: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """ConfigError where thresholds were found for other scorers than those behind the scores here, by name."""
    for name, wanted in threshold_of.items():
        found = digests.get(name)
        if found is None or not found.startswith(wanted):
            there = "there is no such scorer here" if found is None else f"here it is {found[:12]}"
            raise ConfigError(
                f"the threshold of {name} was found for scorer {wanted[:12]}, and {there}: values of different scorers "
                "do not compare. Measure this one (target_precision), or drop threshold_of"
            )


def _digests(scorers: Sequence[tuple[str, ScorerFamily, ModelRef]]) -> dict[str, str]:
    """All scores of a run, in order, and the digest of the scorer behind each.

    Raises:
        ConfigError: two have one name.
    """
    found = [
        (score, ref.digest)
        for name, family, ref in scorers
        for score in ([one.name for one in BLIP_COLUMNS] if family.name == BLIP else [name])
    ]
    names = [score for score, _ in found]
    if twice := sorted({score for score in names if names.count(score) > 1}):
        raise ConfigError(f"two scorers give the score {twice[0]}: name one of them otherwise, or leave it out")
    return dict(found)


def _settled(config: CapfiltConfig, writer: CaptionerFamily, judge: ScorerFamily) -> CapfiltConfig:
    """The config with what the families have of their own where nothing was set."""
    changes: dict[str, Any] = {}
    if writer.name != BLIP:
        changes["decoding"] = settled_decoding(config.decoding, writer, config.captions_per_image)
        if config.check_captions is None:
            changes["check_captions"] = True
    if judge.name != BLIP and config.calibrated is not None:
        raise ConfigError(
            f"calibrated weighs a BLIP filter's two scores, and the filter is of family {judge.name}: leave it out, "
            "and set a threshold or a target_precision"
        )
    if judge.name != BLIP and config.cascade is not None:
        raise ConfigError(
            f"a cascade asks BLIP's ITC before its ITM, and the filter is of family {judge.name}: leave cascade out"
        )
    if judge.name != BLIP and config.score is None:
        changes["score"] = judge.column
    return config.model_copy(update=changes) if changes else config


def check_names(config: CapfiltConfig, names: Sequence[str]) -> None:
    """ConfigError where rules or `score` ask for a score that is not among these."""
    known = {*names, *(f"{name}_truncated" for name in names if name not in {one.name for one in BLIP_COLUMNS})}
    asked: dict[str, Set[str]] = {"score": {config.score} if config.score else set()}
    asked |= {"keep": Rule(config.keep).names} if config.keep is not None else {}
    asked |= {"weigh": Rule(config.weigh, float).names} if config.weigh is not None else {}
    for field, wanted in asked.items():
        if missing := sorted(wanted - known):
            raise ConfigError(f"{field} asks for {', '.join(missing)}, and there are {', '.join(sorted(known))} here")
