"""What became of a caption that was asked for: only what is `ok` is scored, and only what is scored can be kept.

| outcome    | what is meant                                                | rules                                |
|------------|--------------------------------------------------------------|--------------------------------------|
| `ok`       | a text                                                       |                                      |
| `error`    | the captioner could not be asked about this image, or failed | what it said                         |
| `empty`    | nothing, or nothing that says anything                       | `no_text`, `no_words`                |
| `repeated` | the same again and again                                     | `signs`, `words`, `few`, `sentences` |
| `refusal`  | a captioner that says that it cannot, or asks for an image   | those of refusals.py                 |
| `echo`     | the prompt, a task, words before a caption, marks of a chat  | `prompt`, `markup`, `task`,          |
|            |                                                              | `preamble`                           |
| `cut`      | it did not end before the limit                              | `length`                             |

The first that fits counts, in this order.
"""

import re
from collections import Counter
from typing import Literal, NamedTuple, get_args

from components.inference.protocols import Written
from components.regeneration.refusals import any_of, refused

REVISION = 3  # 3: refusals are known by what they speak of; texts of no content are empty; a word four times running
"""Raised when the rules would call a text otherwise than before."""

Outcome = Literal["ok", "error", "empty", "repeated", "refusal", "echo", "cut"]
NOT_OK: tuple[str, ...] = tuple(one for one in get_args(Outcome) if one != "ok")

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SIGNS = re.compile(r"(\S)\1{7,}|(\S.{0,19}?)\2{5,}", re.DOTALL)

_MARKUP = re.compile(
    r"</?[A-Za-z|][^<>\n]{0,40}>|\[/?INST\]|^\s*(?:```|\{\s*[\"'])|#{3,}\s*\w+|\b(?:USER|ASSISTANT|SYSTEM)\s*:|"
    r"\n\s*(?:[Uu]ser|[Hh]uman|[Aa]ssistant|[Qq]uestion)\s*:|^\s*(?:user|assistant|system|model)\s*\n|"
    r"\b[Yy]ou are (?:a helpful|an AI)\b|^\s*(?:user|assistant|system|model)\s+(?:An?|The|Two|Three|There|This)\s"
)
_ABOUT = r"(?:images?|pictures?|photos?|photographs?|captions?|sentences?|descriptions?|words)"
_TASK = any_of(  # what people ask of a captioner, and what one says to itself before it answers
    rf"^\W*(?:please |now )?(?:describe|write|give|provide|summari[sz]e|generate|create|compose|produce|caption|"
    rf"output|answer|respond|reply)\b[^.:!?]{{0,40}}\b{_ABOUT}\b",
    rf"^\W*(?:what|how would)\b[^.!?]{{0,40}}\b{_ABOUT}\b[^.!?]{{0,20}}\?",
    r"^\W*in (?:one|a|1)(?: \w+){0,2} sentences?\b|\b(?:sentence|caption|description) (?:and nothing|only\b)",
    r"\bthe user (?:wants?|asks?|asked|is asking|requests?|has|needs?|would like)\b|\bstep by step\b",
    r"^\W*(?:let me|let['’]s|first,? i|okay,? (?:so|let)|the (?:task|instruction|prompt) (?:is|says|asks))\b",
    r"^\W*(?:beschreib\w*|décri\w+|describ(?:a|e (?:la|esta|lo))\b|descrev\w+|descrivi\b|beschrijf|опиши\w*|opisz|"
    r"请?(?:用.{0,8})?描述)",
)
_PREAMBLE = any_of(
    r"^\W*(?:sure(?: thing)?|certainly|of course|got it|okay|alright|absolutely|as requested)\b\s*[!,.:]",
    r"^\W*(?:here(?:['’]s| is| are)|this is|below is)\s+(?:an?|the|one|your|my)\s+(?:[\w-]+\s+){0,4}?(?:sentence|"
    r"caption|description|summary)\b",
    r"^\W*(?:[\w'’-]+\s+){0,4}?(?:caption|description|sentence|summary|answer|response|output|prompt|"
    r"question)\b(?:\s+\w+){0,5}\W{0,4}:",
    r"^\W*(?:user|assistant|human|system|model|q|a)\W{0,4}:",
)
_TOKENS = re.compile(r"<[^<>\s]{0,30}>|\[[A-Z]{2,6}\]|&[a-z]{2,6};|\\[nrt]")
_NOTHING = """none null nil na n nan undefined unknown untitled blank empty tbd todo lorem ipsum yes no ok okay text
caption captions description image images picture pictures photo photos photograph a an the this that there here it is
are was of in on to and with shows showing depicts depicting"""  # words that say nothing by themselves, nor together
_ASKS = "describe description sentence sentences caption write word words detail brief briefly answer"
_ECHOED = 5  # words of the prompt in a row
_SHORT, _SHARED = 3, 0.6  # letters; of the words that are longer
_FEW, _FEW_SHARE = 12, 0.3
_RUN, _LONGEST_RUN, _TIMES = 4, 12, 3
_SENTENCE = 3  # words


