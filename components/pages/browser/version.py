"""A dataset version as columns: every candidate's text, scores and fate, without an object per row.

Shapes: C candidates in the order of the tables, M images; an image's candidates are neighbours.
"""

import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from components.common.errors import DataError
from components.common.storage import normalise_uri
from components.data.candidates import stored_candidates
from components.data.commits import READERS
from components.data.fetch import ShardCache
from components.data.manifest import load_manifest
from components.data.parallel import ordered_map
from components.data.phrases import Said, says
from components.data.pictures import pictures_of
from components.data.records import ShardEntry
from components.data.scores import ITM
from components.data.search import Floats, VectorIndex, open_index
from components.regeneration.whatif import WhatIf

if TYPE_CHECKING:
    import pyarrow as pa

Ints = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Kind = TypeVar("Kind", bound=np.generic)

MAIN_SCORE = "itm_probability"
"""The score that the threshold is held against."""
CHEAP_SCORE = "itc_similarity"
"""The one that a cascade asks first."""
_NO_SCORES = ("weight",)


class Coded(NamedTuple):
    """A column of few different texts: which they are, and the number of each row's."""

    names: list[str]
    codes: npt.NDArray[np.int16]

    def mask(self, name: str) -> Mask:
        """Rows with this text."""
        code = self.names.index(name) if name in self.names else -1
        found: Mask = self.codes == code
        return found


