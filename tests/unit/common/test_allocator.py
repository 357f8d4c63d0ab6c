"""Freed memory is there again without new pages: counted as the page faults of a tensor made again and again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from components.common.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # settles once the small things have found their places
    before = faults()
    torch.ones(100 * 2**20 // 4)
    last = faults() - before
print(last)
"""


def count(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_large_tensor_is_made_of_pages_that_are_there() -> None:
    pages = 100 * 2**20 // 4096
    assert count("kept") < pages / 100
    assert count("usual") > pages / 2  # else the setting is of no use on this system, and can go
