"""What arithmetic `precision: auto` is: found out once per store and kind of work, and written down there.

So all rounds of a store are made in the same arithmetic, whichever machine goes on with it: what is finished is found
done, and a training that was stopped goes on as it began. A setting other than `auto` counts as it stands.
"""

import logging
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from components.common.errors import DataError
from components.common.precision import AUTOMATIC, Precision
from components.common.storage import Store, join_uri
from components.data.commits import load_json
from components.data.records import pretty
from components.inference.probe import fast_precision

logger = logging.getLogger(__name__)

Work = Literal["capfilt", "training", "evaluation"]

PRECISION_KEYS: dict[Work, str] = {
    "capfilt": "precision.json",
    "training": "precision-training.json",
    "evaluation": "precision-evaluation.json",
}
"""An object each, so that whoever comes first creates it whole."""


class Calculating(Protocol):
    """A config with a precision."""

    @property
    def precision(self) -> str:
        """`auto`, or the name of an arithmetic."""
        ...

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        """The config with other values."""
        ...


C = TypeVar("C", bound=Calculating)


def settled(config: C, store: Store, work: Work, find: Callable[[], Precision] = fast_precision) -> C:
    """The config in the arithmetic of the store; the first time it is the one that is fast where the work will be.

    Args:
        config: settings of the work.
        store: where the choice is written down.
        work: what kind of work it is.
        find: what is fast where it will be done.

    Raises:
        DataError: what was written down cannot be read.
    """
    if config.precision != "auto":
        return config
    key = PRECISION_KEYS[work]
    if not store.exists(key):
        store.write(key, pretty({work: find()}), if_absent=True)
    where = join_uri(store.uri, key)
    precision = load_json(store.read(key), where).get(work)
    if precision not in AUTOMATIC:
        raise DataError(f"{where} names no arithmetic: it must hold `{work}`: {' or '.join(AUTOMATIC)}")
    logger.info("%s: arithmetic in %s, as %s has it", work, precision, where)
    settled_config: C = config.model_copy(update={"precision": precision})
    return settled_config
