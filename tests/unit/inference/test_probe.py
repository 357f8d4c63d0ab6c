"""`auto` is what is faster here: held against our own clock."""

import time

import pytest
import torch

from components.inference import probe as module
from components.inference.probe import SHAPE, WORTH, Probe, fast_precision, probe

BAND = 1.5
"""Within so much of the border either answer is right: other work on the machine shifts either time."""


def seconds(kind: torch.dtype) -> float:
    """The best of two products by a layer of torch's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = torch.nn.Linear(*SHAPE, bias=False, device=device, dtype=kind)
    values = torch.ones(probe().rows, SHAPE[0], device=device, dtype=kind)

    def once() -> float:
        start = time.perf_counter()
        layer(values)[-1, -1].item()
        return time.perf_counter() - start

    with torch.inference_mode():
        once()
        return min(once(), once())


def test_auto_is_the_faster_one_on_this_machine() -> None:
    gain = seconds(torch.float32) / seconds(torch.bfloat16)
    right = {name for name, holds in (("bf16", gain > WORTH / BAND), ("fp32", gain < WORTH * BAND)) if holds}
    assert fast_precision() in right, f"bf16 is {gain:.2f} times as fast; the probe says {probe()}"
    assert probe().faster in right, "what is not tried would not have been chosen"


def test_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe()
    monkeypatch.setattr(module, "_timed", pytest.fail)
    assert probe() is first


@pytest.mark.parametrize(
    ("bf16", "faster"), [(1.0, "bf16"), (1 / 1.3, "bf16"), (1 / 1.2, "fp32"), (3.0, "fp32"), (None, "fp32")]
)
def test_bf16_is_taken_from_1_3_times_on(bf16: float | None, faster: str) -> None:
    found = Probe("cpu", 512, 1.0 if bf16 != 1.0 else 1.3, bf16)
    assert found.faster == faster
    assert ("bf16 " in str(found) or "no bf16" in str(found)) and "fp32 1" in str(found)


@pytest.mark.parametrize(
    ("able", "possible"),
    [
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": False, "avx10_2": False}, False),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": True, "avx10_2": False}, True),
        ({"architecture": "aarch64"}, True),
        ({}, True),
    ],
)
def test_only_x86_processors_without_instructions_for_it_are_not_asked(
    able: dict[str, object], possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(module, "probe", lambda: Probe("cpu", 512, 2.0, 1.0))
    assert fast_precision() == ("bf16" if possible else "fp32")
