"""Texts that say some words are those that a straightforward reading finds; their images come further to the front."""

import random

import numpy as np
import pyarrow as pa
import pytest

from components.data.phrases import Said, places, says

TEXTS = {
    "a red circle": True,
    "A Red CIRCLE, on grey": True,
    "two red circles": True,
    "(red circle)": True,
    "red, circle": False,
    "an ored circle": False,
    "a red circlet": False,
    "a circle, red": False,
    "a red and blue circle": False,
    "": False,
}


def test_words_are_said_one_after_the_other_in_any_case_and_in_the_plural() -> None:
    for words in ("a red circle", "the red  circle", "Red circle.", "red circle"):
        assert says(pa.array(list(TEXTS)), words).tolist() == list(TEXTS.values())
    assert says(pa.array(["two red crosses", "a redcross"]), "red cross").tolist() == [True, False]


@pytest.mark.parametrize("words", ["übel", "dog's", "4x4", "a", "c++"])
def test_any_words_are_looked_for_as_they_stand(words: str) -> None:
    texts = [f"so {words} it is", words.upper(), f"x{words}x", "nothing"]
    assert says(pa.chunked_array([texts[:1], texts[1:]], pa.large_string()), words).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_without_a_word_nothing_is_said() -> None:
    assert not says(pa.array(["...", "a . b"]), " ... ").any()


def test_it_is_what_a_reading_word_by_word_finds() -> None:
    rng, vocabulary = random.Random(0), ["red", "blue", "circle", "star", "on", "reds", "a"]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 8))) for _ in range(500)]
    for words in (["red", "circle"], ["star"], ["on", "red"], ["blue", "star", "on", "red"]):
        told = [
            any(row[at : at + len(words)] in (words, [*words[:-1], words[-1] + "s"]) for at in range(len(row)))
            for row in (text.split() for text in texts)
        ]
        assert says(pa.array(texts), " ".join(words)).tolist() == told


def test_a_caption_is_worth_standard_deviations() -> None:
    similarity = np.array([0.1, 0.3, np.nan, 0.2, 0.4], np.float32)
    at_all, kept = np.array([1, 0, 1, 1, 0], bool), np.array([0, 0, 1, 1, 0], bool)
    found = places(similarity, Said(at_all, kept))
    spread = np.std([0.1, 0.3, 0.2, 0.4])
    wanted = [(0.1 - 0.25) / spread + 2, (0.3 - 0.25) / spread, np.nan, (0.2 - 0.25) / spread + 4, 0.15 / spread]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    none = Said(np.zeros(5, bool), np.zeros(5, bool))
    order = np.argsort(-places(similarity, none), kind="stable")
    assert order.tolist() == np.argsort(-similarity, kind="stable").tolist()  # without captions: the cosines'


def test_images_all_alike_are_told_apart_by_captions() -> None:
    said = Said(np.array([False, True, True]), np.array([False, False, True]))
    assert places(np.full(3, 0.5, np.float32), said).tolist() == [0, 2, 4]
    assert places(np.empty(0, np.float32), Said(np.empty(0, bool), np.empty(0, bool))).tolist() == []