class Version:
    """A sealed dataset, read for looking at.

    Args:
        uri: its root.
        cache: for shards that are not on this machine.

    Raises:
        DataError: there is none, or a table is not the one that was committed.
    """

    def __init__(self, uri: str, cache: ShardCache | None = None) -> None:
        self.uri = normalise_uri(uri)
        self.manifest = load_manifest(self.uri)
        self.cache = cache or ShardCache()
        self.pictures = pictures_of(self.uri, self.manifest, self.cache)
        self.shards = [entry.name for entry in self.manifest.shards]
        entries = enumerate(self.manifest.shards)
        parts = list(ordered_map(lambda one: _read(self.uri, *one), entries, threads=READERS))
        self._join([part for part in parts if len(part.kept)])
        self._turn = threading.Lock()

    def _join(self, parts: "list[_Part]") -> None:
        self.text = _joined(part.text for part in parts)
        self.image_key = _joined(part.image_key for part in parts)
        self.image_shard: Ints = _concatenated([part.image_shard for part in parts], np.int32)
        starts = np.cumsum([0, *(len(part.image_key) for part in parts)])
        images: list[Ints] = [part.image + np.int32(start) for part, start in zip(parts, starts, strict=False)]
        self.image: Ints = _concatenated(images, np.int32)
        self.kept: Mask = _concatenated([part.kept for part in parts], np.bool_)
        self.source = _coded([part.source for part in parts])
        self.reason = _coded([part.reason for part in parts])
        names = dict.fromkeys(name for part in parts for name in part.scores)
        self.scores: dict[str, Numbers] = {
            name: _concatenated([part.scores[name] for part in parts], np.float64) for name in names
        }
        self.scores = {name: column for name, column in self.scores.items() if not np.isnan(column).all()}
        first = np.ones(len(self.image), bool)
        first[1:] = self.image[1:] != self.image[:-1]
        self.image_start: Ints = np.flatnonzero(first).astype(np.int32)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.image_shard)

    @property
    def threshold(self) -> float | None:
        """The match probability from which texts were kept; None where something else decided."""
        config = self.manifest.config
        return float(config["threshold"]) if "threshold" in config and self._by_match(config) else None

    @staticmethod
    def _by_match(config: Mapping[str, Any]) -> bool:
        """Whether BLIP's match probability decides as it stands: no coin, rule, other score or regression."""
        others = (config.get(name) for name in ("coin", "keep", "weigh", "weights"))
        return all(one is None for one in others) and config.get("score") in (None, ITM)

    @property
    def can_be_cut(self) -> bool:
        """Whether `recut` takes it."""
        config = dict(self.manifest.config) | {"coin": None}  # a coin is not inherited
        if self.manifest.kind not in ("capfilt", "recut") or config.get("cascade") is not None:
            return False  # of what a cascade left out, no other threshold can say anything
        return MAIN_SCORE in self.scores and self._by_match(config)

    def rows_of(self, image: int) -> range:
        """The candidates of an image."""
        stop = self.image_start[image + 1] if image + 1 < self.images else len(self)
        return range(int(self.image_start[image]), int(stop))

    def images_among(self, candidates: "Ints | Mask") -> int:
        """How many images some candidates, by number or as a mask, belong to."""
        images = np.zeros(self.images, bool)
        images[self.image[candidates]] = True
        return int(images.sum())

    def get_ready(self) -> None:
        """Work out what the first use of a filter would wait for: seconds where there are a million candidates."""
        for _ in (self.words, self.disagreement, self.shuffled):
            pass
        if self.can_be_cut:
            self.what_if.kept(0.5, "keep_both")

    def key(self, image: int) -> str:
        """An image's key."""
        return str(self.image_key[image].as_py())

    def shard(self, image: int) -> str:
        """The name of an image's shard."""
        return str(self.shards[self.image_shard[image]])

    def find(self, key: str, shard: str | None = None) -> int | None:
        """The first image of a key."""
        import pyarrow.compute as pc

        found = np.flatnonzero(pc.equal(self.image_key, key).to_numpy(zero_copy_only=False))
        return next((int(one) for one in found if shard is None or self.shard(int(one)) == shard), None)

    def picture(self, image: int) -> bytes | None:
        """An image's bytes; None if no tar has it any more."""
        return self.pictures.read(self.shard(image), self.key(image))

    @cached_property
    def what_if(self) -> WhatIf:
        """What other thresholds and policies would keep."""
        return WhatIf(self.image, self.source.mask("synthetic"), self.scores[MAIN_SCORE], self.text)

    @cached_property
    def words(self) -> Ints:
        """Words of each text `[C]`."""
        import pyarrow.compute as pc

        counts = pc.count_substring_regex(self.text, r"\S+")
        found: Ints = counts.to_numpy(zero_copy_only=False).astype(np.int32)
        return found

    @cached_property
    def shuffled(self) -> Ints:
        """A place for each candidate `[C]` in an order that has nothing to do with it, always the same."""
        found: Ints = np.random.default_rng(0).permutation(len(self)).astype(np.int32)
        return found

    @cached_property
    def disagreement(self) -> npt.NDArray[np.float32]:
        """How far the scores are from one another `[C]`: the largest difference of their ranks, as shares of all ranks.

        NaN where there are fewer than two of them.
        """
        if len(self.scores) < 2:
            return np.full(len(self), np.nan, np.float32)
        ranks = np.stack([_ranks(column) for column in self.scores.values()])
        known = (~np.isnan(ranks)).sum(0) > 1
        found = np.full(len(self), np.nan, np.float32)
        found[known] = np.nanmax(ranks[:, known], 0) - np.nanmin(ranks[:, known], 0)
        return found

    @cached_property
    def _search(self) -> tuple[VectorIndex, Ints]:
        """The stored vectors, and the row of each image's `[M]`, -1 for those without."""
        import pyarrow.compute as pc

        index = open_index(self.uri, manifest=self.manifest, cache=self.cache)
        rows: Ints = np.full(self.images, -1, np.int32)
        for part, name in enumerate(index.names):
            if name not in self.shards:
                continue
            number = self.shards.index(name)
            start, stop = (int(one) for one in np.searchsorted(self.image_shard, [number, number + 1]))
            keys = self.image_key.slice(start, stop - start)
            known = index.images(part)["key"].cast(keys.type).combine_chunks()
            places = pc.fill_null(pc.index_in(keys, known), -1).to_numpy(zero_copy_only=False)
            rows[start:stop] = np.where(places < 0, -1, places + index.starts[part])
        return index, rows

    @property
    def index(self) -> VectorIndex:
        """The stored vectors of its images.

        Raises:
            DataError: there are none.
        """
        with self._turn:
            return self._search[0]

    def vector(self, image: int) -> Floats:
        """The stored vector of an image.

        Raises:
            DataError: it has none.
        """
        index, rows = self.index, self._search[1]
        if rows[image] < 0:
            raise DataError(f"image {self.key(image)} has no stored vector: it could not be used")
        return index.vector(int(rows[image]))

    def similarities(self, query: Floats) -> Floats:
        """The cosine of each image and a query `[M]`, NaN where an image has no vector."""
        index, rows = self.index, self._search[1]
        scores = index.scores(query[None])[0]
        found = np.full(self.images, np.nan, np.float32)
        found[rows >= 0] = scores[rows[rows >= 0]]
        return found

    def said(self, words: str) -> Said:
        """Of which images `[M]` captions say some words."""
        rows = says(self.text, words)
        at_all, kept = (np.zeros(self.images, bool) for _ in range(2))
        at_all[self.image[rows]] = kept[self.image[rows & self.kept]] = True
        return Said(at_all, kept)


