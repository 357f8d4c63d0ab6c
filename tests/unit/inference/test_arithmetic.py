import torch
from torch import nn

from components.inference.arithmetic import Arithmetic


def test_fp16_is_autocast_over_weights_that_stay() -> None:
    half = Arithmetic(torch.device("cpu"), "fp16")
    layer = half.place(nn.Linear(2, 2))
    assert layer.weight.dtype == torch.float32
    with half:
        assert layer(torch.ones(1, 2)).dtype == torch.float16


def test_bf16_narrows_the_weights_unless_they_are_to_stay() -> None:
    cpu = torch.device("cpu")
    assert Arithmetic(cpu, "bf16").place(nn.Linear(2, 2)).weight.dtype == torch.bfloat16
    wide = Arithmetic(cpu, "bf16", fp32_weights=True)
    layer = wide.place(nn.Linear(2, 2))
    assert layer.weight.dtype == torch.float32
    with wide:
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
    assert layer(torch.ones(1, 2)).dtype == torch.float32
