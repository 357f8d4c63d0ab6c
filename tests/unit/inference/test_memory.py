from collections.abc import Sequence

import pytest
import torch

from components.inference.memory import batches, with_halving


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


def test_what_is_kept_for_speed_is_let_go_before_the_halves() -> None:
    kept, seen = [1], list[tuple[int, int]]()

    def call(items: Sequence[int]) -> list[int]:
        seen.append((len(items), len(kept)))
        if kept:
            raise MemoryError
        return list(items)

    assert with_halving(call, [1, 2, 3, 4], release=kept.clear) == [1, 2, 3, 4]
    assert seen == [(4, 1), (2, 0), (2, 0)]


def test_batches_cover_everything_once() -> None:
    assert [list(batch) for batch in batches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert batches(0, 2) == []
