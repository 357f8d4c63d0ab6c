"""What another threshold or policy would keep, for all candidates of a dataset at once: `recut` as masks.

The rules are those of policy.py, said for columns instead of an image's texts; a test holds both to one another. A
million candidates take some ten milliseconds, so that a slider can be drawn.

Shapes: C candidates in the order of the tables, an image's being neighbours.
"""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from components.regeneration.policy import Policy

if TYPE_CHECKING:
    import pyarrow as pa

Mask = npt.NDArray[np.bool_]
_ODD_SPACES = r"[\t\n\x0b\x0c\r\x1c-\x1f]|  |^ | $"


class WhatIf:
    """The candidates of a dataset, ready to be decided again.

    Args:
        image: number of each candidate's image `[C]`, ascending.
        synthetic: whether the captioner wrote it `[C]`.
        probability: match probability `[C]`, NaN where the text was of no use.
        text: the captions `[C]`.
    """

    def __init__(
        self, image: npt.NDArray[np.int32], synthetic: Mask, probability: npt.NDArray[np.float64], text: "pa.Array"
    ) -> None:
        self._image, self._synthetic, self._probability, self._text = image, synthetic, probability, text
        self._usable: Mask = ~np.isnan(probability)

    def kept(self, threshold: float, policy: Policy) -> Mask:
        """Which candidates would stay `[C]`."""
        passed: Mask = self._probability >= threshold  # NaN never does
        if policy == "replace":
            return passed & self._synthetic & self._first_synthetic
        eligible: Mask = passed & self._first
        if policy == "best_of":
            return self._best(eligible)
        if policy == "best_each":
            return self._best(eligible & self._synthetic) | self._best(eligible & ~self._synthetic)
        if policy == "fallback":
            return eligible & ~(self._synthetic & self._among_images(eligible & ~self._synthetic))
        return eligible

    def _best(self, eligible: Mask) -> Mask:
        """The candidate of each image with the highest probability, the first of equal ones."""
        rows = np.flatnonzero(eligible)
        order = np.lexsort((rows, -self._probability[rows], self._image[rows]))
        rows = rows[order]
        first = np.ones(len(rows), bool)
        first[1:] = self._image[rows[1:]] != self._image[rows[:-1]]
        best = np.zeros(len(eligible), bool)
        best[rows[first]] = True
        return best

    def _among_images(self, some: Mask) -> Mask:
        """Candidates of the images that have one of these."""
        if not len(some):
            return some
        images = np.zeros(int(self._image[-1]) + 1, bool)
        images[self._image[some]] = True
        found: Mask = images[self._image]
        return found

    @cached_property
    def _first(self) -> Mask:
        """Candidates whose text no usable candidate of their image had before."""
        return self._not_repeated(self._usable)

    @cached_property
    def _first_synthetic(self) -> Mask:
        """The same where web texts do not count."""
        return self._not_repeated(self._usable & self._synthetic)

    def _not_repeated(self, among: Mask) -> Mask:
        rows = np.flatnonzero(among)
        names = self._image[rows].astype(np.int64) << 32 | self._texts[rows].astype(np.int64)
        _, first = np.unique(names, return_index=True)
        found = np.zeros(len(among), bool)
        found[rows[first]] = True
        return found

    @cached_property
    def _texts(self) -> npt.NDArray[np.int32]:
        """A number per text, equal for texts that differ in case and spaces alone."""
        return text_numbers(self._text)


def text_numbers(text: "pa.Array") -> npt.NDArray[np.int32]:
    """A number for each text `[C]`: the same for those that `" ".join(text.lower().split())` makes equal."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow's letters and spaces are Python's where a text is ASCII and plain; Python itself does the others.
    plain = pc.and_(pc.string_is_ascii(text), pc.invert(pc.match_substring_regex(text, _ODD_SPACES)))
    lowered = pc.ascii_lower(text)
    odd = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    if len(odd):
        own = [" ".join(one.lower().split()) for one in text.take(pa.array(odd)).to_pylist()]
        lowered = pc.replace_with_mask(lowered, pc.invert(plain), pa.array(own, text.type))
    numbers: npt.NDArray[np.int32] = pc.dictionary_encode(lowered).indices.to_numpy(zero_copy_only=False)
    return numbers
