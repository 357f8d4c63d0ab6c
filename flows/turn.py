"""Whose turn it is on a store: a run of a schedule waits out a lock whose holder is gone, never one that works."""

import logging
import time

from components.common.lock import HEARTBEAT_SECONDS, STALE_SECONDS, BusyError, refuse_if_busy, sign_of_life
from components.common.storage import Store, open_store
from components.config import BootstrapConfig
from flows.layout import LOCK_KEY

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


def wait_for_turn(config: BootstrapConfig, seconds: float = STALE_SECONDS + 2 * HEARTBEAT_SECONDS) -> bool:
    """Whether the store is free, at once or after its holder was found gone.

    A lock left by a power cut, or on another machine, can be told from a held one by its heartbeat only. A holder that
    gives a new sign of life is not waited for.
    """
    store = open_store(config.store)
    end, first, told = time.monotonic() + seconds, sign_of_life(store, LOCK_KEY), False
    while (refusal := _refusal(store)) is not None:
        now = sign_of_life(store, LOCK_KEY)
        if time.monotonic() > end or (now is not None and now != first):
            return False
        if not told:
            logger.info("waiting for a sign of life: %s", refusal)
            told = True
        time.sleep(_LOOK_SECONDS)
    return True


def _refusal(store: Store) -> str | None:
    try:
        refuse_if_busy(store, LOCK_KEY)
    except BusyError as error:
        return str(error)
    return None
