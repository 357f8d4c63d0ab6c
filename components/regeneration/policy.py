"""Which captions of an image stay: pure functions of the scores, so that a stored dataset can be cut again.

| policy      | keeps                                                                          |
|-------------|--------------------------------------------------------------------------------|
| `keep_both` | every text that passes the filter (the paper, section 3.3)                     |
| `replace`   | the synthetic texts that pass; the web text never                              |
| `best_of`   | the one text with the highest score, if it passes                              |
| `best_each` | of the web's texts and of the synthetic ones the best each, if it passes       |
| `fallback`  | the web text if it passes, otherwise the synthetic texts that do               |
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from components.common.contracts import ScoreWeights
from components.data.scores import ITC, ITM, Reading
from components.regeneration.rules import Rule, Value

Policy = Literal["keep_both", "replace", "best_of", "best_each", "fallback"]
Source = Literal["web", "synthetic"]
TextChoice = Literal["web", "synthetic", "best", "random"]

KEPT = "kept"
BELOW_THRESHOLD = "below_threshold"
BELOW_BAND = "below_band"  # a cascade's: refused by ITC, never scored by ITM
NOT_WRITTEN = "not_written"  # a cascade's: a caption that the policy does not need was never made
DUPLICATE = "duplicate"
REPLACED = "replaced"
NOT_BEST = "not_best"
NOT_NEEDED = "not_needed"
COIN = "coin"
WEIGHTLESS = "weightless"

_NO_OTHERS: Mapping[str, Reading] = {}


class Text(NamedTuple):
    """One caption of an image, as the scorers saw it.

    `problem` is why the text could not be scored at all (`empty_text`, `text_too_long`, `refusal` …); its scores are
    None. `probability` and `similarity` are BLIP's, `others` those of other scorers by name. `outcome` and `rule` are
    what outcomes.py found of a caption, where it looked. `weighed` is what decides where BLIP's two scores are made one
    probability (`with_weights`).
    """

    source: Source
    text: str
    probability: float | None = None
    similarity: float | None = None
    problem: str | None = None
    others: Mapping[str, Reading] = _NO_OTHERS
    outcome: str | None = None
    rule: str | None = None
    weighed: float | None = None

    @property
    def scored(self) -> bool:
        """Whether any scorer looked."""
        return self.probability is not None or self.similarity is not None or bool(self.others)

    def deciding(self, score: str) -> float | None:
        """What a threshold is held against: the score of that name, unless it was weighed with another."""
        return self.value(score) if self.weighed is None else self.weighed

    def value(self, score: str) -> float | None:
        """A score by its name; None if there is none."""
        if score == ITM:
            return self.probability
        if score == ITC:
            return self.similarity
        return self.others[score].value if score in self.others else None

    def facts(self) -> dict[str, Value]:
        """What a rule may ask of it."""
        blip = {ITM: self.probability, ITC: self.similarity}
        found: dict[str, Value] = {name: value for name, value in blip.items() if value is not None}
        for name, reading in self.others.items():
            found |= {name: reading.value, f"{name}_truncated": reading.truncated}
        return found | {"words": float(len(self.text.split())), "source": self.source}


class Decision(NamedTuple):
    """Whether a caption stays, why or why not, and how often a training shall meet it."""

    kept: bool
    reason: str
    weight: float = 1.0


def with_weights(texts: Sequence[Text], weights: ScoreWeights | None) -> list[Text]:
    """The texts, weighed where there are weights."""
    return [text._replace(weighed=weigh(text.probability, text.similarity, weights)) for text in texts]


def weigh(probability: float | None, similarity: float | None, weights: ScoreWeights | None) -> float | None:
    """Both scores of a text weighed; None where there is nothing to weigh them by, or no score."""
    if weights is None or probability is None or similarity is None:
        return None
    return weights.probability(probability, similarity)


def passes(texts: Sequence[Text], threshold: float, score: str = ITM) -> list[bool]:
    """Which texts the filter accepts: a score (BLIP: match probability) at or above the threshold."""
    values = [text.deciding(score) for text in texts]
    return [value is not None and value >= threshold for value in values]


def rule_passes(texts: Sequence[Text], rule: Rule) -> list[bool]:
    """Which texts a rule accepts, of those that have all scores it asks for."""
    return [text.scored and bool(_answer(rule, text, False)) for text in texts]


def _answer(rule: Rule, text: Text, without: Value) -> Value:
    """What a rule gives for a text; `without` where a score it asks for was never found (an imported one)."""
    facts = text.facts()
    return rule(facts) if rule.names <= facts.keys() else without


def weighed(texts: Sequence[Text], decisions: Sequence[Decision], rule: Rule) -> list[Decision]:
    """The decisions with the weight of what stays; what weighs nothing, or less, does not stay."""
    found = []
    for text, decision in zip(texts, decisions, strict=True):
        if decision.kept:
            weight = round(float(_answer(rule, text, 0.0)), 6)
            decision = decision._replace(weight=weight) if weight > 0 else Decision(False, WEIGHTLESS)
        found.append(decision)
    return found


def coin_passes(texts: Sequence[Text], rate: float, seed: int) -> list[bool]:
    """The control experiment: accept scored texts by a coin of this rate, thrown per text, never looking at scores."""
    heads = np.random.default_rng(seed).random(len(texts)) < rate
    return [text.scored and bool(head) for text, head in zip(texts, heads, strict=True)]


def choose_text(kept: Sequence[Text], choice: TextChoice, seed: int, score: str = ITM) -> Text:
    """The caption that readers of `.txt` see, of those that an image keeps (one at least, web texts first).

    Args:
        kept: the kept captions in order.
        choice: as in CapfiltConfig.
        seed: the image's own, for `random`.
        score: the one that says which is `best`.
    """
    if choice == "random":
        return kept[int(np.random.default_rng(seed).integers(len(kept)))]
    if choice == "best":
        return max(kept, key=lambda text: _rank(text, score))  # the first of equal ones
    wanted = [text for text in kept if text.source == choice]
    return (wanted or kept)[0]


def decide(
    texts: Sequence[Text],
    policy: Policy,
    passed: Sequence[bool],
    *,
    rejection: str = BELOW_THRESHOLD,
    score: str = ITM,
) -> list[Decision]:
    """Decide on all texts of one image, in order.

    Args:
        texts: web texts first, then synthetic texts.
        policy: see the table above.
        passed: what the filter said of each text.
        rejection: the reason to note for texts that did not pass.
        score: the one that says which is best.
    """
    seen: set[str] = set()
    eligible: list[int] = []
    reasons: list[str] = []
    for index, (text, ok) in enumerate(zip(texts, passed, strict=True)):
        normal = " ".join(text.text.lower().split())
        if text.problem is not None:
            reasons.append(text.problem)
        elif normal in seen:
            reasons.append(DUPLICATE)
        elif policy == "replace" and text.source == "web":
            reasons.append(REPLACED)
        else:
            seen.add(normal)
            reasons.append(KEPT if ok else rejection)
            if ok:
                eligible.append(index)
    losers = _losers(texts, policy, eligible, score)
    return [
        Decision(reason == KEPT and index not in losers, losers.get(index, reason))
        for index, reason in enumerate(reasons)
    ]


def _rank(text: Text, score: str) -> float:
    value = text.deciding(score)
    return -np.inf if value is None else value


def _losers(texts: Sequence[Text], policy: Policy, eligible: Sequence[int], score: str) -> dict[int, str]:
    """Texts that passed the filter but yield to another text of their image, with the reason."""
    if policy == "best_of":
        return _all_but_best(texts, eligible, score)
    if policy == "best_each":
        alike = [[index for index in eligible if texts[index].source == source] for source in ("web", "synthetic")]
        return {index: reason for group in alike for index, reason in _all_but_best(texts, group, score).items()}
    if policy == "fallback" and any(texts[index].source == "web" for index in eligible):
        return {index: NOT_NEEDED for index in eligible if texts[index].source == "synthetic"}
    return {}


def _all_but_best(texts: Sequence[Text], eligible: Sequence[int], score: str) -> dict[int, str]:
    """All but the text with the highest score, the first of equal ones."""
    best = max(eligible, key=lambda index: (_rank(texts[index], score), -index), default=None)
    return {index: NOT_BEST for index in eligible if index != best}
