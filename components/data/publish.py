"""One shard from its samples to its commit record, counting as it goes."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from components.common.errors import ConfigError, DataError
from components.common.storage import Store, folder_errors, sha256_hex
from components.data.candidates import Candidate, candidates_to_bytes
from components.data.commits import commit_shard
from components.data.records import BadSample, Counts, FileRecord, ShardRecord, own_file, storable
from components.data.shards import ShardWriter


def check_sizes(shard_size: int, limit: int | None) -> None:
    """ConfigError unless both are positive, or the limit is none."""
    if shard_size < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"shard_size and limit must be at least 1, not {shard_size} and {limit}")


class ShardBuilder:
    """Collect a shard's samples and commit them: tar, then parquet, then the commit record.

    Use as a context manager. The tar grows in a temporary local file, so that memory holds captions only.

    Args:
        store: rooted at the dataset.
        name: e.g. `00000`.
        tar: the tar that holds the samples already, used in place; without it one is written.
        work_dir: where the tar grows (default: the system's temporary folder).
    """

    def __init__(self, store: Store, name: str, *, tar: FileRecord | None = None, work_dir: Path | None = None) -> None:
        self.store, self.name, self._in_place = store, name, tar
        self._rows: list[Candidate] = []
        self._bad: list[BadSample] = []
        self._kept = self._dropped = 0
        with folder_errors("write", work_dir or Path(tempfile.gettempdir())):
            self._folder = tempfile.TemporaryDirectory("", "capfilt-shard-", work_dir, ignore_cleanup_errors=True)
            self._path = Path(self._folder.name) / f"{name}.tar"
            self._file: BinaryIO | None = None if tar else self._path.open("wb")
        self._writer = ShardWriter(self._file) if self._file else None

    def __enter__(self) -> "ShardBuilder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._folder.cleanup()

    def add(self, key: str, candidates: Sequence[Candidate], members: Mapping[str, bytes] | None = None) -> None:
        """Count a good sample with all captions considered for it, and write its members unless the tar has them."""
        if (members is None) != (self._writer is None):
            raise DataError(f"shard {self.name}, {key}: members are written exactly where the tar is not used in place")
        if self._writer is not None and members is not None:
            with folder_errors("write", self._path):
                self._writer.add(key, members)
        self._rows += candidates
        if any(row.kept for row in candidates):
            self._kept += 1
        else:
            self._dropped += 1

    def fail(self, key: str, reason: str, detail: str = "", *, count: int = 1) -> None:
        """Count a sample (or `count` that were lost together) that could not be used, and say why."""
        self._bad.append(BadSample(key=storable(key), reason=reason, detail=storable(detail)[:300], count=count))

    def counts(self) -> Counts:
        """What was collected so far."""
        kept_pairs = sum(row.kept for row in self._rows)
        failed: Counter[str] = Counter()
        for bad in self._bad:
            failed[bad.reason] += bad.count
        return Counts(
            samples=self._kept + self._dropped + failed.total(),
            kept=self._kept,
            dropped=self._dropped,
            failed=dict(sorted(failed.items())),
            kept_pairs=kept_pairs,
            dropped_pairs=len(self._rows) - kept_pairs,
        )

    def commit(self, metrics: Mapping[str, float] | None = None) -> ShardRecord:
        """Upload what was written, then commit it.

        Args:
            metrics: figures of the content, the same whenever the shard is made again.
        """
        tar = self._in_place or self._upload_tar()
        table = candidates_to_bytes(self._rows)
        parquet = own_file(self.name, ".parquet", len(table), sha256_hex(table))
        self.store.write(parquet.uri, table)
        record = ShardRecord(
            name=self.name,
            tar=tar,
            parquet=parquet,
            counts=self.counts(),
            bad=tuple(self._bad),
            metrics=dict(metrics or {}),
        )
        return commit_shard(self.store, record)

    def _upload_tar(self) -> FileRecord:
        if self._writer is None or self._file is None:
            raise DataError(f"shard {self.name} has no tar of its own")
        with folder_errors("write", self._path):
            self._writer.close()
            self._file.close()
        record = own_file(self.name, ".tar", self._writer.size, self._writer.sha256)
        self.store.upload(self._path, record.uri)
        return record
