"""Batches, and what becomes of one that does not fit into memory: it halves and goes on."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def batches(total: int, size: int) -> list[range]:
    """The numbers 0 … total - 1, `size` at a time."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def with_halving(
    call: Callable[[Sequence[T]], list[R]], items: Sequence[T], *, release: Callable[[], object] = lambda: None
) -> list[R]:
    """`call(items)`, in halves where that does not fit into memory, down to single items.

    Args:
        call: gives the results of some items in order, one each or as a joined part; an item's result must not depend
            on the others.
        items: what it is called with.
        release: called when memory has run out: lets go of what is kept for speed alone.
    """
    try:
        return call(items)
    except (RuntimeError, MemoryError) as error:
        if len(items) < 2 or not out_of_memory(error):
            raise
    # Outside of the handler, so that the failed call's tensors are no longer held by the traceback.
    release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    logger.warning("out of memory with a batch of %d: going on with %d", len(items), middle)
    return with_halving(call, items[:middle], release=release) + with_halving(call, items[middle:], release=release)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "out of memory" in text or "DefaultCPUAllocator: can't allocate memory" in text
