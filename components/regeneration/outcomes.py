"""What became of a caption that was asked for: only what is `ok` is scored, and only what is scored can be kept.

| outcome    | what is meant                                                   | rules                             |
|------------|-----------------------------------------------------------------|-----------------------------------|
| `ok`       | a text                                                          |                                   |
| `error`    | the captioner could not be asked about this image, or failed    | what it said                      |
| `empty`    | nothing, or nothing but signs                                   | `no_text`, `no_words`             |
| `repeated` | the same again and again                                        | `signs`, `words`, `sentences`     |
| `refusal`  | a captioner that says that it cannot, or asks for an image      | `apology`, `inability`, `no_image` |
| `echo`     | the prompt, or marks of the chat it was put in                  | `prompt`, `markup`                |
| `cut`      | it did not end before the limit                                 | `length`                          |

The first that fits counts, in this order.
"""

import re
from collections import Counter
from typing import Literal, NamedTuple, get_args

from components.inference.protocols import Written

Outcome = Literal["ok", "error", "empty", "repeated", "refusal", "echo", "cut"]
NOT_OK: tuple[str, ...] = tuple(one for one in get_args(Outcome) if one != "ok")

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SIGNS = re.compile(r"(\S)\1{7,}|(\S.{0,19}?)\2{5,}", re.DOTALL)
_APOLOGY = re.compile(
    r"^\W*(?:i['’]?m|i am|we are|we['’]re)?\s*(?:very |so |really )?(?:sorry|apologi[sz]e|afraid)\b", re.I
)
_INABILITY = re.compile(
    r"\b(?:i|we)\s*(?:am|['’]m|was|are)?\s*(?:can\s?not|can['’]?t|cannot|unable to|not able to|do not have the ability|"
    r"don['’]?t have the (?:ability|capability)|won['’]?t|will not|could not|couldn['’]?t)\s+"
    r"(?:\w+\s+){0,2}(?:assist|help|provide|describe|see|view|comply|process|identify|generate|analy[sz]e|access|"
    r"discuss|display|fulfil|fulfill|determine|interpret|caption|answer|engage|create|do|tell)\b"
    r"|\bas an? (?:ai|artificial intelligence|(?:large )?language model|text-based)\b",
    re.I,
)
_NO_IMAGE = re.compile(
    r"\b(?:no image (?:was|is|has been|seems|appears)|(?:please|could you|can you)\s+(?:please\s+)?"
    r"(?:provide|upload|share|attach|send)\b.{0,30}\b(?:image|picture|photo)"
    r"|(?:do not|don['’]t|cannot|can['’]t) see (?:any|an|the) (?:image|picture|photo))",
    re.I,
)
_MARKUP = re.compile(
    r"<\|[\w\s]{1,30}\|>|<(?:/?s|image|unk|pad|bos|eos|start_of_turn|end_of_turn|end_of_utterance|[A-Z_]{4,30})>"
    r"|\[/?INST\]|^\W*(?:USER|ASSISTANT|SYSTEM|Human|Assistant|User)\s*:|\b(?:USER|ASSISTANT)\s*:"
)
_RUN, _LONGEST_RUN, _TIMES = 5, 12, 3
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
        ("empty", "" if words else "no_words"),
        ("refusal", _refused(text)),
        ("echo", _echoed(text, words, prompt)),
        ("cut", "length" if written.finish == "length" else ""),
    ):
        if rule:
            return Found(outcome, rule)  # type: ignore[arg-type]
    return Found("ok")


def _repeated(text: str, words: list[str]) -> str:
    if _SIGNS.search(text):
        return "signs"
    if _looped(words):
        return "words"
    sentences = Counter(tuple(_WORD.findall(one.lower())) for one in re.split(r"[.!?\n]+", text))
    return "sentences" if any(count >= _TIMES and len(one) >= _SENTENCE for one, count in sentences.items()) else ""


def _looped(words: list[str]) -> bool:
    """Whether a word comes five times running, or a group of 2 to 12 words three times."""
    for size in range(1, min(_LONGEST_RUN, len(words) // 2) + 1):
        needed = (_RUN if size == 1 else _TIMES) * size - size  # words that equal the one `size` before
        same = 0
        for at in range(size, len(words)):
            same = same + 1 if words[at] == words[at - size] else 0
            if same >= needed:
                return True
    return False


def _refused(text: str) -> str:
    for rule, pattern in (("apology", _APOLOGY), ("inability", _INABILITY), ("no_image", _NO_IMAGE)):
        if pattern.search(text):
            return rule
    return ""


def _echoed(text: str, words: list[str], prompt: str) -> str:
    asked = [word.lower() for word in _WORD.findall(prompt)]
    if len(asked) >= 4 and " ".join(asked) in " ".join(words):
        return "prompt"
    return "markup" if _MARKUP.search(text) else ""
