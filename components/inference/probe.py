"""Which arithmetic is the faster one here, found by trying it.

No flag of a processor tells: an AMD with avx512_bf16 multiplies three times faster in bf16 than in fp32, an Intel with
the same flag and no AMX is slower in it. So one product is timed, the largest of a ViT-B block, by the kernels that
will be used.
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from components.common.precision import Precision

WORTH = 1.3
"""How many times faster bf16 must be: it is the coarser one, and casts cost something too."""

SHAPE = (768, 3072)  # of the weight: in, out
_ROWS = {"cpu": 512, "cuda": 16384}  # a GPU is through with fewer before its clock has turned
_FIRST_WITH_BF16 = (8, 0)  # compute capability: Ampere; older ones calculate in fp32 what they are given in bf16
_X86_WITH_BF16 = ("amx_bf16", "avx512_bf16", "avx10_2")
_TRIES = 3


class Probe(NamedTuple):
    """How long a product took.

    Attributes:
        device: where, as torch names it.
        rows: of the product with a weight of `SHAPE`.
        fp32: seconds.
        bf16: seconds; None where the device has no arithmetic in bf16.
    """

    device: str
    rows: int
    fp32: float
    bf16: float | None

    @property
    def faster(self) -> Precision:
        """What `auto` is."""
        return "bf16" if self.bf16 is not None and self.fp32 >= WORTH * self.bf16 else "fp32"

    def __str__(self) -> str:
        product = f"{self.rows} × {SHAPE[0]} × {SHAPE[1]}"
        if self.bf16 is None:
            return f"{product}: fp32 {1e3 * self.fp32:.3g} ms; {self.device} has no bf16"
        return f"{product}: fp32 {1e3 * self.fp32:.3g} ms, bf16 {1e3 * self.bf16:.3g} ms"


def fast_precision() -> Precision:
    """What `auto` is on this machine: bf16 where it is faster than fp32 by `WORTH` at least.

    Where it cannot be, that is not tried: it would take a second.
    """
    return probe().faster if _may_have_bf16() else "fp32"


def _may_have_bf16() -> bool:
    """False for x86 processors without instructions for bf16: it is put together from fp32 there."""
    if torch.cuda.is_available():
        return True
    able = torch.cpu.get_capabilities()
    return able.get("architecture") != "x86_64" or any(able.get(one, True) for one in _X86_WITH_BF16)


@functools.cache
def probe() -> Probe:
    """Time the product in both, once per process: 0.2 s on a CPU core that has both."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = _ROWS[device]
    kinds = [torch.float32]
    if device == "cpu" or torch.cuda.get_device_capability() >= _FIRST_WITH_BF16:
        kinds.append(torch.bfloat16)
    with torch.inference_mode():
        weight = torch.full(SHAPE[::-1], 0.01, device=device)
        values = torch.full((rows, SHAPE[0]), 0.01, device=device)
        seconds = _timed([_product(values.to(kind), weight.to(kind)) for kind in kinds])
    return Probe(device, rows, seconds[0], seconds[1] if len(seconds) > 1 else None)


def _product(values: Tensor, weight: Tensor) -> Callable[[], None]:
    def multiply() -> None:
        linear(values, weight)
        if values.is_cuda:
            torch.cuda.synchronize()

    return multiply


def _timed(calls: list[Callable[[], None]]) -> list[float]:
    """The best seconds of each. They take turns, so that whatever else keeps the machine busy delays them alike."""
    for call in calls:
        call()
    best = [float("inf")] * len(calls)
    for _ in range(_TRIES):
        for number, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[number] = min(best[number], time.perf_counter() - start)
    return best