class _Part(NamedTuple):
    """The columns of one shard; its images are numbered from 0."""

    text: "pa.Array"
    image_key: "pa.Array"
    image_shard: Ints
    image: Ints
    kept: Mask
    source: "pa.Array"
    reason: "pa.Array"
    scores: dict[str, Numbers]


def _read(uri: str, number: int, entry: ShardEntry) -> _Part:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = stored_candidates(uri, entry.parquet).columns.combine_chunks()
    column = {name: _one_chunk(table[name]) for name in table.column_names}
    image, first = _images_of(column["key"], column["image_sha256"])
    scores = {
        field.name: column[field.name].to_numpy(zero_copy_only=False).astype(np.float64)
        for field in table.schema
        if pa.types.is_floating(field.type) and field.name not in _NO_SCORES
    }
    keys = pc.take(column["key"], pa.array(np.flatnonzero(first)))
    return _Part(
        column["text"],
        keys,
        np.full(len(keys), number, np.int32),
        image,
        column["kept"].to_numpy(zero_copy_only=False),
        column["source"],
        column["reason"],
        scores,
    )


def _images_of(keys: "pa.Array", digests: "pa.Array") -> tuple[Ints, Mask]:
    """The number of each row's image, and the rows at which one begins: neighbours of one key and content are one."""
    import pyarrow.compute as pc

    first: Mask = np.ones(len(keys), bool)
    for column in (keys, digests) if len(keys) > 1 else ():
        other = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(zero_copy_only=False)
        first[1:] = other if column is keys else first[1:] | other
    return np.cumsum(first, dtype=np.int32) - np.int32(1), first


def _one_chunk(column: "pa.ChunkedArray") -> "pa.Array":
    import pyarrow as pa

    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _joined(arrays: "Iterable[pa.Array]") -> "pa.Array":
    """One array of all texts; 64-bit offsets, so that it may be larger than 2 GB."""
    import pyarrow as pa

    wide = [array.cast(pa.large_string()) for array in arrays]
    return pa.concat_arrays(wide) if wide else pa.array([], pa.large_string())


def _concatenated(arrays: list[npt.NDArray[Kind]], kind: type[Kind]) -> npt.NDArray[Kind]:
    return np.concatenate(arrays).astype(kind, copy=False) if arrays else np.empty(0, kind)


def _coded(arrays: "list[pa.Array]") -> Coded:
    import pyarrow as pa

    column = pa.chunked_array(arrays, pa.string()).dictionary_encode().combine_chunks()
    if not len(column):
        return Coded([], np.empty(0, np.int16))
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return Coded(column.dictionary.to_pylist(), column.indices.to_numpy(zero_copy_only=False).astype(np.int16))


def _ranks(column: Numbers) -> npt.NDArray[np.float32]:
    """Places of the values among all, 0 to 1, equal values alike; NaN where there is none."""
    found = np.full(len(column), np.nan, np.float32)
    known = ~np.isnan(column)
    ordered = np.sort(column[known])
    if len(ordered) > 1:
        places = np.searchsorted(ordered, column[known], "left") + np.searchsorted(ordered, column[known], "right") - 1
        found[known] = places / (2 * (len(ordered) - 1))
    return found
