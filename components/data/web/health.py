"""Bad news early: what would otherwise be found out when all shards are done."""

import logging

from components.data.manifest import Counts, ShardRecord
from components.data.web.samples import BROKEN_SHARD

logger = logging.getLogger(__name__)


class Health:
    """Warns of every shard that cannot be read to its end, and once if the first samples promise little.

    Args:
        where: what is worked on, for the messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._looked = False

    def look(self, record: ShardRecord) -> None:
        """A shard is finished."""
        for bad in record.bad:
            if bad.reason == BROKEN_SHARD:
                logger.warning("%s; %d samples behind that are lost: fetch this shard again", bad.detail, bad.count)
        if not self._looked and record.counts.samples:
            self._looked = True
            self._judge(record.name, record.counts)

    def _judge(self, shard: str, counts: Counts) -> None:
        failed = sum(counts.failed.values())
        if 2 * failed > counts.samples:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in counts.failed.items())
            logger.warning(
                "%s: %d of the %d samples of the first shard (%s) cannot be used (%s). If the others are like it, the "
                "dataset will be refused at the end; the shard's commit record lists what was found",
                self.where, failed, counts.samples, shard, reasons,
            )  # fmt: skip
        elif counts.kept_pairs == 0:
            logger.warning(
                "%s: of the first shard (%s) not one of %d captions is kept. If that is not meant, stop here: its "
                "candidate table has the reasons",
                self.where, shard, counts.dropped_pairs,
            )  # fmt: skip
