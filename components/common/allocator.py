"""The C library's allocator, told to keep what a training will ask for again a moment later."""

import ctypes
import platform

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory for the next step, instead of giving it back and having it zeroed page by page again.

    By default glibc maps every large tensor anew. On the CPU a third of the time of what is bound by memory (softmax
    over the vocabulary, activations) went into those page faults. The price: the process stays as large as it once was.

    Returns:
        Whether it could be set (glibc only).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
