"""What exact search costs, and what an approximate index would: `python -m tests.benchmarks.search_scale`.

    [--vectors 100000 400000 1000000] [--against usearch faiss voyager] [--folder DIR] [--queries 20]

Vectors of width 256 are made up around some thousand centres, as an encoder's lie, written as an index has them, and
searched for the ten nearest of fresh ones: milliseconds of CPU time of one thread, the median of the queries; the first
one reads the files that are not mapped yet. Memory is what the process holds itself, and what it maps.

Libraries that are named are measured on the same vectors if they are installed (they are none of this project's):
seconds to build their index with one thread, its size, and the share of the true ten that it finds.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.common.storage import open_store
from components.data.records import Parent
from components.data.search import INDEX_FOLDER, Floats, IndexPart, IndexRecord, open_index, write_index
from components.data.vectors import ImageRow, write_vectors

WIDTH, PART, TOP = 256, 100_000, 10
CENTRES = 2000
SPREAD = 0.7  # length of what is added to a centre, whose own is 1: neighbours have a cosine of about 0.7


def made_up(count: int, seed: int) -> Floats:
    """Vectors `[count, 256]` of length 1."""
    centres = np.random.default_rng(0).normal(0, WIDTH**-0.5, (CENTRES, WIDTH)).astype(np.float32)
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, CENTRES, count)]
    vectors += rng.standard_normal((count, WIDTH), dtype=np.float32) * (SPREAD * WIDTH**-0.5)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_vectors_of(folder: Path, count: int) -> None:
    """An index of so many vectors below a folder."""
    store, parts = open_store(str(folder)).child(INDEX_FOLDER), []
    for number, start in enumerate(range(0, count, PART)):
        size = min(PART, count - start)
        rows = [ImageRow(f"{start + at:09d}", "0" * 64, 0) for at in range(size)]
        files = write_vectors(store, f"{number:05d}", rows, made_up(size, number + 1).astype(np.float16))
        parts.append(IndexPart(name=f"{number:05d}", vectors=files[0], images=files[1]))
    write_index(
        store, IndexRecord(model=Parent(role="filter", digest="f" * 64, uri="none"), config={}, parts=tuple(parts))
    )


def timed(search: Callable[[Floats], Sequence[int]], queries: Floats) -> tuple[list[Sequence[int]], float, float]:
    """What was found for each query, milliseconds of the first one, and the median of all others."""
    found, times = [], []
    for query in queries:
        start = time.process_time()
        found.append(search(query))
        times.append(1000 * (time.process_time() - start))
    return found, round(times[0], 1), round(statistics.median(times[1:] or times), 2)


def memory_mb() -> dict[str, int]:
    """What this process holds itself, and what of files it has mapped."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(lines[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile"))
    return {"own MB": own, "mapped MB": mapped, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def exact(folder: Path, queries: Floats) -> tuple[list[Sequence[int]], dict[str, Any]]:
    """The true nearest of each query, and what it cost."""
    index = open_index(str(folder))
    before = memory_mb()["own MB"]
    nearest, first, median = timed(lambda query: [int(one.key) for one in index.nearest(query, TOP)], queries)
    after = memory_mb()
    return nearest, {"first ms": first, "ms": median, "grown by MB": after["own MB"] - before, **after}


def usearch(vectors: Floats, path: Path) -> Callable[[Floats], Sequence[int]]:
    """HNSW with half precision; searched where it is mapped from."""
    from usearch.index import Index

    index = Index(ndim=WIDTH, metric="ip", dtype="f16", connectivity=16, expansion_add=128, expansion_search=64)
    index.add(np.arange(len(vectors)), vectors, threads=1)
    index.save(str(path))
    mapped = Index.restore(str(path), view=True)
    mapped.expansion_search = 64
    return lambda query: [int(key) for key in mapped.search(query, TOP, threads=1).keys]


def faiss(vectors: Floats, path: Path) -> Callable[[Floats], Sequence[int]]:
    """Inverted lists with half precision; searched where they are mapped from, 32 lists a query."""
    import faiss as library

    library.omp_set_num_threads(1)
    lists = int(4 * len(vectors) ** 0.5)
    index = library.index_factory(WIDTH, f"IVF{lists},SQfp16", library.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // (40 * lists))])
    index.add(vectors)
    library.write_index(index, str(path))
    mapped = library.read_index(str(path), library.IO_FLAG_MMAP | library.IO_FLAG_READ_ONLY)
    mapped.nprobe = 32
    return lambda query: [int(key) for key in mapped.search(query[None], TOP)[1][0]]


def voyager(vectors: Floats, path: Path) -> Callable[[Floats], Sequence[int]]:
    """HNSW with single precision, held in memory."""
    import voyager as library

    index = library.Index(library.Space.InnerProduct, num_dimensions=WIDTH, M=16, ef_construction=128)
    index.add_items(vectors, num_threads=1)
    index.save(str(path))
    return lambda query: [int(key) for key in index.query(query, k=TOP, num_threads=1, query_ef=64)[0]]


LIBRARIES = {"usearch": usearch, "faiss": faiss, "voyager": voyager}


def approximate(name: str, folder: Path, queries: Floats, truth: list[Sequence[int]]) -> dict[str, Any]:
    """What an index of a library costs, and the share of the true nearest that it finds."""
    index, path = open_index(str(folder)), folder / f"{name}.index"
    vectors = np.concatenate([np.asarray(part, np.float32) for part in index.mapped])
    start = time.process_time()
    search = LIBRARIES[name](vectors, path)
    built = time.process_time() - start
    found, first, median = timed(search, queries)
    recall = statistics.mean(len(set(one) & set(true)) / TOP for one, true in zip(found, truth, strict=True))
    size = path.stat().st_size >> 20
    return {"build s": round(built), "MB": size, "first ms": first, "ms": median, "recall": round(recall, 3)}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000, 400_000, 1_000_000])
    parser.add_argument("--against", choices=list(LIBRARIES), nargs="*", default=[])
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where the vectors are written (default: a temporary folder)")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    queries = made_up(given.queries, 1_000_000)
    for count in given.vectors:
        with tempfile.TemporaryDirectory(prefix="capfilt-search-", dir=given.folder) as name:
            folder = Path(name)
            write_vectors_of(folder, count)
            truth, cost = exact(folder, queries)
            print(json.dumps({"vectors": count, "search": "exact", **cost}), flush=True)
            for library in given.against:
                cost = approximate(library, folder, queries, truth)
                print(json.dumps({"vectors": count, "search": library, **cost}), flush=True)


if __name__ == "__main__":
    main()
