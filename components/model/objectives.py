"""The three losses of BLIP as pure functions: image-text contrast (ITC) and matching (ITM), language modelling (LM).

Paper: arXiv 2201.12086, section 3.2; the contrast follows ALBEF (arXiv 2107.07651), section 3.2 and appendix.

Shapes: B pairs of this process, K keys (the batch's own B first, then the queue), d shared embedding width,
C candidate columns for negatives, P scored pairs, T tokens, V vocabulary.

Nothing here reads a value back from the device, so that a step never waits for it.
Losses are computed in fp32 (or fp64, where given) even under autocast.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""Target value that takes no part in a loss."""

ITM_PRIOR_LOSS = math.log(3) - 2 / 3 * math.log(2)
"""0.6365: ITM loss of a head that has learned nothing but the one-in-three share of matches."""

TEMPERATURE_RANGE = (0.001, 0.5)
"""Where the learned temperature is kept (docs/facts.md 5)."""

NEGATIVE_FLOOR = 1e-4
"""Added to every sampling weight, so that no row of another image's columns is all zero."""


class ItcOutput(NamedTuple):
    """ITC loss, and the student's logits `[B, K]` that hard negatives are drawn from."""

    loss: Tensor
    image_to_text: Tensor
    text_to_image: Tensor


class Negatives(NamedTuple):
    """Drawn columns `[B]`, and whether the row had any column to draw from (`valid` bool `[B]`)."""

    chosen: Tensor
    valid: Tensor


class LmOutput(NamedTuple):
    """Label-smoothed loss to learn from, and the plain negative log-likelihood per token to look at (detached)."""

    loss: Tensor
    nll: Tensor


def alpha_at(progress: float, alpha: float, ramp_epochs: float) -> float:
    """Weight of the teacher's soft targets: linear from 0 to `alpha` over the first `ramp_epochs` epochs.

    BLIP ramps over two epochs when pre-training and over one when finetuning for retrieval.
    """
    return alpha if ramp_epochs <= 0 else alpha * min(1.0, max(0.0, progress) / ramp_epochs)


def same_image(row_image_ids: Tensor, column_image_ids: Tensor) -> Tensor:
    """Which pairs show the same image: ids `[B]` and `[C]` to bool `[B, C]`."""
    return row_image_ids[:, None] == column_image_ids[None, :]


def positive_targets(positives: Tensor) -> Tensor:
    """Hard ITC targets from a mask of positives: bool `[B, K]` to rows that sum to one, `Y = pos / sum pos`."""
    weights = positives.to(torch.float32)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1.0)


def itc_targets(image_ids: Tensor, key_image_ids: Tensor, *, joint_positives: bool) -> Tensor:
    """Hard targets `[B, K]` of ITC; key i < B is pair i's own momentum feature.

    With `joint_positives` every caption of the same image, in the batch or in the queue, is a positive of equal weight
    (BLIP's retrieval finetuning). Without, only the own pair is (BLIP's pre-training, where a second caption of an
    image counts as a negative).
    """
    if joint_positives:
        return positive_targets(same_image(image_ids, key_image_ids))
    batch, keys = image_ids.shape[0], key_image_ids.shape[0]
    return torch.eye(batch, keys, dtype=torch.float32, device=image_ids.device)


def itc_loss(
    image_embed: Tensor,
    text_embed: Tensor,
    image_keys: Tensor,
    text_keys: Tensor,
    hard_targets: Tensor,
    temperature: Tensor,
    alpha: float | Tensor,
) -> ItcOutput:
    """Contrast with momentum soft targets (paper 3.2 "ITC"; ALBEF 3.2, equations 1 to 6).

    Args:
        image_embed, text_embed: student features `[B, d]`, L2-normalised.
        image_keys, text_keys: momentum features `[K, d]`, no gradient: the batch's own B rows first, then the queue.
        hard_targets: `[B, K]` rows that sum to one (`itc_targets`).
        temperature: divides all similarities; learned by the student's logits alone.
        alpha: weight of the teacher's distribution against the hard targets, 0 to 1.

    `L = (CE(S_i2t, A_i2t) + CE(S_t2i, A_t2i)) / 2` with `A = alpha softmax(S_teacher) + (1 - alpha) Y`.
    """
    with _full_precision(image_embed):
        image_embed, text_embed = _widen(image_embed), _widen(text_embed)
        image_keys = image_keys.detach().to(image_embed.dtype)
        text_keys = text_keys.detach().to(image_embed.dtype)
        image_to_text = image_embed @ text_keys.T / temperature
        text_to_image = text_embed @ image_keys.T / temperature
        with torch.no_grad():
            batch = image_embed.shape[0]
            soft_i2t = _soften(image_keys[:batch] @ text_keys.T / temperature, hard_targets, alpha)
            soft_t2i = _soften(text_keys[:batch] @ image_keys.T / temperature, hard_targets, alpha)
        loss_i2t = functional.cross_entropy(image_to_text, soft_i2t)
        loss_t2i = functional.cross_entropy(text_to_image, soft_t2i)
        return ItcOutput((loss_i2t + loss_t2i) / 2, image_to_text, text_to_image)


