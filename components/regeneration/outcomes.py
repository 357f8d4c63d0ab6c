"""What became of a caption that was asked for: only what is `ok` is scored, and only what is scored can be kept.

| outcome    | what is meant                                                | rules                                |
|------------|--------------------------------------------------------------|--------------------------------------|
| `ok`       | a text                                                       |                                      |
| `error`    | the captioner could not be asked about this image, or failed | what it said                         |
| `empty`    | nothing, or nothing that says anything                       | `no_text`, `no_words`                |
| `repeated` | the same again and again                                     | `signs`, `words`, `few`, `sentences` |
| `refusal`  | a captioner that says that it cannot, or asks for an image   | keys of `_REFUSALS`                  |
| `echo`     | the prompt, words before a caption, or marks of a chat       | `prompt`, `markup`, `preamble`       |
| `cut`      | it did not end before the limit                              | `length`                             |

The first that fits counts, in this order.
"""

import re
from collections import Counter
from typing import Literal, NamedTuple, get_args

from components.inference.protocols import Written

REVISION = 2  # 2: rules made of what captioners were reported to say
"""Raised when the rules would call a text otherwise than before."""

Outcome = Literal["ok", "error", "empty", "repeated", "refusal", "echo", "cut"]
NOT_OK: tuple[str, ...] = tuple(one for one in get_args(Outcome) if one != "ok")

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SIGNS = re.compile(r"(\S)\1{7,}|(\S.{0,19}?)\2{5,}", re.DOTALL)


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_IMAGE = r"(?:image|picture|photo(?:graph)?|file|link|url)s?"
_GIVEN = r"(?:provided|attached|available|found|uploaded|given|shared|included|received)"
_CANNOT = r"(?:can\s?not|can['’]?t|unable to|not able to|won['’]?t|will not|could not|couldn['’]?t)"
_DOING = (
    r"(?:assist|help|provide|describe|see|view|comply|process|identify|generate|analy[sz]e|access|discuss|display|"
    r"fulfill?|determine|interpret|caption|answer|engage|create|do|tell|read|open)"
)
_ONLY = r"(?:(?:just|only|also|really|currently)\s+)*"
_QUOTED = re.compile(r"[\"“][^\"”]{0,200}[\"”]|(?<!\w)['‘](?:[^'’]|['’](?=\w)){0,200}['’](?!\w)")
_REFUSALS = {
    "apology": _any(
        r"^\W*oops\b",
        r"^\W*(?:i['’]?m|i am|we are|we['’]re)?\s*(?:very |so |really )*(?:sorry|afraid)\b",
        r"^\W*(?:my |our |i |we )?apolog(?:ies|i[sz]e)\b",
        r"^\W*(?:unfortunately|regrettably),? (?:i|we|there|no|the|your|this|that)\b",
        "抱歉|对不起|不好意思",
    ),
    "inability": _any(  # what the captioner says of itself; "I see a dog" and "I can see a dog" are captions
        rf"\b(?:i|we)(?:\s+(?:am|are|was)|['’](?:m|re))\s+{_ONLY}(?:not|unable|going|having|designed|programmed|trained|"
        r"built|an?\s+(?:[\w-]+\s+)?(?:ai|assistant|model))\b",
        rf"\b(?:i|we)\s+{_ONLY}(?:can(?! see)|can['’]?t|cannot|could|couldn['’]?t|will|won['’]?t|would|must|do not|"
        r"don['’]?t|did not|didn['’]t|have (?:to|no)|need|require|lack|refuse|prefer|avoid|decline)\b",
        r"\bi['’](?:d (?:rather|prefer|need|be)|ll (?:need|be))\b",
        rf"^\W*{_CANNOT}\s+(?:\w+\s+){{0,2}}{_DOING}\b",
        r"\b(?:as|just|only) an? (?:[\w-]+\s+){0,3}?(?:ai|artificial intelligence|assistant|language model)\b",
        r"\bmy (?:training|instructions|knowledge|(?:cap)?abilit(?:y|ies))\b",
        "无法|我不能|作为一个",
    ),
    "no_image": _any(
        rf"\bno (?:\w+ )?(?:{_IMAGE}|content|description|caption|information)\s+(?:(?:was|is|has been|were|seems|"
        rf"appears)\b|in your|to describe|(?:\w+ )?{_GIVEN})",
        rf"\b(?:is|see|are) no {_IMAGE}\W*(?:here\W*)?$",
        rf"\bplease (?:\w+ )?(?:provide|upload|share|attach|send)\b.{{0,40}}\b(?:{_IMAGE}|context|details|again)\b",
        r"\b(?:could|can|would) you (?:please )?(?:provide|upload|share|attach|send|clarify|describe)\b",
        rf"(?:\bnot|n['’]t)\b.{{0,20}}\b(?:an|any|the) {_IMAGE}\s*(?:[.!,?]|$|here|attached|in your)",
        rf"\b{_IMAGE}\s+(?:[\w'’]+\s+){{0,3}}?(?:(?:could|did|does|has|is|was)(?: not|n['’]?t)|can['’]?t|cannot|"
        rf"fail(?:s|ed) to)\s+(?:be(?:en)?\s+)?(?:{_GIVEN}|load(?:ed)?|display(?:ed)?|described|accessible|accessed|"
        r"opened|processed|come through|lead|upload)\b",
        rf"\b{_IMAGE}\s+(?:is|was|appears to be|seems to be)\s+(?:missing|broken|corrupted|blank|empty)\s*(?:[.!,?]|$)",
        r"(?:\bnot|n['’]t)(?: been)? (?:uploaded|attached|provided|received)\b",
        r"\bforgot(?:ten)? to (?:attach|upload|include|share)",
        r"\bsomething went wrong\b|\ban error (?:has )?occurred\b",
    ),
    "policy": _any(
        r"\b(?:my|our|safety|usage|content|community)\s+(?:\w+\s+)?(?:guidelines|polic(?:y|ies)|programming|filters?)\b",
        r"\b(?:not |in)appropriate (?:for me )?to\b",
        r"\byour (?:request|message|question|prompt|query|upload)\b",
        r"\bthis (?:request|content) (?:may|might|goes|violates|is not)\b",
    ),
    "talk": _any(
        r"\bhow (?:can|may) i (?:help|assist)\b|\b(?:happy|glad) to (?:help|assist)\b|\bwhat would you like\b",
        r"\b(?:something|what) i (?:can )?do\b|\blet me know\b",
        r"\bplease (?:try|note)\b|\bkindly (?:upload|provide|try)\b",
        r"\bany imaginary content\b|\bbased on the visible content\b",
    ),
}
_MARKUP = re.compile(
    r"</?[A-Za-z|][^<>\n]{0,40}>|\[/?INST\]|^\s*(?:```|\{\s*[\"'])|#{3,}\s*\w+|\b(?:USER|ASSISTANT|SYSTEM)\s*:|"
    r"\n\s*(?:[Uu]ser|[Hh]uman|[Aa]ssistant|[Qq]uestion)\s*:|^\s*(?:user|assistant|system|model)\s*\n|"
    r"\b[Yy]ou are a helpful\b"
)
_PREAMBLE = _any(
    r"^\W*(?:sure(?: thing)?|certainly|of course|got it|okay|alright|absolutely|as requested)\b\s*[!,.:]",
    r"^\W*(?:here(?:['’]s| is| are)|this is|below is)\s+(?:an?|the|one|your|my)\s+(?:[\w-]+\s+){0,4}?(?:sentence|"
    r"caption|description|summary)\b",
    r"^\W*(?:[\w'’-]+\s+){0,4}?(?:caption|description|sentence|summary|answer|response|output|prompt|question)\b"
    r"(?:\s+\w+){0,5}\W{0,4}:",
    r"^\W*(?:user|assistant|human|system|model|q|a)\W{0,4}:",
)
_NOTHING = frozenset(("none", "null", "na", "nan", "undefined", "unknown", "untitled", "blank", "empty"))
_ECHOED = 5  # words of the prompt in a row
_FEW, _FEW_SHARE = 12, 0.3
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
        ("empty", "no_words" if _says_nothing(words) else ""),
        ("refusal", _refused(text)),
        ("echo", _echoed(text, words, prompt)),
        ("cut", "length" if written.finish == "length" else ""),
    ):
        if rule:
            return Found(outcome, rule)  # type: ignore[arg-type]
    return Found("ok")


def _says_nothing(words: list[str]) -> bool:
    """Whether no word has a letter, or there is but a word for nothing."""
    letters = "".join(character for word in words for character in word if character.isalpha())
    return not letters or letters in _NOTHING


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
    """Whether the whole is said twice, with or without a word between."""
    half = len(words) // 2
    return half >= _SENTENCE and words[:half] == words[-half:]


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
    own = _QUOTED.sub("", text)  # what a sign says is not what the captioner says
    said = own if _WORD.search(own) else text
    return next((rule for rule, pattern in _REFUSALS.items() if pattern.search(said)), "")


def _echoed(text: str, words: list[str], prompt: str) -> str:
    asked = [word.lower() for word in _WORD.findall(prompt)]
    size = min(len(asked), _ECHOED)
    said = f" {' '.join(words)} "
    if size >= 4 and any(f" {' '.join(asked[at : at + size])} " in said for at in range(len(asked) - size + 1)):
        return "prompt"
    if _MARKUP.search(text):
        return "markup"
    return "preamble" if _PREAMBLE.search(text) else ""
