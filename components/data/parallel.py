"""Threads that keep order and hold little."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_threads() -> int:
    """One thread per CPU this process may use, 16 at most."""
    return min(16, len(os.sched_getaffinity(0)))


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """`map` over a thread pool: results in order, at most four items a thread ahead of the consumer.

    An exception of `function` is raised at its place; what was not begun by then is not begun any more.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="capfilt-map") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