def _soften(teacher_logits: Tensor, hard_targets: Tensor, alpha: float | Tensor) -> Tensor:
    return alpha * teacher_logits.softmax(dim=1) + (1 - alpha) * hard_targets.to(teacher_logits.dtype)


def hard_negative_weights(similarity: Tensor, forbidden: Tensor) -> Tensor:
    """Sampling weights `[B, C]` of in-batch negatives: likelier where the similarity is higher (paper 3.2 "ITM").

    Args:
        similarity: logits `[B, C]` (already divided by the temperature).
        forbidden: bool `[B, C]`, columns never to be drawn: those of the row's own image.

    Weights are `softmax + 1e-4`, zero where forbidden. A not-a-number counts as zero: the loss of that batch says so.
    """
    weights = similarity.detach().softmax(dim=1) + NEGATIVE_FLOOR
    return torch.nan_to_num(weights, nan=0.0).masked_fill(forbidden, 0.0)


def hard_negative_indices(
    similarity: Tensor, forbidden: Tensor, *, generator: torch.Generator | None = None
) -> Negatives:
    """Draw one negative column per row, never a forbidden one.

    A row with nothing to draw (every candidate shows the same image) gets `valid = False` and must be left out of ITM.
    """
    weights = hard_negative_weights(similarity, forbidden)
    valid = weights.sum(dim=1) > 0
    drawable = torch.where(valid[:, None], weights, torch.ones_like(weights))
    return Negatives(torch.multinomial(drawable, 1, generator=generator).squeeze(1), valid)


def negatives_share(labels: Tensor) -> Tensor:
    """Share of the wrong pairs of ITM that could be drawn, by labels `[3B]` (`itm_labels`)."""
    return (labels[labels.shape[0] // 3 :] != IGNORED).float().mean()


def itm_labels(text_negatives_valid: Tensor, image_negatives_valid: Tensor) -> Tensor:
    """Labels `[3B]` for: matching pairs, (own text, hard image), (hard text, own image); -100 where none was drawn.

    Args:
        text_negatives_valid: bool `[B]`, whether the text of row b found a negative image.
        image_negatives_valid: bool `[B]`, whether the image of row b found a negative text.
    """
    valid = torch.cat([torch.ones_like(text_negatives_valid), text_negatives_valid, image_negatives_valid])
    matches = torch.arange(valid.shape[0], device=valid.device) < text_negatives_valid.shape[0]
    return torch.where(valid, matches.long(), IGNORED)


def itm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Two-way classification of pairs, 1 = match: logits `[P, 2]`, labels `[P]` in {0, 1, -100} (paper 3.2 "ITM").

    The mean runs over the pairs that count, without class weights.
    """
    with _full_precision(logits):
        total = functional.cross_entropy(_widen(logits), labels, ignore_index=IGNORED, reduction="sum")
        return total / _count(labels)


def itm_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of pairs `[P]` on the right side of 0.5 (detached; two thirds is what the class prior alone gives)."""
    counted = labels != IGNORED
    hits = (logits.detach().argmax(dim=1) == labels) & counted
    return hits.sum() / _count(labels)


def lm_targets(ids: Tensor, mask: Tensor, prompt_length: int = 0) -> Tensor:
    """Targets `[B, T]` of the decoder: the ids, -100 on padding and on the first `prompt_length` positions.

    With the prompt "a picture of " the length is 4 ([DEC] counts), so that the loss starts at the first word after it.
    """
    targets = ids.masked_fill(mask == 0, IGNORED)
    if prompt_length:
        targets = targets.clone()
        targets[:, :prompt_length] = IGNORED
    return targets


def lm_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.1) -> LmOutput:
    """Next-token loss of the image-grounded decoder (paper 3.2 "LM", label smoothing 0.1).

    Args:
        logits: `[B, T, V]`; position t predicts token t + 1 (the shift is made here).
        targets: `[B, T]`, unshifted, -100 where a token does not count (padding, prompt).
        smoothing: share of each target spread over the vocabulary.

    Both results are means over the tokens that count, zero if none does. The smoothed loss has a floor above zero
    (1.358 at V = 30524 and 0.1: a smoothed target's entropy), so the plain one is what curves should be read from.
    """
    wanted = targets[:, 1:].reshape(-1)
    return token_loss(logits[:, :-1].reshape(wanted.shape[0], -1), wanted, smoothing)


def token_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.1) -> LmOutput:
    """`lm_loss` of single predictions: logits `[P, V]` and the tokens they should be, `[P]`, -100 where none."""
    with _full_precision(logits):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        log_probs = functional.log_softmax(logits, dim=-1, dtype=dtype)
        count = _count(targets)
        nll = functional.nll_loss(log_probs, targets, ignore_index=IGNORED, reduction="sum") / count
        if smoothing == 0:
            return LmOutput(nll, nll.detach())
        spread = (-log_probs.mean(dim=-1)).masked_fill(targets == IGNORED, 0.0).sum() / count
        return LmOutput((1 - smoothing) * nll + smoothing * spread, nll.detach())


def _count(labels: Tensor) -> Tensor:
    return (labels != IGNORED).sum().clamp(min=1)


def _widen(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _full_precision(values: Tensor) -> torch.autocast:
    return torch.autocast(values.device.type, enabled=False)
