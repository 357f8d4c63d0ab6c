"""Out of memory is no reason to stop: the batch halves and goes on."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def with_halving(call: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
    """`call(items)`, in halves where that does not fit into memory, down to single items.

    `call` must give one result per item, independent of the other items.
    """
    try:
        return call(items)
    except (RuntimeError, MemoryError) as error:
        if len(items) < 2 or not out_of_memory(error):
            raise
    # Outside of the handler, so that the failed call's tensors are no longer held by the traceback.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    logger.warning("out of memory with a batch of %d: going on with %d", len(items), middle)
    return with_halving(call, items[:middle]) + with_halving(call, items[middle:])


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "out of memory" in text or "DefaultCPUAllocator: can't allocate memory" in text
