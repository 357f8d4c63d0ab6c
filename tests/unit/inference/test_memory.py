from collections.abc import Sequence

import pytest
import torch

from components.inference.memory import with_halving


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_halves_until_it_fits_and_keeps_the_order(error: Exception) -> None:
    sizes = []

    def double(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise error
        return [2 * item for item in items]

    assert with_halving(double, range(10)) == [2 * item for item in range(10)]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]


def test_a_single_item_that_does_not_fit_is_an_error() -> None:
    def fail(items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        with_halving(fail, [1, 2])


def test_other_errors_are_not_swallowed() -> None:
    calls = []

    def fail(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        with_halving(fail, [1, 2, 3])
    assert calls == [3]
