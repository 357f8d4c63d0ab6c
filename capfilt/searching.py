"""Search in the images of a dataset or of an indexed folder, by words or by an image: what `capfilt.search` does."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from components.common.errors import ConfigError, DataError
from components.common.storage import normalise_uri, open_store
from components.data.candidates import stored_candidates
from components.data.commits import READERS
from components.data.manifest import MANIFEST_KEY, Manifest, load_manifest
from components.data.parallel import ordered_map
from components.data.phrases import Said, says
from components.data.pictures import Images, images_at
from components.data.records import ShardEntry
from components.data.search import Found, VectorIndex, open_index

if TYPE_CHECKING:
    from components.inference.search import Encoder


_BATCH = 16  # images that go through the model at a time


class HitText(TypedDict):
    """A candidate caption of an image that was found."""

    text: str
    source: str
    kept: bool
    says: bool
    """Whether it says the words that were searched by."""


class Hit(TypedDict):
    """An image that was found, the best first: by the cosine of the ITC vectors and by what its captions say
    (components/data/phrases.py), or by the match where it was judged."""

    key: str
    shard: str
    image_sha256: str
    similarity: float
    itm_probability: float | None
    captions: list[HitText]


def search_images(
    uri: str,
    words: str | None,
    image: bytes | None,
    model: str | None,
    top: int,
    rerank: int,
    cache_dir: Path,
    *,
    captions: bool = True,
) -> list[Hit]:
    """See `capfilt.api.search`."""
    from components.inference.search import open_encoder

    if (words is None) == (image is None):
        raise ConfigError("search by words or by an image: give one of them")
    if words is not None and not words.strip():
        raise ConfigError("there are no words to search by")
    if rerank and words is None:
        raise ConfigError("rerank asks the filter whether words fit an image: give words, not an image")
    uri = normalise_uri(uri)
    manifest = load_manifest(uri) if open_store(uri).exists(MANIFEST_KEY) else None
    index = open_index(uri, manifest=manifest)
    encoder = open_encoder(index, cache_dir, model=model)
    query = encoder.words(words) if words is not None else encoder.image(image or b"")
    said = None
    if words is not None and captions and manifest is not None:
        said = said_of(uri, manifest, index, words)
    found = index.nearest(query, max(top, rerank), said)
    matches: dict[Found, float] = {}
    if words is not None and rerank:
        with contextlib.closing(images_at(uri, manifest)) as pictures:
            matches = judged(pictures, encoder, words, found[:rerank])
        found = [*sorted(found[:rerank], key=lambda one: -matches[one]), *found[rerank:]]
    return _hits(uri, manifest, found[:top], matches, words or "")


def said_of(uri: str, manifest: Manifest, index: VectorIndex, words: str) -> Said:
    """What captions say of the images of an index `[N]`, in its order; a few shards' tables are held at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def saying(entry: ShardEntry | None) -> "pa.Table | None":
        if entry is None:
            return None
        table = stored_candidates(uri, entry.parquet).columns
        return table.filter(pa.array(says(table["text"], words)))

    said = Said(np.zeros(len(index), bool), np.zeros(len(index), bool))
    tables = ordered_map(saying, map(manifest.shards.find, index.names), threads=READERS)
    for part, (table, start) in enumerate(zip(tables, index.starts, strict=False)):
        if table is None or not len(table):
            continue
        keys = index.images(part)["key"]
        for mask, rows in ((said.at_all, table), (said.kept, table.filter(table["kept"]))):
            named = pc.is_in(keys, rows["key"].combine_chunks())
            mask[start : start + len(keys)] = named.to_numpy(zero_copy_only=False)
    return said


def judged(pictures: Images, encoder: "Encoder", words: str, found: list[Found]) -> dict[Found, float]:
    """The probability that the words match, for each image that was found."""
    batches = [found[start : start + _BATCH] for start in range(0, len(found), _BATCH)]
    scores = [score for batch in batches for score in encoder.match(words, [_read(pictures, one) for one in batch])]
    return dict(zip(found, scores, strict=True))


def _read(pictures: Images, one: Found) -> bytes:
    data = pictures.read(one.shard, one.key)
    if data is None:
        raise DataError(
            f"image {one.key} of shard {one.shard} is in none of the tars that are left: bring back the web shards "
            "that the dataset was made from, or search without rerank"
        )
    return data


def _hits(
    uri: str, manifest: Manifest | None, found: list[Found], matches: dict[Found, float], words: str
) -> list[Hit]:
    captions = {} if manifest is None else _captions(uri, manifest, found, words)
    return [
        Hit(
            key=one.key,
            shard=one.shard,
            image_sha256=one.image_sha256,
            similarity=round(one.similarity, 6),
            itm_probability=matches.get(one),
            captions=captions.get((one.shard, one.key), []),
        )
        for one in found
    ]


def _captions(uri: str, manifest: Manifest, found: list[Found], words: str) -> dict[tuple[str, str], list[HitText]]:
    """The candidate captions of the images that were found; only the tables of their shards are read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    captions: dict[tuple[str, str], list[HitText]] = {}
    for shard in dict.fromkeys(one.shard for one in found):
        entry = manifest.shards.find(shard)
        if entry is None:
            continue
        table = stored_candidates(uri, entry.parquet).columns
        wanted = pa.array([one.key for one in found if one.shard == shard])
        table = table.filter(pc.is_in(table["key"], wanted))
        for row, named in zip(table.to_pylist(), says(table["text"], words).tolist(), strict=True):
            one = HitText(text=row["text"], source=row["source"], kept=row["kept"], says=named)
            captions.setdefault((shard, row["key"]), []).append(one)
    return captions
