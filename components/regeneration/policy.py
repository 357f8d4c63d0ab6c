"""Which captions of an image stay: pure functions of the scores, so that a stored dataset can be cut again.

| policy      | keeps                                                                          |
|-------------|--------------------------------------------------------------------------------|
| `keep_both` | every text that passes the filter (the paper, section 3.3)                     |
| `replace`   | the synthetic texts that pass; the web text never                              |
| `best_of`   | the one text with the highest score, if it passes                              |
| `fallback`  | the web text if it passes, otherwise the synthetic texts that do               |
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from components.common.contracts import ScoreWeights

Policy = Literal["keep_both", "replace", "best_of", "fallback"]
Source = Literal["web", "synthetic"]
TextChoice = Literal["web", "synthetic", "best", "random"]

KEPT = "kept"
BELOW_THRESHOLD = "below_threshold"
DUPLICATE = "duplicate"
REPLACED = "replaced"
NOT_BEST = "not_best"
NOT_NEEDED = "not_needed"
COIN = "coin"


class Text(NamedTuple):
    """One caption of an image, as the filter saw it.

    `problem` is why the text could not be scored at all (`empty_text`, `text_too_long`, …); its scores are None.
    `weighed` is what decides where ITM and ITC are weighed (`with_weights`).
    """

    source: Source
    text: str
    probability: float | None = None
    similarity: float | None = None
    problem: str | None = None
    weighed: float | None = None

    @property
    def score(self) -> float | None:
        """What decides: the match probability, unless it was weighed with the cosine."""
        return self.probability if self.weighed is None else self.weighed


class Decision(NamedTuple):
    """Whether a caption stays, and why or why not."""

    kept: bool
    reason: str


def with_weights(texts: Sequence[Text], weights: ScoreWeights | None) -> list[Text]:
    """The texts, weighed where there are weights."""
    return [text._replace(weighed=weigh(text.probability, text.similarity, weights)) for text in texts]


def weigh(probability: float | None, similarity: float | None, weights: ScoreWeights | None) -> float | None:
    """Both scores of a text weighed; None where there is nothing to weigh them by, or no score."""
    if weights is None or probability is None or similarity is None:
        return None
    return weights.probability(probability, similarity)


def passes(texts: Sequence[Text], threshold: float) -> list[bool]:
    """Which texts the filter accepts: a score at or above the threshold."""
    return [text.score is not None and text.score >= threshold for text in texts]


def coin_passes(texts: Sequence[Text], rate: float, seed: int) -> list[bool]:
    """The control experiment: accept scored texts by a coin of this rate, thrown per text, never looking at scores."""
    heads = np.random.default_rng(seed).random(len(texts)) < rate
    return [text.probability is not None and bool(head) for text, head in zip(texts, heads, strict=True)]


def choose_text(kept: Sequence[Text], choice: TextChoice, seed: int) -> Text:
    """The caption that readers of `.txt` see, of those that an image keeps (one at least, web texts first).

    Args:
        kept: the kept captions in order.
        choice: as in CapfiltConfig.
        seed: the image's own, for `random`.
    """
    if choice == "random":
        return kept[int(np.random.default_rng(seed).integers(len(kept)))]
    if choice == "best":
        return max(kept, key=lambda text: text.score or 0.0)  # the first of equal ones
    wanted = [text for text in kept if text.source == choice]
    return (wanted or kept)[0]


def decide(
    texts: Sequence[Text], policy: Policy, passed: Sequence[bool], *, rejection: str = BELOW_THRESHOLD
) -> list[Decision]:
    """Decide on all texts of one image, in order.

    Args:
        texts: web texts first, then synthetic texts.
        policy: see the table above.
        passed: what the filter said of each text.
        rejection: the reason to note for texts that did not pass.
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
    losers = _losers(texts, policy, eligible)
    return [
        Decision(reason == KEPT and index not in losers, losers.get(index, reason))
        for index, reason in enumerate(reasons)
    ]


def _losers(texts: Sequence[Text], policy: Policy, eligible: Sequence[int]) -> dict[int, str]:
    """Texts that passed the filter but yield to another text of their image, with the reason."""
    if policy == "best_of" and eligible:
        best = max(eligible, key=lambda index: (texts[index].score or 0.0, -index))
        return {index: NOT_BEST for index in eligible if index != best}
    if policy == "fallback" and any(texts[index].source == "web" for index in eligible):
        return {index: NOT_NEEDED for index in eligible if texts[index].source == "synthetic"}
    return {}
