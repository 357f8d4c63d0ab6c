"""How much of an input can be used: bad news early, and a refusal where there is too much of it."""

import logging
from collections import Counter
from collections.abc import Collection

from components.common.errors import DataError
from components.data.manifest import BadSample, Counts, ShardRecord
from components.data.records import storable
from components.data.shards import BROKEN_SHARD

logger = logging.getLogger(__name__)

_NAMED = 5
_TOLD = 10


class Telling:
    """Tells of what is of no use by file and place, of the first ones.

    Args:
        where: what is read, for the last message.
    """

    def __init__(self, where: str) -> None:
        self.where, self._told = where, 0

    def tell(self, what: str) -> None:
        """Say what is wrong with one entry, and where it stands."""
        self._told += 1
        if self._told <= _TOLD:
            logger.warning("of no use: %s", storable(what))
        elif self._told == _TOLD + 1:
            logger.warning("more of %s is of no use; `capfilt dataset failed` lists all that failed", self.where)


class Health:
    """Adds up what became of an input's samples, shard by shard, in memory that does not grow with them.

    Args:
        where: what is read, for the messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._samples = 0
        self._failed: Counter[str] = Counter()
        self._examples: dict[str, BadSample] = {}  # the first of every reason
        self._broken: list[str] = []

    def look(self, record: ShardRecord) -> None:
        """Take in a finished shard; warns if it was not read to its end, and if the first one promises little."""
        if not self._samples and record.counts.samples:
            self._judge(record.name, record.counts)
        self._samples += record.counts.samples
        self._failed.update(record.counts.failed)
        for bad in record.bad:
            self._examples.setdefault(bad.reason, bad)
            if bad.reason == BROKEN_SHARD:
                self._broken = [*self._broken, bad.key.partition("@")[0]][: _NAMED + 1]
                logger.warning("%s; %d samples behind that are lost: fetch this shard again", bad.detail, bad.count)

    def _judge(self, shard: str, counts: Counts) -> None:
        failed = sum(counts.failed.values())
        if 2 * failed > counts.samples:
            logger.warning(
                "%s: %d of the %d samples of the first shard (%s) cannot be used (%s). If the others are like it, the "
                "dataset will be refused at the end; the shard's commit record lists what was found",
                self.where, failed, counts.samples, shard, _listed(counts.failed),
            )  # fmt: skip
        elif counts.kept_pairs == 0:
            logger.warning(
                "%s: of the first shard (%s) not one of %d captions is kept. If that is not meant, stop here: its "
                "candidate table has the reasons",
                self.where, shard, counts.dropped_pairs,
            )  # fmt: skip

    def refuse(self, *, meant: Collection[str] = ()) -> None:
        """Raise DataError if there were no samples, or more than half of them failed: not the input that was meant.

        Args:
            meant: reasons that somebody asked for, such as `too_small` by a larger limit: they are no fault here.
        """
        if self._samples == 0:
            raise DataError(f"{self.where}: there is not one sample in it; check that it is what you meant")
        faults = {reason: count for reason, count in self._failed.items() if reason not in meant}
        if 2 * sum(faults.values()) <= self._samples:
            return
        example = next(bad for reason, bad in self._examples.items() if reason in faults)
        more = " …" if len(self._broken) > _NAMED else ""
        unread = f" Not read to the end: {', '.join(self._broken[:_NAMED])}{more}." if self._broken else ""
        raise DataError(
            f"{self.where}: {sum(faults.values())} of {self._samples} samples cannot be used ({_listed(faults)}); for "
            f"example {example.key}: {example.detail or example.reason}.{unread} Check that this is the right input"
        )


def _listed(failed: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(failed.items()))
