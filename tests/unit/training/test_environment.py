"""What the processes of a training are given: large tensors on huge pages."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from components.training.config import LaunchConfig
from components.training.group import environment

FAULTS = """
import resource
import torch
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(100 * 2**20 // 4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _huge_pages() -> bool:
    name, version = platform.libc_ver()
    recent = name == "glibc" and tuple(int(part) for part in version.split(".")) >= (2, 35)
    return recent and SETTING.is_file() and "[never]" not in SETTING.read_text()


@pytest.mark.skipif(not _huge_pages(), reason="needs glibc 2.35 and a system that gives huge pages")
def test_large_tensors_lie_on_huge_pages(tmp_path: Path) -> None:
    given = environment(LaunchConfig(), tmp_path)
    done = subprocess.run([sys.executable, "-c", FAULTS], env=given, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 2**20 // 4096 / 10


def test_the_users_own_choice_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert environment(LaunchConfig(), tmp_path)["GLIBC_TUNABLES"] == "glibc.malloc.check=0"
