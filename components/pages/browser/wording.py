"""Why a caption was kept or not, as a sentence."""

from components.pages.browser.version import CHEAP_SCORE, MAIN_SCORE, Version

LABELS = {"itm_probability": "match", "itc_similarity": "cosine"}
"""Words for scores on cards; others go by their own names."""

_BY_POLICY = {
    "duplicate": "its image has the same text already",
    "replaced": "the policy `replace` takes no web texts",
    "not_best": "it passed, but the policy keeps the best text alone, and another scored higher",
    "not_needed": "it passed, but the policy `fallback` needs no synthetic text where the web text passes",
    "not_written": "no caption was written, as the policy `fallback` needs none where the web text passes (a cascade)",
    "coin": "a coin decided, not the score (a control experiment)",
    "not_selected": "its image is not on the list that this version was cut by",
    "filtered_language": "the text filter `language` found it to be in another language",
    "filtered_words": "the text filter `words` found it too short or too long",
    "filtered_characters": "the text filter `characters` found it too short or too long",
    "filtered_block": "the text filter `block` found a word or phrase of its list in it",
    "empty_text": "there is no text",
    "missing_text": "there is no text",
    "several_texts": "several texts lie beside the image, and nothing says which is its own",
    "text_too_long": "it is a page rather than a caption",
    "text_not_utf8": "its bytes are no text",
    "bad_json": "the JSON it should be in is none",
}


def label(score: str) -> str:
    """What a score is called."""
    return LABELS.get(score, score.replace("_", " "))


def reason_words(reason: str) -> str:
    """A reason for a card."""
    return reason.replace("_", " ")


def reason_sentence(reason: str) -> str:
    """A reason in full."""
    return _BY_POLICY.get(reason) or reason_words(reason) or "no reason was noted"


def fate(version: Version, row: int) -> str:
    """Why a candidate was kept or not."""
    probability = version.scores[MAIN_SCORE][row] if MAIN_SCORE in version.scores else float("nan")
    known = probability == probability
    if (
        not known
        and CHEAP_SCORE in version.scores
        and version.scores[CHEAP_SCORE][row] == version.scores[CHEAP_SCORE][row]
    ):
        return _by_cosine(version, row)
    if version.kept[row]:
        return _kept(version, row, probability if known else None)
    reason = version.reason.names[version.reason.codes[row]]
    if reason == "below_threshold":
        return f"Dropped: its match probability of {probability:.3g} is below the threshold of {version.threshold:g}."
    if not known and reason and reason not in _BY_POLICY:
        return f"Not judged: the image could not be used ({reason_words(reason)})."
    return f"Dropped: {reason_sentence(reason)}."


def _by_cosine(version: Version, row: int) -> str:
    """Of a text that a cascade decided by its cosine, and ITM never saw."""
    cosine = version.scores[CHEAP_SCORE][row]
    if version.kept[row]:
        return f"Kept: its cosine of {cosine:.3g} is high enough, so that a cascade asked for no match probability."
    reason = version.reason.names[version.reason.codes[row]]
    why = _BY_POLICY.get(reason, "it is too low, so that a cascade asked for no match probability")
    return f"Dropped, with a cosine of {cosine:.3g} and no match probability: {why}."


def _kept(version: Version, row: int, probability: float | None) -> str:
    if probability is None:
        if version.source.names[version.source.codes[row]] == "human":
            return "Kept: people wrote it, and human captions are not filtered."
        return "Kept: no filter looked at it."
    if version.threshold is None:
        return f"Kept by a coin; its match probability is {probability:.3g}."
    return f"Kept: its match probability of {probability:.3g} reaches the threshold of {version.threshold:g}."
