"""What becomes of a caption: planted bad ones are found, and what people write about photographs is left alone."""

import json
from pathlib import Path

import pytest

from components.inference.protocols import Written
from components.regeneration.outcomes import Found, outcome_of
from tests.helpers.bad_captions import ASKED, MAKERS, fresh, planted, planted_fresh

HUMAN = Path(__file__).resolve().parents[4] / "shared" / "data" / "human"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog runs on grass", Found("ok")),
        ("a very very very big dog", Found("ok")),
        ("two dogs, two cats and two birds .", Found("ok")),
        ("the sign says 'no parking, no parking'", Found("ok")),
        ("a man looks sorry for what he did", Found("ok")),
        ("a woman is unable to open the jar", Found("ok")),
        ("I can't see the image you mention.", Found("refusal", "inability")),
        ("I'm sorry, but I can't assist with that request.", Found("refusal", "apology")),
        ("Unfortunately, as an AI language model, I have no eyes.", Found("refusal", "apology")),
        ("As a large language model, pictures mean nothing to me.", Found("refusal", "inability")),
        ("Could you please upload the picture again?", Found("refusal", "talk")),
        ("The picture could not be opened.", Found("refusal", "no_image")),
        ("It is impossible to describe that.", Found("refusal", "task")),
        ("Exception: the decoder gave up", Found("refusal", "failure")),
        ("Leider kann ich das Bild nicht sehen.", Found("refusal", "language")),
        ("a picture of", Found("empty", "no_words")),
        ("<pad></s> [PAD] &nbsp;", Found("empty", "no_words")),
        ("Give a one-sentence description of the photo.", Found("echo", "task")),
        ("one short sentence to describe", Found("echo", "task")),
        ("a man on a horse, a man on a horse, a man", Found("repeated", "words")),
        ("", Found("empty", "no_text")),
        ("  \n", Found("empty", "no_text")),
        ("... !", Found("empty", "no_words")),
        ("!!!!!!!!!!!!!!!!!!!!!!!", Found("repeated", "signs")),
        ("dog dog dog dog dog", Found("repeated", "words")),
        ("a red ball and a red ball and a red ball and a red ball", Found("repeated", "words")),
        ("A man stands. It is sunny. A man stands. A tree. A man stands.", Found("repeated", "sentences")),
        ("Describe this image in one short sentence: a dog", Found("echo", "prompt")),
        ("<|im_start|>assistant a dog", Found("echo", "markup")),
        ("ASSISTANT: a dog", Found("echo", "markup")),
        ("Sure, here's a caption: a dog", Found("echo", "preamble")),
        ("</think>\n\na dog", Found("echo", "markup")),
        ("a man on a horse a man on a horse", Found("repeated", "words")),
        ("a tree, a bush, a tree, a tree, a bush, a bush, a tree, a bush", Found("repeated", "few")),
        ("None", Found("empty", "no_words")),
        ("Community guidelines do not allow this.", Found("refusal", "policy")),
        ("How can I help you today?", Found("refusal", "talk")),
    ],
)
def test_examples(text: str, expected: Found) -> None:
    assert outcome_of(Written(text, "stop", 5), ASKED) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I can see a dog on the grass.",
        'The image shows a sign that says "Sorry, we\'re closed".',
        "A sign that reads 'I can't even' hangs on a wall.",
        "A poster with the words 'Please do not share photos'.",
        "An advertisement: 'How can I help you today?'",
        'A "No image available" placeholder graphic.',
        "There is no image on the wall, only an empty frame.",
        "This is a photograph of a street market.",
        "A close-up of a dog's face: it looks sad.",
        "Two men, two women and two dogs.",
        "A black and white photo of a black and white cat.",
        "The person is holding up a phone. The person is wearing a hat. The sky is blue.",
        "Sure-footed goats climb a cliff.",
        "A white board says 2 + 2 = 4.",
    ],
)
def test_what_captioners_rightly_say(text: str) -> None:
    assert outcome_of(Written(text, "stop", 5), ASKED) == Found("ok")


def test_the_limit_and_failures() -> None:
    assert outcome_of(Written("a dog runs on", "length", 5)) == Found("cut", "length")
    assert outcome_of(Written("", "error", 0, "ValueError: ratio")) == Found("error", "ValueError: ratio")
    assert outcome_of(Written("a picture of a dog", "stop", 5), "a picture of ") == Found("ok")


@pytest.mark.parametrize("kind", ["refusal", "repeated", "echo", "empty"])
def test_planted_bad_captions_in_fresh_words(kind: str) -> None:
    """Recall at least 0.98 of 1,000 of each kind, in words that were written down before the rules."""
    texts = planted_fresh(kind, 1000)
    missed = [one.text for one in texts if outcome_of(one, ASKED).outcome == "ok"]
    assert len(missed) <= 20, sorted(set(missed))


def test_terse_refusals_are_found_by_half() -> None:
    """What is written to get past the rules often does: docs/models.md says so."""
    texts = fresh("terse")
    assert 0.5 <= sum(outcome_of(Written(one, "stop", 5), ASKED).outcome != "ok" for one in texts) / len(texts) < 1


def test_captions_with_words_of_refusals_are_left_alone() -> None:
    alarms = [one for one in fresh("good") if outcome_of(Written(one, "stop", 5), ASKED).outcome != "ok"]
    assert not alarms


def human() -> list[str]:
    files = [json.loads((HUMAN / f"captions_{split}.json").read_text()) for split in ("train", "val")]
    return [one["caption"] for file in files for one in file["annotations"]]


@pytest.mark.shared
@pytest.mark.skipif(not HUMAN.is_dir(), reason="the real captions are not here")
def test_planted_bad_captions_among_real_ones() -> None:
    """Recall at least 0.98 of 1,000 of each kind, and at most 0.5 % of the real ones called bad."""
    captions = human()
    assert len(captions) > 9_000
    alarms = [one for one in captions if outcome_of(Written(one, "stop", 9), ASKED).outcome != "ok"]
    assert len(alarms) <= 0.005 * len(captions), alarms[:20]
    for kind in MAKERS:
        texts = planted(kind, captions, 1000)
        found = [outcome_of(one, ASKED).outcome for one in texts]
        caught, named = sum(one != "ok" for one in found), found.count(kind)
        missed = sorted({text.text for text, one in zip(texts, found, strict=True) if one == "ok"})
        print(f"{kind}: {caught} of 1000 caught, {named} by name; {len(alarms)} of {len(captions)} false alarms")
        assert caught >= 980 and named >= 900, missed[:20]
