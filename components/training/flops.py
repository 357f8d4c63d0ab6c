"""Model FLOPs utilisation: what a step computes, against what the GPU could have computed meanwhile.

Counted are the matrix products of one real micro-batch, forward and backward, momentum encoders included, as torch
dispatches them; recomputed activations count too, so compare runs of equal `checkpointed_layers`.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

Result = TypeVar("Result")

# Dense peaks from NVIDIA's data sheets, FLOP/s: bf16 tensor cores, then fp32 (TF32 tensor cores are off by default).
_PEAKS = {
    "GH200": (989e12, 67e12),
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100 NVL": (835e12, 60e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30.3e12),
    "A10": (125e12, 31.2e12),
}


def counted(work: Callable[[], Result]) -> tuple[Result, float]:
    """Do some work; its result and its floating-point operations."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, float(counter.get_total_flops())


def peak_flops(precision: str) -> float | None:
    """Peak of this machine's GPU at a precision, FLOP/s; None without a GPU or for one that is not in the table."""
    if not torch.cuda.is_available():
        return None
    found = _peaks(torch.cuda.get_device_name())
    if found is None:
        return None
    return found[0] if precision == "bf16" else found[1]


def _peaks(name: str) -> tuple[float, float] | None:
    """Peaks of a GPU by the name its driver gives; whole words, so that an L40 is no L4 and an A10G no A10."""
    return next((peaks for key, peaks in _PEAKS.items() if re.search(rf"\b{key}\b", name)), None)
