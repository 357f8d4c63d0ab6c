"""Where something was made: machine, threads and versions. Told beside a result, never part of its digest.

The same inputs and settings give the same result up to rounding wherever they are worked on; if two differ in the last
digit, this says what else did.
"""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "capfilt", "torch", "numpy", "transformers", "tokenizers", "pillow", "opencv-python-headless", "pyarrow",
    "deepspeed", "ray",
)  # fmt: skip


def surroundings() -> dict[str, Any]:
    """Machine, threads and versions of this process, as JSON; nothing is loaded for it, and no host is named."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name)) is not None},
        **_arithmetic(),
    }


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _arithmetic() -> dict[str, Any]:
    """Threads and GPUs of torch, if this process uses it; one that did not load it did not calculate with it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"threads": torch.get_num_threads(), "gpus": gpus, "cuda": torch.version.cuda}
