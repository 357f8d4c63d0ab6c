"""How long a server that gives no answer is waited for: growing pauses over minutes, told in the log now and then."""

import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from components.common.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

VARIABLE = "CAPFILT_S3_PATIENCE"
DEFAULT_SECONDS = 300.0
_LONGEST_PAUSE = 25.0
_LINE_SECONDS = 60.0  # between two log lines about the same silence

T = TypeVar("T")
_limit: ContextVar[float] = ContextVar("patience", default=float("inf"))
_sleep = time.sleep


def seconds() -> float:
    """How long a call may wait for an answer here: CAPFILT_S3_PATIENCE, or less inside `at_most`.

    Raises:
        ConfigError: the variable is no number of seconds.
    """
    given = os.environ.get(VARIABLE, "").strip()
    try:
        value = float(given) if given else DEFAULT_SECONDS
    except ValueError as error:
        raise ConfigError(f"{VARIABLE}={given} is no number: write seconds, e.g. {VARIABLE}=600") from error
    return min(value, _limit.get())


@contextlib.contextmanager
def at_most(limit: float) -> Iterator[None]:
    """Calls of this thread wait no longer than `limit` seconds while the block runs."""
    token = _limit.set(min(limit, _limit.get()))
    try:
        yield
    finally:
        _limit.reset(token)


def patiently(call: Callable[[], T], limit: float) -> T:
    """`call()`, and again after a pause while it fails in a way that heals; at most `limit` seconds from its first end.

    Raises:
        StorageError: the last one, where time is up; at once, where waiting cannot heal it.
    """
    start = None
    pauses = 0
    while True:
        try:
            result = call()
        except StorageError as error:
            start = time.monotonic() if start is None else start
            silent = time.monotonic() - start
            if not error.retryable or silent >= limit:
                raise
            _silence.tell(f"{error}; trying again for {limit - silent:.0f} s more ({VARIABLE})")
            pause = min(2.0**pauses, _LONGEST_PAUSE) * random.uniform(0.75, 1.25)
            _sleep(max(0.05, min(pause, limit - silent)))
            pauses += 1
        else:
            _silence.end()
            return result


class _Silence:
    """What all threads of a process say about one outage: a line at first, one a minute, one at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None
        self._told = 0.0

    def tell(self, line: str) -> None:
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now
            elif now - self._told < _LINE_SECONDS:
                return
            self._told = now
        logger.warning("%s", line)

    def end(self) -> None:
        if self._since is None:  # without the lock: the usual case, at every call
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            logger.warning("the store answers again after %.0f s", time.monotonic() - since)


_silence = _Silence()
