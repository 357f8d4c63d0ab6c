"""What becomes of a caption: planted bad ones are found, and what people write about photographs is left alone."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.inference.protocols import Written
from components.regeneration.outcomes import Found, outcome_of

HUMAN = Path(__file__).resolve().parents[4] / "shared" / "data" / "human" / "captions_train.json"
ASKED = "Describe this image in one short sentence."


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
        ("Unfortunately, as an AI language model, I have no eyes.", Found("refusal", "inability")),
        ("Could you please upload the picture again?", Found("refusal", "no_image")),
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
    ],
)
def test_examples(text: str, expected: Found) -> None:
    assert outcome_of(Written(text, "stop", 5), ASKED) == expected


def test_the_limit_and_failures() -> None:
    assert outcome_of(Written("a dog runs on", "length", 5)) == Found("cut", "length")
    assert outcome_of(Written("", "error", 0, "ValueError: ratio")) == Found("error", "ValueError: ratio")
    assert outcome_of(Written("a picture of a dog", "stop", 5), "a picture of ") == Found("ok")


def _refusals(rng: random.Random, caption: str) -> str:
    start = ["I'm sorry, but I", "Sorry, I", "I apologize, but I", "Unfortunately, I", "I", "As an AI, I", "We"]
    cannot = ["cannot", "can't", "am unable to", "am not able to", "can’t", "won't", "could not"]
    what = ["assist with that", "help with this request", "describe this picture", "see the image", "provide a caption"]
    return f"{rng.choice(start)} {rng.choice(cannot)} {rng.choice(what)}{rng.choice(['.', '', '. ' + caption])}"


def _repeats(rng: random.Random, caption: str) -> str:
    words = caption.split()
    size = rng.randint(1, 6)
    start = rng.randrange(max(1, len(words) - size))
    loop = " ".join(words[start : start + size])
    kinds = [f"{caption} " + f"{loop} " * rng.randint(6, 12), f"{caption.strip(' .')}. " * 3, rng.choice("!.a0") * 24]
    return rng.choice(kinds)


def _echoes(rng: random.Random, caption: str) -> str:
    marks = ["<|im_start|>assistant\n", "USER: ", "[INST] ", "<image>", "</s>", "<CAPTION>", "ASSISTANT: "]
    return rng.choice([f"{ASKED} {caption}", f"{ASKED.lower()}", *(mark + caption for mark in marks)])


def _nothings(rng: random.Random, caption: str) -> str:
    return "".join(rng.choice(" .,!?-'\"") for _ in range(rng.randint(0, 6)))


PLANTED: dict[str, Callable[[random.Random, str], str]] = {
    "refusal": _refusals,
    "repeated": _repeats,
    "echo": _echoes,
    "empty": _nothings,
}


def human() -> Iterator[str]:
    yield from (one["caption"] for one in json.loads(HUMAN.read_text())["annotations"])


@pytest.mark.shared
@pytest.mark.skipif(not HUMAN.is_file(), reason="the real captions are not here")
def test_planted_bad_captions_among_real_ones() -> None:
    """Recall at least 0.98 of 1,000 of each kind, and at most 0.5 % of the real ones called bad."""
    captions = list(human())
    assert len(captions) > 7_000
    alarms = [one for one in captions if outcome_of(Written(one, "stop", 9), ASKED).outcome != "ok"]
    assert len(alarms) <= 0.005 * len(captions), alarms[:20]
    for kind, make in PLANTED.items():
        rng = random.Random(kind)
        found = [outcome_of(Written(make(rng, rng.choice(captions)), "stop", 9), ASKED) for _ in range(1000)]
        caught = sum(one.outcome != "ok" for one in found)
        named = sum(one.outcome == kind for one in found)
        print(f"{kind}: {caught} of 1000 caught, {named} by name; {len(alarms)} of {len(captions)} false alarms")
        assert caught >= 980 and named >= 900
