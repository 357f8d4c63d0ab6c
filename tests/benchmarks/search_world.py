"""Whether search finds what is asked for: recall at 10 of attribute queries on the web images of a sample world.

    python -m tests.benchmarks.search_world DATASET_URI TRUTH [--model DIR] [--rerank 50] [--every 1]

DATASET_URI is a dataset written by CapFilt of the world's web images (or one that was indexed), TRUTH the world's truth
table (`sampleworld/…/truth` in a store). Queries name a thing by colour and shape (80: "a red circle"), and by size or
texture, too (160 each: "a large blue square", "a striped green star"); an image is relevant if the query is true of its
scene. Recall at 10 is the share of what the first ten could hold at most: relevant ones among them, by the smaller of
ten and all that are relevant. (By all relevant ones alone it could not reach 0.2 here: on average 80 of 4,000 images
show a red circle.) Each kind is asked by the vectors alone, and with what captions say where there are captions. With
--rerank the ITM head orders so many images of the best places; --every 4 takes every fourth query. For scoring only:
nothing else reads the truth.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from capfilt.searching import judged, said_of
from components.common.storage import normalise_uri, open_store
from components.data.manifest import MANIFEST_KEY, Manifest, load_manifest
from components.data.pictures import images_at
from components.data.sampleworld.judge import judge_caption
from components.data.sampleworld.language import SIZE_WORDS, TEXTURE_WORDS
from components.data.sampleworld.scene import COLOURS, SHAPES, Scene
from components.data.search import Found, VectorIndex, open_index
from components.inference.search import Encoder, open_encoder

TOP = 10


def queries_by_kind() -> dict[str, list[str]]:
    """What is asked for, by kind."""
    things = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    more = {"size": SIZE_WORDS, "texture": TEXTURE_WORDS}
    found = {"colour, shape": [_phrase(one) for one in things]}
    for name, words in more.items():  # what people call things: nobody says medium, or plain
        found[f"{name}, colour, shape"] = [_phrase(f"{word} {one}") for word in words for one in things]
    return found


def _phrase(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def relevant(scenes: Sequence[Scene], query: str) -> npt.NDArray[np.bool_]:
    """Of which scenes `[N]` a query is true."""
    return np.array([judge_caption(scene, query).true for scene in scenes])


def recall_at(found: Sequence[bool], of: int) -> float:
    """Relevant images among those found, of as many as there could be."""
    return sum(found[:TOP]) / min(TOP, of)


def scenes_of(index: VectorIndex, truth: str) -> list[Scene]:
    """The scene behind each vector."""
    table = pq.read_table(truth, columns=["key", "scene"])
    by_key = dict(zip(table["key"].to_pylist(), table["scene"].to_pylist(), strict=True))
    keys = [key for part in range(len(index.names)) for key in index.images(part)["key"].to_pylist()]
    return [Scene.from_json(by_key[key]) for key in keys]


class World:
    """An index, its filter, and the truth about its images."""

    def __init__(self, uri: str, truth: str, model: str | None, cache: Path) -> None:
        self.uri = normalise_uri(uri)
        exists = open_store(self.uri).exists(MANIFEST_KEY)
        self.manifest: Manifest | None = load_manifest(self.uri) if exists else None
        self.index = open_index(self.uri, manifest=self.manifest)
        self.encoder: Encoder = open_encoder(self.index, cache, model=model)
        self.scenes = scenes_of(self.index, truth)
        self._true: dict[str, npt.NDArray[np.bool_]] = {}
        self._rows = {key: row for row, key in enumerate(self._keys())}

    def _keys(self) -> Iterator[tuple[str, str]]:
        for part, name in enumerate(self.index.names):
            yield from ((name, key) for key in self.index.images(part)["key"].to_pylist())

    def true(self, query: str) -> npt.NDArray[np.bool_]:
        """Of which images `[N]` a query is true."""
        if query not in self._true:
            self._true[query] = relevant(self.scenes, query)
        return self._true[query]

    def recalls(self, asked: Sequence[str], rerank: int, *, captions: bool) -> list[float]:
        """Recall at 10 of each query of which any image is relevant, with what captions say or by vectors alone."""
        found = list[float]()
        for query in asked:
            true = self.true(query)
            if not true.any():
                continue
            said = said_of(self.uri, self.manifest, self.index, query) if self.manifest and captions else None
            nearest = self.index.nearest(self.encoder.words(query), max(TOP, rerank), said)
            ranked = self._reranked(query, nearest) if rerank else nearest
            hits = [bool(true[self._rows[one.shard, one.key]]) for one in ranked]
            found.append(recall_at(hits, int(true.sum())))
        return found

    def _reranked(self, query: str, nearest: list[Found]) -> list[Found]:
        with contextlib.closing(images_at(self.uri, self.manifest)) as pictures:
            matches = judged(pictures, self.encoder, query, nearest)
        return sorted(nearest, key=lambda one: -matches[one])


def main() -> None:
    """Print mean recall, the lowest of a query, and CPU seconds a query, for each kind; then mean recall over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("truth")
    parser.add_argument("--model", help="folder of the filter, if it has moved")
    parser.add_argument("--rerank", type=int, nargs="*", default=[0], help="images that the ITM head orders; 0: none")
    parser.add_argument("--every", type=int, default=1, help="take every so many queries")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capfilt-search-") as cache:
        world = World(given.dataset, given.truth, given.model, Path(cache))
        asked = dict(_asked(world, given.every))
        for rerank in given.rerank:
            for captions in (False, True) if world.manifest else (False,):
                every = [_measured(world, kind, of, rerank, captions) for kind, of in asked.items()]
                over_all = statistics.mean(itertools.chain(*every))
                print(json.dumps({"recall at 10 over all": round(over_all, 3), "captions": captions}), flush=True)


def _asked(world: World, every: int) -> Iterator[tuple[str, list[str]]]:
    """Queries by kind, each scored before anything is timed; without the kinds of which the world holds nothing."""
    for kind, named in queries_by_kind().items():
        true = [world.true(query).any() for query in named[::every]]
        if any(true):
            yield kind, named[::every]


def _measured(world: World, kind: str, asked: Sequence[str], rerank: int, captions: bool) -> list[float]:
    start = time.process_time()
    found = world.recalls(asked, rerank, captions=captions)
    told = {"queries": kind, "asked": len(found), "rerank": rerank, "captions": captions}
    cost = round((time.process_time() - start) / len(asked), 3)
    figures = {"recall at 10": round(statistics.mean(found), 3), "lowest": min(found), "CPU s a query": cost}
    print(json.dumps(told | figures), flush=True)
    return found


if __name__ == "__main__":
    main()
