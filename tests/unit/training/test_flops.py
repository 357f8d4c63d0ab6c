"""What a step computes, and what a GPU could."""

import pytest
import torch

from components.training.flops import _peaks, counted


def test_operations_of_a_product_forward_and_backward() -> None:
    left, right = torch.ones(4, 5, requires_grad=True), torch.ones(5, 6, requires_grad=True)

    def work() -> torch.Tensor:
        product = left @ right
        product.sum().backward()
        return product

    product, operations = counted(work)
    assert product.shape == (4, 6)
    assert operations == 3 * 2 * 4 * 5 * 6  # the product, and one more per factor's gradient


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
    ],
)
def test_peaks_go_by_the_drivers_name(name: str, bf16: float) -> None:
    found = _peaks(name)
    assert found is not None and found[0] == bf16


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA GeForce RTX 4090", "Tesla T4"])
def test_a_gpu_that_is_not_in_the_table_has_no_peak(name: str) -> None:
    assert _peaks(name) is None
