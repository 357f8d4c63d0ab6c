"""Keys that several raw tars on S3 have: seen once their shards are finished, as nobody reads such tars twice.

Where img2dataset's tables lie beside the tars, the plan knows them before (plan.py).
"""

import logging
from collections.abc import Iterable, Sequence

from components.data.candidates import stored_candidates
from components.data.commits import READERS
from components.data.parallel import ordered_map
from components.data.records import ShardEntry
from components.data.web.repeats import KeysMet
from components.regeneration.reading import ShardSource

logger = logging.getLogger(__name__)

_NAMED = 5


def tell_repeats(name: str, root: str, sources: Sequence[ShardSource], entries: Iterable[ShardEntry]) -> int:
    """Warn of samples with the key of one in an earlier shard, where the plan could not mark them; their number.

    Args:
        name: of the dataset.
        root: its URI.
        sources: its input shards; only tars on S3 that nobody imported have no hash.
        entries: its shards in order.
    """
    if all(source.sha256 is not None for source in sources):
        return 0
    met, repeated, named = KeysMet(), 0, list[str]()

    def keys_of(entry: ShardEntry) -> tuple[str, list[str]]:
        return entry.name, list(dict.fromkeys(stored_candidates(root, entry.parquet).keys))

    for shard, keys in ordered_map(keys_of, entries, threads=READERS):
        again = met.again(keys)
        repeated += len(again)
        named = [*named, *(f"{key} in {shard}" for key in sorted(again))][:_NAMED]
    if repeated:
        logger.warning(
            "%s: %d samples have the key of one in an earlier shard, and all of them were used (%s%s): tars on S3 "
            "without img2dataset's tables beside them are not compared beforehand. Import them first (`capfilt dataset "
            "import-web`), and only the first counts",
            name,
            repeated,
            ", ".join(named),
            " …" if repeated > _NAMED else "",
        )
    return repeated