class Found(NamedTuple):
    """An outcome and the rule that found it, empty for `ok`."""

    outcome: Outcome
    rule: str = ""


def outcome_of(written: Written, prompt: str = "") -> Found:
    """What became of a caption.

    Args:
        written: what the captioner gave.
        prompt: what it was asked; one of fewer than four words is the start of a caption, not a question.
    """
    text = written.text.strip()
    words = [word.lower() for word in _WORD.findall(text)]
    if written.finish == "error":
        return Found("error", written.detail or "unknown")
    if not text:
        return Found("empty", "no_text")
    for outcome, rule in (
        ("repeated", _repeated(text, words)),
        ("empty", "no_words" if _says_nothing(text) else ""),
        ("refusal", refused(text)),
        ("echo", _echoed(text, words, prompt)),
        ("cut", "length" if written.finish == "length" else ""),
    ):
        if rule:
            return Found(outcome, rule)  # type: ignore[arg-type]
    return Found("ok")


def _says_nothing(text: str) -> bool:
    """Whether nothing is left of a text but signs, a tokenizer's marks and words such as "a picture of"."""
    nothing = frozenset(_NOTHING.split())
    words = _WORD.findall(_TOKENS.sub(" ", text).lower())
    return not any(any(map(str.isalpha, word)) and word not in nothing for word in words)


def _repeated(text: str, words: list[str]) -> str:
    if _SIGNS.search(text):
        return "signs"
    if _looped(words) or _doubled(words):
        return "words"
    if len(words) >= _FEW and len(set(words)) <= _FEW_SHARE * len(words):
        return "few"
    sentences = Counter(tuple(_WORD.findall(one.lower())) for one in re.split(r"[.!?\n]+", text))
    return "sentences" if any(count >= _TIMES and len(one) >= _SENTENCE for one, count in sentences.items()) else ""


def _doubled(words: list[str]) -> bool:
    """Whether the whole is said twice, with or without a word between, or twice and begun again."""
    half = len(words) // 2
    again = any(words[size:] == words[:-size] for size in range(_SENTENCE, half + 1))
    return again or (half >= _SENTENCE and words[:half] == words[-half:])


def _looped(words: list[str]) -> bool:
    """Whether a word comes four times running, or a group of 2 to 12 words three times."""
    for size in range(1, min(_LONGEST_RUN, len(words) // 2) + 1):
        needed = (_RUN if size == 1 else _TIMES) * size - size  # words that equal the one `size` before
        same = 0
        for at in range(size, len(words)):
            same = same + 1 if words[at] == words[at - size] else 0
            if same >= needed:
                return True
    return False


def _echoed(text: str, words: list[str], prompt: str) -> str:
    asked = [word.lower() for word in _WORD.findall(prompt)]
    size = min(len(asked), _ECHOED)
    said = f" {' '.join(words)} "
    if size >= 4 and any(f" {' '.join(asked[at : at + size])} " in said for at in range(len(asked) - size + 1)):
        return "prompt"
    if _MARKUP.search(text):
        return "markup"
    if _TASK.search(text) or _asked_again(words, asked):
        return "task"
    return "preamble" if _PREAMBLE.search(text) else ""


def _asked_again(words: list[str], asked: list[str]) -> bool:
    """Whether a text is the prompt in other words: most of what it says, and a word of asking, is the prompt's."""
    said, prompt = ({word for word in one if len(word) > _SHORT} for one in (words, asked))
    shared = said & prompt
    return len(shared) >= 2 and not shared.isdisjoint(_ASKS.split()) and len(shared) >= _SHARED * len(said)
