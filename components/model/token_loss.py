"""LM loss straight from the states before the vocabulary projection, without ever holding all logits.

With BERT's 30,524 words the logits of a batch, their logarithms and their gradients are the largest tensors of a step,
each of another size from batch to batch. Here a few tokens at a time are projected, scored and, while their logits are
at hand, differentiated: the same arithmetic, fewer passes over memory, and blocks of one size but for the last.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from components.model.objectives import IGNORED, LmOutput, token_loss

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Logits held at a time: 32 MiB of fp32 on CPU (274 tokens of BERT's words; with fewer, adding up the gradient by the
words costs more than it saves), 256 MiB on a GPU."""


def projected_token_loss(
    states: Tensor, words: Tensor, bias: Tensor, targets: Tensor, smoothing: float = 0.1
) -> LmOutput:
    """`objectives.token_loss` of the logits `states @ words.T + bias`.

    Args:
        states: what the vocabulary projection reads, `[P, D]`.
        words: `[V, D]`, the word embeddings.
        bias: `[V]`.
        targets: `[P]`, -100 where a token does not count.
        smoothing: share of each target spread over the vocabulary.

    Few logits, and a graph being compiled, which fuses these passes itself, take the plain way.
    """
    rows = max(1, LOGITS_AT_ONCE.get(states.device.type, LOGITS_AT_ONCE["cuda"]) // words.shape[0])
    if torch.compiler.is_compiling() or states.shape[0] <= rows:
        return token_loss(functional.linear(states, words, bias), targets, smoothing)
    learning = torch.is_grad_enabled() and any(one.requires_grad for one in (states, words, bias))
    loss, nll = _ProjectedTokenLoss.apply(  # type: ignore[no-untyped-call]
        states, words, bias, targets, smoothing, rows, learning
    )
    return LmOutput(loss, nll)


class _ProjectedTokenLoss(torch.autograd.Function):
    """The gradients are made in the forward pass and only scaled in the backward one."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        words: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        rows: int,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        with torch.autocast(device, enabled=False):
            nll, spread, gradients = _chunked(
                states.to(dtype), words.to(dtype), bias.to(dtype), targets, smoothing, rows, learning
            )
        if learning:
            inputs = (states, words, bias)
            ctx.save_for_backward(*(found.to(one.dtype) for found, one in zip(gradients, inputs, strict=True)))
        ctx.mark_non_differentiable(nll)
        return (1 - smoothing) * nll + smoothing * spread, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, of_nll: Tensor) -> tuple[Tensor | None, ...]:
        return *(found * of_loss.to(found.dtype) for found in ctx.saved_tensors), None, None, None, None


def _chunked(
    states: Tensor, words: Tensor, bias: Tensor, targets: Tensor, smoothing: float, rows: int, learning: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Mean plain loss, mean loss against the whole vocabulary, gradients of their mixture by states, words and bias.

    Sums run in fp32 (fp64 where given), products in the type of `states`.
    """
    wide = torch.float64 if states.dtype == torch.float64 else torch.float32
    counted = targets != IGNORED
    weights = counted / counted.sum().clamp(min=1).to(wide)  # of every token in the mean
    wanted = targets.masked_fill(~counted, 0)
    nll, spread = states.new_zeros((), dtype=wide), states.new_zeros((), dtype=wide)
    of_states = torch.empty_like(states)
    of_words, of_bias = (torch.zeros_like(one, dtype=wide) for one in (words, bias))
    for start in range(0, states.shape[0], rows):
        part = slice(start, start + rows)
        weight, target = weights[part], wanted[part, None]
        log_probs = functional.linear(states[part], words, bias).log_softmax(dim=1, dtype=wide)
        nll -= weight.dot(log_probs.gather(1, target).squeeze(1))
        spread -= weight.dot(log_probs.mean(dim=1))
        if not learning:
            continue
        # d/dlogits of the mixture: softmax - (1 - smoothing) [wanted] - smoothing / V, times the token's weight
        of_logits = log_probs.exp_().sub_(smoothing / words.shape[0])
        of_logits.scatter_(1, target, smoothing - 1.0, reduce="add").mul_(weight[:, None])
        of_bias += of_logits.sum(dim=0)
        of_logits = of_logits.to(states.dtype)
        torch.mm(of_logits, words, out=of_states[part])
        _add_product(of_words, of_logits.T, states[part])
    return nll, spread, (of_states, of_words, of_bias)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
