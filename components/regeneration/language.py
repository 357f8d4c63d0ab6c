"""Which language a text is in, by lingua: the only importer of lingua. It comes with the extra `language`.

Captions are short, and of a few words nobody can say for certain which language they are in: a text counts as of a
language where that is at least half as likely as the likeliest one. So a wrong language has to stand out.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lingua import IsoCode639_1, LanguageDetector

_OTHERS = "ar cs da de el en es fa fi fr he hi hu id it ja ko nl pl pt ro ru sv th tr uk vi zh"
"""What a text may be in besides: the languages of most of the web. All that lingua knows would take a gigabyte."""
_ENOUGH = 0.5
_REMEDY = "the language filter needs lingua: pip install 'capfilt[language]', or pip install lingua-language-detector"


def check_language(code: str) -> str:
    """The ISO 639-1 code, in small letters.

    Raises:
        ValueError: lingua knows no such language, or is not there.
    """
    _code(code)
    return code.lower()


def speaks(code: str) -> Callable[[str], bool]:
    """Whether a text may be in the language of this code."""
    wanted, detector = _code(code), _detector(code.lower())

    def decide(text: str) -> bool:
        found = {one.language.iso_code_639_1: one.value for one in detector.compute_language_confidence_values(text)}
        return bool(found[wanted] >= _ENOUGH * max(found.values()))

    return decide


def language_engine() -> dict[str, str]:
    """What decides besides the setting: another release may judge otherwise."""
    return {"lingua": version("lingua-language-detector")}


def _code(code: str) -> "IsoCode639_1":
    try:
        from lingua import IsoCode639_1
    except ImportError as error:
        raise ValueError(_REMEDY) from error
    try:
        return IsoCode639_1.from_str(code.upper())
    except ValueError as error:
        raise ValueError(f"{code!r} is no language that lingua knows: give its ISO 639-1 code, e.g. en") from error


@cache
def _detector(code: str) -> "LanguageDetector":
    """A detector is loaded once per process; it keeps the models of its languages in memory."""
    from lingua import LanguageDetectorBuilder

    codes = sorted({*_OTHERS.split(), code})
    return LanguageDetectorBuilder.from_iso_codes_639_1(*map(_code, codes)).build()
