"""The LM loss made a few tokens at a time is that of all logits, and so are its gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.model import token_loss as chunked
from components.model.objectives import IGNORED, LmOutput, token_loss
from components.model.token_loss import projected_token_loss

TOKENS, WIDTH, WORDS = 23, 12, 37


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tokens at a time, so that the last block is smaller."""
    monkeypatch.setitem(chunked.LOGITS_AT_ONCE, "cpu", 5 * WORDS)


def inputs(dtype: torch.dtype = torch.float64, ignored: float = 0.3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dice = torch.Generator().manual_seed(3)
    states, words, bias = (
        torch.randn(shape, generator=dice, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((TOKENS, WIDTH), (WORDS, WIDTH), (WORDS,))
    )
    targets = torch.randint(0, WORDS, (TOKENS,), generator=dice)
    return states, words, bias, targets.masked_fill(torch.rand(TOKENS, generator=dice) < ignored, IGNORED)


def plain(states: Tensor, words: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> LmOutput:
    return token_loss(functional.linear(states, words, bias), targets, smoothing)


def learned(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(3.5 * loss, leaves))  # a factor, as accumulation or another loss brings one


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_loss_and_gradients_are_those_of_all_logits(smoothing: float, ignored: float) -> None:
    *leaves, targets = inputs(ignored=ignored)
    mine, theirs = (of(*leaves, targets, smoothing) for of in (projected_token_loss, plain))
    torch.testing.assert_close(mine, theirs)
    assert not mine.nll.requires_grad
    torch.testing.assert_close(learned(mine.loss, *leaves), learned(theirs.loss, *leaves))


def test_gradients_are_the_slopes_of_the_loss() -> None:
    *leaves, targets = inputs()
    assert torch.autograd.gradcheck(lambda *of: projected_token_loss(*of, targets, 0.1).loss, leaves)


def test_under_autocast_products_are_bf16_and_sums_fp32() -> None:
    *leaves, targets = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, theirs = (of(*leaves, targets, 0.1) for of in (projected_token_loss, plain))
    assert mine.loss.dtype == torch.float32
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    exact = learned(plain(*leaves, targets, 0.1).loss, *leaves)
    for got, usual, wanted in zip(learned(mine.loss, *leaves), learned(theirs.loss, *leaves), exact, strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() <= 1.1 * (usual - wanted).norm(), "no worse than autograd's own"


def test_states_in_bf16_get_gradients_in_bf16() -> None:
    *leaves, targets = inputs(torch.bfloat16)
    mine, theirs = (of(*leaves, targets, 0.1) for of in (projected_token_loss, plain))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    for got, usual in zip(learned(mine.loss, *leaves), learned(theirs.loss, *leaves), strict=True):
        torch.testing.assert_close(got, usual, rtol=0.05, atol=0.01)


def test_without_gradients_the_loss_is_the_same() -> None:
    *leaves, targets = inputs()
    with torch.no_grad():
        watched = projected_token_loss(*leaves, targets, 0.1)
    torch.testing.assert_close(watched.loss, plain(*leaves, targets, 0.1).loss.detach())
    assert not watched.loss.requires_grad


def test_no_block_is_larger_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    *leaves, targets = inputs()
    sizes: list[int] = []
    linear = functional.linear

    def watched(states: Tensor, words: Tensor, bias: Tensor) -> Tensor:
        sizes.append(states.shape[0])
        return linear(states, words, bias)

    monkeypatch.setattr(functional, "linear", watched)
    projected_token_loss(*leaves, targets, 0.1).loss.backward()
    assert sizes == [5, 5, 5, 5, 3]
