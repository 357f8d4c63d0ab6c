"""Accuracy of answers as the official scorer of VQA v2 has it, in every corner (GT-Vision-Lab/VQA, revision a013f00).

An answer counts by how many annotators gave it: the mean, over all annotators, of min(1, matches among the others / 3).
Texts are normalised only where the annotators do not all agree, then theirs and the model's alike: a unanimous `yes` is
missed by `Yes`. Other scorers normalise always and give other figures; so the variant is part of the metric's name.

What the normalisation does is the scorer's own: the pattern for periods has a slip (it removes every period that no
digit follows), at most 32 periods go, and hyphens become spaces.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

OFFICIAL, ANY = "eval/vqa/accuracy_official", "eval/vqa/accuracy_any"
TYPED = f"{OFFICIAL}_"
NEEDED = 4
"""Annotators who must agree for a full mark; data with fewer answers to a question cannot reach it."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS = re.compile(r"(\d)(,)(\d)")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # `(?!<=` is the scorer's slip for `(?<!`
_MOST_PERIODS = 32  # the scorer passes re.UNICODE where a count is taken
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset(("a", "an", "the"))
_WHOLE = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """A contraction that lacks one of its apostrophes -> the whole one; and the scorer's one exception."""
    table = {
        whole[:at] + whole[at + 1 :]: whole
        for whole in _WHOLE.split()
        for at, letter in enumerate(whole)
        if letter == "'"
    }
    return table | {"somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()


@dataclass(frozen=True)
class Scored:
    """An answer to a question, with what annotators answered and what kind of answer it is (`yes/no`, `number` …)."""

    answer: str
    truth: Sequence[str]
    kind: str = ""


@lru_cache(1 << 16)  # the same few answers come again and again
def normalise(text: str) -> str:
    """A text as the scorer compares it where annotators differ: punctuation, case, number words, articles."""
    return _words(_without_punctuation(text))


def accuracy(answer: str, truth: Sequence[str]) -> float:
    """Share of a full mark, 0 to 1, that an answer gets by what annotators answered (officially ten of them)."""
    answer, given = _trimmed(answer), [_trimmed(one) for one in truth]
    if len(set(given)) > 1:
        answer, given = normalise(answer), [normalise(one) for one in given]
    matches = given.count(answer)
    marks = [min(1.0, (matches - (one == answer)) / 3) for one in given]
    return sum(marks) / len(marks) if marks else 0.0


def hit(answer: str, truth: Sequence[str]) -> bool:
    """Whether any annotator answered so, both normalised."""
    return normalise(_trimmed(answer)) in {normalise(_trimmed(one)) for one in truth}


def vqa_metrics(answers: Iterable[Scored]) -> dict[str, float]:
    """Means over all questions, and of the official accuracy also by kind of answer, under `eval/vqa/`."""
    answers = list(answers)
    marks = [accuracy(one.answer, one.truth) for one in answers]
    by_kind: dict[str, list[float]] = {}
    for one, mark in zip(answers, marks, strict=True):
        if name := metric_of_kind(one.kind):
            by_kind.setdefault(name, []).append(mark)
    found = {OFFICIAL: fmean(marks), ANY: fmean(hit(one.answer, one.truth) for one in answers)}
    return found | {name: fmean(by_kind[name]) for name in sorted(by_kind)}


def metric_of_kind(kind: str) -> str | None:
    """`eval/vqa/accuracy_official_yes_no` of the kind `yes/no` and so on; None of a kind without a name."""
    name = re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")
    return f"{TYPED}{name}" if name else None


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A mark goes where a space is beside it, or a comma stands between digits anywhere; else it becomes a space."""
    out, thousands = text, _BETWEEN_DIGITS.search(text) is not None
    for mark in _PUNCTUATION:
        loose = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if loose or thousands else " ")
    return _PERIOD.sub("", out, count=_MOST_PERIODS)


def _words(text: str) -> str:
    found = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in found if word not in _ARTICLES)
