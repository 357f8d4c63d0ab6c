"""Penn-Treebank-style tokens for caption metrics, without Java.

Published BLEU, ROUGE-L and CIDEr are computed on the output of Stanford's PTBTokenizer (CoreNLP 3.4.1 with
`-preserveLines -lowerCase`) minus a list of punctuation marks. This is an independent tokenizer written from that
program's observable behaviour: contractions are split (`isn't` -> `is n't`), abbreviations keep their full stop,
brackets get names (`-lrb-`, which the punctuation list misses: a published quirk that is kept), quotes and dashes go.
Agreement on real captions and web texts is measured in tests/numerics/test_caption_metrics.py.

At each place the longest of the `_RULES` wins, the earlier of two equally long ones, as in any generated lexer.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

# Tokens that are left out before scoring. `-LRB-` and friends are absent on purpose: see the module's docstring.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# `\w` less superscripts and fractions, with combining accents.
_MARKS = r"[\u0300-\u036f]*"
_LETTER = rf"(?:[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u218b]{_MARKS})"
_ALNUM = rf"(?:[^\W_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u218b]{_MARKS})"
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=\s|$)")
_SPACE = re.compile(r"[\s\u200b\u2060\ufeff\x00-\x20\x85]+")

_ASSIMILATIONS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
    "wanna": ("wan", "na"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
# Abbreviations that keep their full stop wherever they stand. The second list does so only when capitalised (`Miss.` is
# a state, `miss.` ends a sentence), the third only before a number (`fig. 3`).
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|drs|st|ste|ave|blvd|rd|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu"
    "|thurs|fri|co|corp|ltd|inc|jr|sr|ft|al|cf|dept|est|ext|gen|col|sgt|lt|rev|prof|hon|gov|sen|rep|reps|sens|govs"
    "|profs|cmdr|cpl|capt|maj|adm|brig|pvt|spc|messrs|mme|mlle|msgr|pres|supt|bros|assoc|assn|det|univ|intl|etc|vs"
    "|tel|bldg|ct|sq|mt|ala|ariz|calif|colo|conn|fla|ga|ind|kan|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt"
    "|wis|wyo|bhd|cos|comdr|esq|ph|rt|sys|natl|seq|adj|adv|pfc|ens|asst|atty|insp|treas"
)
_CAPITALISED = "Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash|Mfg|Pty"
_BEFORE_NUMBER = "no|nos|fig|figs|pp|ca|art|op"


_APOSTROPHE = "['\u2019]"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_NUMBER = r"\d*(?:[.,:]\d+)+|\d+"
_CONTRACTED = rf"{_APOSTROPHE}(?i:s|m|d|ll|re|ve)(?!{_ALNUM})"
_EXTENSIONS = (
    "bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java"
    "|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip"
)
_URL_PART = r"[^\s\"<>|.!?(){},-]+"

Emit = Callable[[str], tuple[str, ...]]


def _same(text: str) -> tuple[str, ...]:
    return (text,)


def _nothing(_: str) -> tuple[str, ...]:
    return ()


def _as(*tokens: str) -> Emit:
    return lambda _: tokens


def _split_assimilation(text: str) -> tuple[str, ...]:
    return _ASSIMILATIONS[text.lower()]


def _split_negation(text: str) -> tuple[str, ...]:
    stem, negation = text[:-3], text[-3:].replace("\u2019", "'")
    return (stem, negation) if stem else (negation,)


def _straight(text: str) -> tuple[str, ...]:
    return (text.replace("\u2019", "'"),)


# (pattern, what to emit), tried together; the longest match wins, the earlier rule on a tie.
_RULES: list[tuple[re.Pattern[str], Emit]] = [
    (re.compile(pattern), emit)
    for pattern, emit in (
        (r"</?[A-Za-z][^<>]*>", _same),
        (r"&(?i:amp);", _as("&")),
        (r"&(?i:lt);", _as("<")),
        (r"&(?i:gt);", _as(">")),
        (r"&(?i:quot);", _as("''")),
        (r"&(?i:apos);", _as("'")),
        (r"&(?i:nbsp);", _nothing),
        (r"&#\d+;", _same),
        (r"(?i:https?|ftp)://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]", _same),
        (rf"(?i:www)\.(?:{_URL_PART}\.)+[A-Za-z]{{2,4}}(?:/[^\s\"<>|()]*[^\s\"<>|.!?(){{}},-])?", _same),
        (rf"(?!@)(?:{_URL_PART}\.)+(?i:com|net|org|edu)(?:/[^\s\"<>|()]*[^\s\"<>|.!?(){{}},-])?(?!{_ALNUM})", _same),
        (r"[A-Za-z0-9][^\s\"<>|(){}@]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}.]+", _same),
        (rf"@{_LETTER}\w*|#{_LETTER}+", _same),
        # Words cut in two
        (rf"(?i:cannot|gonna|gotta|lemme|gimme|wanna)(?!{_ALNUM})", _split_assimilation),
        (rf"'(?i:tis|twas)(?!{_ALNUM})", _split_assimilation),
        (rf"{_LETTER}*?(?i:n['\u2019`]t)(?!{_ALNUM})", _split_negation),
        (_CONTRACTED, _straight),
        (rf"(?i:y){_APOSTROPHE}(?={_LETTER})", _straight),
        # Words with an apostrophe of their own
        (rf"(?i:{_APOSTROPHE}n{_APOSTROPHE}|{_APOSTROPHE}(?:n|em|till?|cause)(?!{_ALNUM}))", _same),
        (rf"{_APOSTROPHE}[2-9]0(?i:s)(?!{_ALNUM})|{_APOSTROPHE}\d\d(?!{_ALNUM})", _same),
        (rf"(?i:[dol]|c|qu|s(?=['\u2019]mores))['\u2019]{_LETTER}+", _same),
        (rf"(?i:d{_APOSTROPHE}ye|ma{_APOSTROPHE}am|o{_APOSTROPHE}clock|n?e{_APOSTROPHE}er|nat{_APOSTROPHE}l)", _same),
        (rf"(?i:ol){_APOSTROPHE}", _same),
        (rf"[A-Za-z]+(?i:[aeiou]{_APOSTROPHE}[aeiou])[A-Za-z]*", _same),
        # Abbreviations
        (rf"(?:(?i:{_ABBREVIATIONS})|{_CAPITALISED}|{_CAPITALISED.upper()})\.", _same),
        (rf"(?i:{_BEFORE_NUMBER})\.(?=\s*\d)", _same),
        (r"(?:[A-Za-z]\.)+|(?i:ph)\.(?i:d)\.", _same),
        (rf"(?:[A-Za-z]\.)+-{_WORD}", _same),
        (rf"{_ALNUM}+(?:-{_ALNUM}+)*\.(?=[,;:])", _same),
        # Words and numbers, also joined by hyphens, slashes and underscores
        (_WORD, _same),
        (rf"{_ALNUM}+", _same),
        (rf"{_ALNUM}+(?:\.{_ALNUM}+)*\.(?i:{_EXTENSIONS})(?!{_ALNUM})", _same),
        (rf"(?:\d+(?:[.,]\d+)+|{_ALNUM}+)(?:[-_]{_ALNUM}+)+", _same),
        (r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z0-9]+){0,2}){1,2}", _same),
        (r"\d+-\d+/\d+|\d+ \d+/\d+", _same),
        (rf"[-+]?(?:{_NUMBER})", _same),
        (r"[A-Z]+(?:&[A-Z]+)+", _same),
        (r"(?i:c)(?:\+\+|#)(?![#+])", _same),
        # Marks
        (r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]](?!\w)", _same),
        (r"\.{3,4}|\. \. \.|\u2026", _as("...")),
        (r"[!?]+", _same),
        (r"-{5,}", _same),
        (r"-{2,4}|[\u2013-\u2015\x96\x97]", _as("--")),
        (r"<<|>>|\*{1,3}|_+|@+|#+", _same),
        (r"(?i:us)\$", _same),
        (r"[\u20ac\u20a0\u00a4\x80]", _as("$")),
        (r"\u00a3", _as("#")),
        (r"\u00a2", _as("cents")),
        (r"\u00bd", _as("1/2")),
        (r"\u00bc", _as("1/4")),
        (r"\u00be", _as("3/4")),
        (r"\u2153", _as("1/3")),
        (r"\u2154", _as("2/3")),
        (r"''|``|[\"\u201c\u201d\u00ab\u00bb\x93\x94]", _as("''")),
        (r"['`\u2018\u2019\u201b\u2039\u203a\x91\x92]", _as("'")),
    )
]
_NAMED = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}


@lru_cache(maxsize=65536)
def tokenize(text: str) -> str:
    """Lower-cased tokens of a caption without punctuation, joined by single spaces."""
    tokens = (token.lower() for token in _tokens(text.replace("\xad", "")))
    return " ".join(token for token in tokens if token not in PUNCTUATION)


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        if space := _SPACE.match(text, position):
            position = space.end()
            continue
        word = _PLAIN_WORD.match(text, position)
        if word and word[0].lower() not in _ASSIMILATIONS:  # nine tokens in ten, and no rule can do better
            yield word[0]
            position = word.end()
            continue
        tokens, position = _longest(text, position)
        yield from tokens


def _longest(text: str, position: int) -> tuple[tuple[str, ...], int]:
    best, emit = position, _RULES[0][1]
    for pattern, action in _RULES:
        found = pattern.match(text, position)
        if found and found.end() > best:
            best, emit = found.end(), action
    if best > position:
        return emit(text[position:best]), best
    mark = text[position]
    return ((_NAMED.get(mark, mark),) if _is_writable(mark) else ()), position + 1


def _is_writable(mark: str) -> bool:
    """Whether a lone character is a token: symbols of the basic blocks are, emoji and control characters are not."""
    return (mark < "\u2010" or "\u2012" < mark < "\u2c00") and unicodedata.category(mark)[0] in "PSNLM"
