"""What the dataset browser costs: `python -m tests.benchmarks.browse [--images 50000 100000 500000] [--folder DIR]`.

A dataset of made-up candidates, two for each image, is written as CapFilt leaves it (tables and vectors; its tars are
empty, since no image is looked at), opened in a process of its own, and asked. Times are CPU seconds of that process,
the median of some different views; memory is its resident peak.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.common.storage import Store, open_store, sha256_hex
from components.data.candidates import candidate_schema
from components.data.manifest import seal_dataset
from components.data.records import Counts, Parent, Provenance, ShardRecord, own_file
from components.data.vectors import ImageRow, write_vectors

SHARD = 10_000  # images
WIDTH = 256
WORDS = ("a", "the", "red", "blue", "green", "small", "large", "dog", "cat", "ball", "house", "tree", "on", "photo")


def write_dataset(folder: Path, images: int) -> str:
    """A dataset of so many images; its root."""
    store = open_store(str(folder))
    records = [
        _shard(store, number, min(SHARD, images - start)) for number, start in enumerate(range(0, images, SHARD))
    ]
    parents = (Parent(role="filter", digest="f" * 64, uri=str(folder / "filter")),)
    config = {"threshold": 0.5, "policy": "keep_both"}
    return seal_dataset(store, Provenance("made-up", "capfilt", config, "0" * 64, parents), records).uri


def _shard(store: Store, number: int, images: int) -> ShardRecord:
    rng = np.random.default_rng(number)
    name = f"{number:05d}"
    keys = [f"{number:05d}{at:06d}" for at in range(images)]
    digests = [sha256_hex(key.encode()) for key in keys]
    texts = [" ".join(one) for one in np.array(WORDS)[rng.integers(0, len(WORDS), (2 * images, 9))]]
    probability = rng.beta(0.6, 0.6, 2 * images).round(6)
    kept = probability >= 0.5
    columns = {
        "key": np.repeat(keys, 2),
        "image_sha256": np.repeat(digests, 2),
        "source": np.tile(["web", "synthetic"], images),
        "text": texts,
        "itm_probability": probability,
        "itc_similarity": (probability * 0.5 + rng.normal(0, 0.2, 2 * images)).clip(-1, 1).round(6),
        "kept": kept,
        "reason": np.where(kept, "", "below_threshold"),
        "weight": np.ones(2 * images),
    }
    table = pa.table(columns).cast(candidate_schema())
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", version="2.6", row_group_size=1 << 16, use_dictionary=["source"])
    data, tar = sink.getvalue().to_pybytes(), bytes(1024)
    vectors = rng.normal(0, WIDTH**-0.5, (images, WIDTH)).astype(np.float16)
    rows = [ImageRow(key, digest, 0) for key, digest in zip(keys, digests, strict=True)]
    files = write_vectors(store, name, rows, vectors)
    records = [own_file(name, suffix, len(one), sha256_hex(one)) for suffix, one in ((".tar", tar), (".parquet", data))]
    for record, content in zip(records, (tar, data), strict=True):
        store.write(record.uri, content)
    some = kept.reshape(-1, 2).any(1)
    pairs = int(kept.sum())
    counts = Counts(
        samples=images,
        kept=int(some.sum()),
        dropped=int((~some).sum()),
        kept_pairs=pairs,
        dropped_pairs=2 * images - pairs,
    )
    tar_record, table_record = records
    return ShardRecord(
        name=name, tar=tar_record, parquet=table_record, vectors=files[0], images=files[1], counts=counts
    )


class _Words:
    """In the place of a filter, whose own time for some words (10 ms of the sample's) depends on its size."""

    def words(self, text: str) -> np.ndarray:
        found = np.random.default_rng(len(text)).normal(0, WIDTH**-0.5, WIDTH).astype(np.float32)
        return found / np.linalg.norm(found)


def measure(uri: str, folder: str) -> dict[str, float]:
    """Open it and ask; CPU seconds by what was asked, and the peak of memory in MB."""
    start = time.process_time()
    from fastapi.testclient import TestClient  # the requests go through all of the application

    from components.pages.browser.app import create_app
    from components.pages.browser.marks import Marks
    from components.pages.browser.state import Browser
    from components.pages.browser.version import Version

    found = {"imports": time.process_time() - start}
    start = time.process_time()
    version = Version(uri)
    found["open"] = time.process_time() - start
    start = time.process_time()
    version.get_ready()
    found["ready, in the background"] = time.process_time() - start
    browser = Browser([version], Marks(Path(folder) / "marks.jsonl"), Path(folder))
    browser.__dict__["_encoder"] = _Words()
    client = TestClient(create_app(browser), base_url="http://127.0.0.1:8321")
    headers = {"hx-request": "true"}
    asked = {
        "first page": [""],
        "filter": ["?source=web&kept=no", "?itm_probability-min=0.3&itm_probability-max=0.6", "?near=0.02",
                   "?disagree=0.5", "?words-min=4&words-max=7", "?sort=high:itc_similarity", "?sort=near",
                   "?sort=random", "?sort=disagree&kept=yes", "?page=77"],
        "words in the text": ["?text=dog", "?text=red+ball", "?text=stock&source=web"],
        "slider": ["?at=0.4", "?at=0.45&policy=best_of", "?at=0.55&policy=replace", "?at=0.7&change=lost"],
        "like an image, first time": ["?like=5"],
        "like an image": ["?like=17", "?like=99&kept=yes", "?like=1234&near=0.2", "?like=4321", "?like=777"],
        "find by words": ["?find=red+ball", "?find=a+small+dog+on+the+tree", "?find=photo&kept=yes", "?find=cat",
                          "?find=green+house&source=web"],
    }  # fmt: skip
    for name, queries in asked.items():
        times = []
        for query in queries:
            start = time.process_time()
            answer = client.get(f"/{query}", headers={} if name == "first page" else headers)
            times.append(time.process_time() - start)
            assert answer.status_code == 200, answer.text
        found[name], found[f"{name}, worst"] = sorted(times)[len(times) // 2], max(times)
    found["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[50_000, 100_000, 500_000])
    parser.add_argument("--folder", type=Path, help="where the datasets are made (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capfilt-browse-", dir=given.folder) as folder:
        for images in given.images:
            uri = write_dataset(Path(folder) / str(images), images)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(json.dumps({"images": images, "candidates": 2 * images} | pool.apply(measure, (uri, folder))))


if __name__ == "__main__":
    main()
