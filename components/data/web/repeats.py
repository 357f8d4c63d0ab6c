"""Keys that were met before, over all shards of a set."""

import hashlib
import io
import logging
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from components.common.storage import join_uri, open_store, split_uri
from components.data.manifest import ShardRecord
from components.data.shards import BROKEN_SHARD, DUPLICATE_KEY, EARLIER_SHARD, SampleIndex

logger = logging.getLogger(__name__)


class KeysMet:
    """Remembers keys by a hash of 64 bits, the same in every process.

    Memory: 8 bytes a key, twice that for a moment; among 100 million keys the chance of one wrong answer is 1 in 4,000.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []  # sorted, each at least twice as long as the next

    def again(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of a shard's keys that an earlier shard had; from now on all of them have been met."""
        hashes = _hashes(keys)
        met = self._met(hashes)
        self._add(np.unique(hashes[~met]))
        return frozenset(key for key, was in zip(keys, met, strict=True) if was)

    def known(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of the keys that were met, without meeting them now."""
        return frozenset(key for key, was in zip(keys, self._met(_hashes(keys)), strict=True) if was)

    def _met(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        met = np.zeros(len(hashes), bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes).clip(max=len(run) - 1)
            met |= run[places] == hashes
        return met

    def _add(self, run: NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.union1d(self._runs.pop(), run)
        if len(run):
            self._runs.append(run)


def _hashes(keys: Iterable[str]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.uint64)


def own_keys(samples: Iterable[SampleIndex]) -> list[str]:
    """The keys of a shard, each once: a key counts for the first sample that has it, whatever becomes of that."""
    return [sample.key for sample in samples if sample.problem != DUPLICATE_KEY]


def keys_beside(uri: str, expected: int | None) -> list[str] | None:
    """The keys of a tar by the table that img2dataset writes beside it, without a look into the tar.

    Args:
        uri: the tar.
        expected: its samples, where somebody counted them: a table of another number is not believed.

    Returns:
        The keys of what was downloaded; None without such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, name = split_uri(uri)
    store, table = open_store(folder), f"{name[: -len('.tar')]}.parquet"
    if not store.exists(table):
        return None
    try:
        rows = pq.read_table(io.BytesIO(store.read(table)), use_threads=False)
        states = rows["status"].to_pylist() if "status" in rows.column_names else ["success"] * len(rows)
        keys = [str(key) for key, state in zip(rows["key"].to_pylist(), states, strict=True) if state == "success"]
    except (pa.ArrowException, KeyError) as error:
        where = join_uri(store.uri, table)
        logger.warning("%s is no table of img2dataset (%s): its tar's keys are not known beforehand", where, error)
        return None
    return keys if expected in (None, len(keys)) else None


def keys_of_record(record: ShardRecord, keys: Iterable[str]) -> list[str]:
    """All keys of a shard that is finished: those of its candidate table and those of its failed samples."""
    failed = (bad.key for bad in record.bad if bad.reason != BROKEN_SHARD)
    return list(dict.fromkeys([*keys, *failed]))


def repeated_in(record: ShardRecord) -> frozenset[str]:
    """Keys that the import of a web dataset met before, in an earlier shard."""
    return frozenset(
        bad.key for bad in record.bad if bad.reason == DUPLICATE_KEY and bad.detail.startswith(EARLIER_SHARD)
    )
