"""Two versions side by side: which captions came, which went, which were decided otherwise."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from components.pages.browser.version import Ints, Mask, Version

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = {
    "otherwise": "decided otherwise",
    "added": "added: no candidate before",
    "removed": "removed: no candidate any more",
}


class Comparison:
    """The captions of two versions, told apart by shard, key, source and text as `dataset diff` does.

    Attributes:
        before: row in the first version of each caption of either, -1 where it is no candidate.
        after: the same for the second version.
    """

    def __init__(self, first: Version, second: Version) -> None:
        names = _names(first, second)
        places = [_one_each(name, one.kept) for name, one in zip(names, (first, second), strict=True)]
        known = [name[rows] for name, rows in zip(names, places, strict=True)]
        every = np.union1d(*known)
        self.before, self.after = (_rows(every, name, rows) for name, rows in zip(known, places, strict=True))
        self._in_first, self._in_second = _kept(first, self.before), _kept(second, self.after)
        shown = np.where(self.after >= 0, self.after, self.before)
        self._order = np.argsort(shown, kind="stable")

    def select(self, kind: str) -> Ints:
        """Captions of a kind of change, in the order of the second version."""
        found: Ints = self._order[self._masks()[kind][self._order]].astype(np.int32)
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many captions there are of each kind of change, and kept in both."""
        counts = {kind: int(mask.sum()) for kind, mask in self._masks().items()}
        return counts | {"in_both": int((self._in_first & self._in_second).sum())}

    def _masks(self) -> dict[str, Mask]:
        both = (self.before >= 0) & (self.after >= 0)
        return {
            "otherwise": both & (self._in_first ^ self._in_second),
            "added": self._in_second & (self.before < 0),
            "removed": self._in_first & (self.after < 0),
        }


def _names(first: Version, second: Version) -> list[npt.NDArray[np.int64]]:
    """A number for each candidate of either version, equal for captions that are one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = _numbers(pa.chunked_array([first.text, second.text]))
    shards = [pa.array(one.shards, pa.large_string()).take(pa.array(one.image_shard)) for one in (first, second)]
    keys = [
        pc.binary_join_element_wise(shard, one.image_key, pa.scalar("\n", pa.large_string()))
        for shard, one in zip(shards, (first, second), strict=True)
    ]
    images = _numbers(pa.chunked_array(keys))
    of_image = [images[: first.images][first.image], images[first.images :][second.image]]
    sources = sorted({*first.source.names, *second.source.names})
    of_source = [
        np.array([sources.index(name) for name in one.source.names], np.int64)[one.source.codes]
        for one in (first, second)
    ]
    pairs = np.concatenate(of_image) * len(sources) + np.concatenate(of_source)
    _, pairs = np.unique(pairs, return_inverse=True)
    names = pairs.astype(np.int64) << 32 | texts
    return [names[: len(first)], names[len(first) :]]


def _numbers(column: "pa.ChunkedArray") -> npt.NDArray[np.int64]:
    """A number for each text, equal for equal ones."""
    import pyarrow.compute as pc

    coded = pc.dictionary_encode(column.combine_chunks())
    found: npt.NDArray[np.int64] = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _one_each(names: npt.NDArray[np.int64], kept: Mask) -> Ints:
    """A row for each caption, ordered by its number: the kept one where it is there several times."""
    order = np.lexsort((~kept, names))
    first = np.ones(len(order), bool)
    first[1:] = names[order[1:]] != names[order[:-1]]
    found: Ints = order[first].astype(np.int32)
    return found


def _rows(every: npt.NDArray[np.int64], names: npt.NDArray[np.int64], rows: Ints) -> Ints:
    found: Ints = np.full(len(every), -1, np.int32)
    found[np.searchsorted(every, names)] = rows
    return found


def _kept(version: Version, rows: Ints) -> Mask:
    found: Mask = np.zeros(len(rows), bool)
    known = rows >= 0
    found[known] = version.kept[rows[known]]
    return found
