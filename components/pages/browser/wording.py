"""Why a caption was kept or not, as a sentence."""

from components.pages.browser.version import MAIN_SCORE, Version

LABELS = {"itm_probability": "match", "itc_similarity": "cosine"}
"""Words for scores on cards; others go by their own names."""

_BY_POLICY = {
    "duplicate": "its image has the same text already",
    "replaced": "the policy `replace` takes no web texts",
    "not_best": "it passed, but the policy keeps the best text alone, and another scored higher",
    "not_needed": "it passed, but the policy `fallback` needs no synthetic text where the web text passes",
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


def fate(version: Version, row: int) -> str:
    """Why a candidate was kept or not."""
    probability = version.scores[MAIN_SCORE][row] if MAIN_SCORE in version.scores else float("nan")
    known = probability == probability
    if version.kept[row]:
        return _kept(version, row, probability if known else None)
    reason = version.reason.names[version.reason.codes[row]]
    if reason == "below_threshold":
        return f"Dropped: its match probability of {probability:.3g} is below the threshold of {version.threshold:g}."
    if reason in _BY_POLICY:
        return f"Dropped: {_BY_POLICY[reason]}."
    if not known and reason:
        return f"Not judged: the image could not be used ({reason_words(reason)})."
    return f"Dropped: {reason_words(reason) or 'no reason was noted'}."


def _kept(version: Version, row: int, probability: float | None) -> str:
    if probability is None:
        if version.source.names[version.source.codes[row]] == "human":
            return "Kept: people wrote it, and human captions are not filtered."
        return "Kept: no filter looked at it."
    if version.threshold is None:
        return f"Kept by a coin; its match probability is {probability:.3g}."
    return f"Kept: its match probability of {probability:.3g} reaches the threshold of {version.threshold:g}."
