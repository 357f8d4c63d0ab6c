"""Which captions of an image stay: pure functions of the scores, so that a stored dataset can be cut again.

| policy      | keeps                                                                          |
|-------------|--------------------------------------------------------------------------------|
| `keep_both` | every text that passes the filter (the paper, section 3.3)                     |
| `replace`   | the synthetic texts that pass; the web text never                              |
| `best_of`   | the one text with the highest probability, if it passes                        |
| `best_each` | of the web's texts and of the synthetic ones the best each, if it passes       |
| `fallback`  | the web text if it passes, otherwise the synthetic texts that do               |
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Policy = Literal["keep_both", "replace", "best_of", "best_each", "fallback"]
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
    """

    source: Source
    text: str
    probability: float | None = None
    similarity: float | None = None
    problem: str | None = None


class Decision(NamedTuple):
    """Whether a caption stays, and why or why not."""

    kept: bool
    reason: str


def passes(texts: Sequence[Text], threshold: float) -> list[bool]:
    """Which texts the filter accepts: match probability at or above the threshold."""
    return [text.probability is not None and text.probability >= threshold for text in texts]


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
        return max(kept, key=lambda text: text.probability or 0.0)  # the first of equal ones
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
    if policy == "best_of":
        return _all_but_best(texts, eligible)
    if policy == "best_each":
        sources = {texts[index].source for index in eligible}
        alike = [[index for index in eligible if texts[index].source == source] for source in sources]
        return {index: reason for group in alike for index, reason in _all_but_best(texts, group).items()}
    if policy == "fallback" and any(texts[index].source == "web" for index in eligible):
        return {index: NOT_NEEDED for index in eligible if texts[index].source == "synthetic"}
    return {}


def _all_but_best(texts: Sequence[Text], eligible: Sequence[int]) -> dict[int, str]:
    """All but the likeliest text, the first of equal ones."""
    best = max(eligible, key=lambda index: (texts[index].probability or 0.0, -index), default=None)
    return {index: NOT_BEST for index in eligible if index != best}
