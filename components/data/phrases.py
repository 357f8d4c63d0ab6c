"""Search by words, with what captions say beside the vectors: of small things a vector is less sure than a caption.

An image's place is the cosine of its vector and the words', in standard deviations over all images, and 4 of these more
where a kept caption says the words, 2 where only a dropped one does (measured: docs/benchmarks.md). A caption says them
if they stand in it one after the other, a space between, in any case, the last perhaps in the plural; a leading article
counts for nothing. So images without a caption that says them come behind, in the order of their vectors.
"""

import re
import string
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

KEPT_SAYS, DROPPED_SAYS = np.float32(4), np.float32(2)
_ARTICLES = ("a", "an", "the")
_EDGE = r"[^\pL\pN]"  # RE2's \b knows ASCII alone


class Said(NamedTuple):
    """Of which images `[N]` some caption says the words, and of which a kept one does."""

    at_all: Mask
    kept: Mask


def says(texts: "pa.Array | pa.ChunkedArray", words: str) -> Mask:
    """Which texts `[C]` say the words."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: Mask = np.zeros(len(texts), bool)
    if not (phrase := _phrase(words)):
        return found
    # The phrase first, whole words among those alone: RE2 takes seconds for a long pattern with edges
    rows = np.flatnonzero(pc.match_substring(texts, phrase, ignore_case=True).to_numpy(zero_copy_only=False))
    whole = rf"(?i)(?:^|{_EDGE}){re.escape(phrase)}(?:e?s)?(?:$|{_EDGE})"
    found[rows] = pc.match_substring_regex(texts.take(pa.array(rows)), whole).to_numpy(zero_copy_only=False)
    return found


def places(similarity: Floats, said: Said) -> Floats:
    """The images' places `[N]`, the best the largest, from their cosines; NaN where there is none."""
    known = similarity[~np.isnan(similarity)]
    spread = float(known.std()) if len(known) else 0.0
    found = (similarity - known.mean()) / spread if spread else similarity * 0
    more: Floats = np.where(said.kept, KEPT_SAYS, np.where(said.at_all, DROPPED_SAYS, np.float32(0)))
    return (found + more).astype(np.float32)


def _phrase(words: str) -> str:
    """What is looked for; empty where no word is left."""
    named = [word for one in words.split() if (word := one.strip(string.punctuation))]
    return " ".join(named[1:] if len(named) > 1 and named[0].lower() in _ARTICLES else named)
