"""The official scorer of VQA v2: vectors that were taken by running it."""

import pytest

from components.evaluation.vqa import ANY, OFFICIAL, Scored, accuracy, normalise, vqa_metrics

NORMALISED = {
    "Yes": "yes", "yes.": "yes", "Two": "2", "a dog": "dog", "1,000": "1000", "1.5": "1.5", "1.": "1", "a.m.": "am",
    "u.s.a.": "usa", "dont": "don't", "Id've": "id've", "black/white": "black white", "red,white": "red white",
    "red, white": "red white", "left-handed": "left handed", "well - done": "well done", "3/4": "3 4",
    "10:30": "10:30", "$5": "$5", "none": "0", "eleven": "eleven", "no one": "no 1", "an": "", "the": "", "(two)": "2",
    "50%": "50%", "1,000.50": "1000.50", "somebody'd": "somebodyd", "y'alll": "y'alll", "twas": "'twas",
    "oclock": "o'clock", "a, b": "b", "5 - 6": "5 6",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), NORMALISED.items())
def test_normalisation(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_thirty_two_periods_go() -> None:
    letters = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnop"
    assert len(letters) == 42
    assert normalise(".".join(letters)) == letters[:33] + "." + ".".join(letters[33:])


TEN = {"yes": ["yes"] * 10, "black": ["black"] * 10, "two": ["two"] * 10, "the cat": ["the cat"] * 10}


@pytest.mark.parametrize(
    ("answer", "truth", "percent"),
    [
        ("yes", TEN["yes"], 100),
        ("Yes", TEN["yes"], 0),
        ("yes.", TEN["yes"], 0),
        ("Black.", TEN["black"], 0),
        ("Yes.", ["yes"] * 9 + ["no"], 100),
        *(("x", ["x"] * k + [f"other {at}" for at in range(10 - k)], min(100, 30 * k)) for k in (1, 2, 3, 4, 9)),
        ("2", ["two"] * 5 + ["2"] * 5, 100),
        ("two", ["two"] * 5 + ["2"] * 5, 100),
        ("2", TEN["two"], 0),
        ("cat", TEN["the cat"], 0),
        ("a cat", ["the cat"] * 9 + ["cat"], 100),
        (" yes\n", TEN["yes"], 100),
    ],
)
def test_accuracy(answer: str, truth: list[str], percent: int) -> None:
    assert round(100 * accuracy(answer, truth), 2) == percent


def test_metrics_name_the_variant_and_each_kind() -> None:
    answers = [
        Scored("Yes", TEN["yes"], "yes/no"),
        Scored("no", ["no"] * 9 + ["yes"], "yes/no"),
        Scored("2", ["two"] * 2 + ["3"] * 8, "number"),
    ]
    found = vqa_metrics(answers)
    assert found[f"{OFFICIAL}_yes_no"] == pytest.approx(0.5)
    assert found[f"{OFFICIAL}_number"] == pytest.approx(0.6)
    assert found[OFFICIAL] == pytest.approx(1.6 / 3)
    assert found[ANY] == 1
