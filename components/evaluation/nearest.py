"""Nearest neighbours by cosine in bounded memory: similarities by tiles, and what is large in files.

Shapes: Q queries, R keys, U rows of features, d embedding width, K neighbours.
"""

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.common.errors import StorageError
from components.inference.memory import batches

ROWS = 1024  # queries compared at a time, at most
COLUMNS = 1 << 15  # keys they are compared with at a time, at most
TILE = 1 << 21  # similarities held at a time, at most: 8 MiB. Of blocks of 32 glibc kept a gigabyte for itself
IN_MEMORY = 256 << 20  # bytes; a matrix that is larger lies in a file


def room(shape: tuple[int, int], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """An empty matrix in memory, or a large one in a file that is gone with it, of which the system keeps what it can.

    Raises:
        StorageError: the disk has no room.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype, device=device)
    with tempfile.NamedTemporaryFile(prefix="capfilt-matrix-") as file:  # the mapping outlives the name
        try:
            _reserve(file.fileno(), size)
        except OSError as error:
            raise StorageError(
                f"{tempfile.gettempdir()}: no room for {size >> 20} MiB of features ({error.strerror}): free space, "
                "let TMPDIR name a larger disk, or measure fewer images (evaluation.limit)"
            ) from error
        return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(shape)


def _reserve(file: int, size: int) -> None:
    """Make a file so large, on Linux with the disk's promise: a page that finds no room would kill the process."""
    if sys.platform == "linux":
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


@dataclass(frozen=True)
class Rows:
    """Unit vectors by number, wherever they lie; `which` [R] are their rows of `features` [U,d], if not just those."""

    features: Tensor
    device: torch.device
    which: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features if self.which is None else self.which)

    @property
    def fitting(self) -> int:
        """Queries that may be compared with a tile of them at a time."""
        return max(1, min(ROWS, TILE // max(1, min(len(self), COLUMNS))))

    def part(self, numbers: range) -> Tensor:
        """Those of a range."""
        span = slice(numbers.start, numbers.stop)
        return self.features[span if self.which is None else self.which[span]].to(self.device)

    def take(self, numbers: Tensor) -> Tensor:
        """Those of these numbers."""
        rows = numbers.to(self.features.device)
        return self.features[rows if self.which is None else self.which[rows]].to(self.device)

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """All of them, some at a time, each time with the first one's number."""
        for numbers in batches(len(self), COLUMNS):
            yield numbers.start, self.part(numbers)


def nearest(queries: Rows, keys: Rows, count: int) -> Tensor:
    """Numbers [Q,K] of the keys with the highest cosine to each query, on the CPU."""
    found = room((len(queries), count), torch.int64)
    for numbers in batches(len(queries), keys.fitting):
        found[numbers.start : numbers.stop] = _nearest(queries.part(numbers), keys, count)
    return found


def _nearest(queries: Tensor, keys: Rows, count: int) -> Tensor:
    """The same of a few queries: the best of all tiles' best."""
    values, indices = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for first, tile in keys.tiles():
        best = (queries @ tile.T).topk(min(count, len(tile)))
        indices = torch.cat([indices.to(best.indices.device), best.indices + first], 1)
        values = torch.cat([values, best.values], 1)
        if values.shape[1] > count:
            kept = values.topk(count)
            values, indices = kept.values, indices.gather(1, kept.indices)
    return indices


def cosine_ranks(queries: Rows, keys: Rows, query_ids: Tensor, key_ids: Tensor) -> Tensor:
    """Rank [Q] of each query's best key of the same id among all keys, by cosine alone; ties count half."""
    return torch.cat(
        [
            _cosine_ranks(queries.part(numbers), keys, query_ids[numbers.start : numbers.stop, None], key_ids)
            for numbers in batches(len(queries), keys.fitting)
        ]
    )


def _cosine_ranks(queries: Tensor, keys: Rows, ids: Tensor, key_ids: Tensor) -> Tensor:
    """The same of a few queries. Tiles are looked at twice, as they do not all fit into memory."""
    best = queries.new_full((len(queries), 1), float("-inf"))
    for first, tile in keys.tiles():
        wrong = ids != key_ids[None, first : first + len(tile)]
        best = torch.maximum(best, (queries @ tile.T).masked_fill_(wrong, float("-inf")).amax(1, keepdim=True))
    ranks = torch.zeros(len(queries), device=queries.device)
    for first, tile in keys.tiles():
        scores, wrong = queries @ tile.T, ids != key_ids[None, first : first + len(tile)]
        ranks += (scores > best).sum(1) + ((scores == best) & wrong).sum(1) / 2
    return ranks
