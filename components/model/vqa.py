"""Visual question answering: what its training learns, and which of a list of answers a model finds likeliest.

The network is `BlipVqa`: an encoder reads question and image, a decoder reads the question's states and writes the
answer; the padding of a question is seen by neither. Loss and ranking as in BLIP's code (models/blip_vqa.py of
salesforce/BLIP): answers' losses are sums over tokens, with label smoothing in training.

Shapes: B questions of a batch with their images, S image side, T tokens of a question, R answers, A tokens of an
answer, n tokens that count, V vocabulary, D text width, k answers compared in full.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.common.errors import ConfigError, ModelError
from components.model.blip import BlipVqa
from components.model.learning import Objective
from components.model.objectives import IGNORED, lm_targets
from components.model.text import ImageKV, with_first

LOGITS_AT_ONCE = 1 << 26
"""Logits held at a time while a list is ranked, in numbers: 256 MiB of fp32."""


@dataclass(frozen=True)
class VqaBatch:
    """One micro-batch of questions on the model's device.

    Attributes:
        pixels: normalised images, float `[B, 3, S, S]`, one per question.
        questions, question_mask: token ids `[B, T]`, `[CLS] … [SEP]` and padding; 1 on tokens, 0 on padding.
        answers, answer_mask: the same of the answers, `[R, A]`.
        owners: int64 `[R]`, the question of each answer.
        weights: float `[R]`, how much an answer counts: the share of the annotators who gave it.
        image_ids: int64 `[B]`, equal for questions about the same image.
    """

    pixels: Tensor
    questions: Tensor
    question_mask: Tensor
    answers: Tensor
    answer_mask: Tensor
    owners: Tensor
    weights: Tensor
    image_ids: Tensor

    def to(self, device: torch.device | str) -> "VqaBatch":
        """The batch on a device (asynchronously from pinned memory)."""
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}
        return replace(self, **moved)


class VqaObjective(Objective):
    """Every answer that annotators gave is learned, weighted by how many of them gave it.

    Args:
        model: the network.
    """

    def __init__(self, model: BlipVqa) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: VqaBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """`loss` (= `loss_vqa`: weighted sums over answers' tokens, by question), `nll_vqa` (the same unsmoothed)."""
        tokens = self.see(self.model.vision_model, batch.pixels, batch.image_ids)
        image_kv = self.model.text_encoder.project_images(tokens)
        question_kv = self.model.read_questions(image_kv, batch.questions, batch.question_mask)
        found = answer_losses(self.model, batch.answers, batch.answer_mask, question_kv.select(batch.owners))
        questions = batch.questions.shape[0]
        loss = (batch.weights * found.loss).sum() / questions
        nll = (batch.weights * found.nll.detach()).sum() / questions
        return {"loss": loss, "loss_vqa": loss.detach().clone(), "nll_vqa": nll}


class AnswerLosses(NamedTuple):
    """Of each answer the sum over its tokens `[R]`: with smoothed labels, and plain (minus the log-likelihood)."""

    loss: Tensor
    nll: Tensor


def answer_losses(
    model: BlipVqa, ids: Tensor, mask: Tensor, question_kv: ImageKV, smoothing: float | None = None
) -> AnswerLosses:
    """How unlikely answers are after their questions.

    Args:
        model: the network.
        ids: answers `[R, A]`, whose first token is replaced by [DEC]; padding on the right.
        mask: `[R, A]`, 0 on padding.
        question_kv: keys and values of questions, by which the answers lie, equally many each.
        smoothing: share of each target spread over the vocabulary; the model's own (BLIP: 0.1) by default.
    """
    smoothing = model.config.label_smoothing if smoothing is None else smoothing
    targets = lm_targets(ids, mask)[:, 1:]
    hidden = model.text.decode(with_first(ids[:, :-1], model.config.text.dec_id), question_kv, mask=mask[:, :-1])
    counted = _counted(targets)
    states, wanted = hidden.flatten(0, 1), targets.reshape(-1)
    if counted is not None:
        states, wanted = states[counted], wanted[counted]
    logits = model.text.token_logits(states)
    found = (_by_row(one, counted, targets.shape) for one in _token_losses(logits, wanted, smoothing))
    return AnswerLosses(*found)


def _counted(targets: Tensor) -> Tensor | None:
    """Places of the tokens that count, where finding them costs nothing: on the CPU; None elsewhere."""
    if targets.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    return (targets.reshape(-1) != IGNORED).nonzero()[:, 0]


def _token_losses(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Smoothed and plain loss of each token: logits `[n, V]`, targets `[n]`, -100 where none counts."""
    with torch.autocast(logits.device.type, enabled=False):
        log_probs = logits.log_softmax(dim=-1, dtype=_wide(logits))
        none = targets == IGNORED
        nll = -log_probs.gather(1, targets.masked_fill(none, 0)[:, None])[:, 0].masked_fill(none, 0.0)
        spread = -log_probs.mean(dim=-1).masked_fill(none, 0.0)
        return (1 - smoothing) * nll + smoothing * spread, nll


def _by_row(losses: Tensor, counted: Tensor | None, shape: torch.Size) -> Tensor:
    """Sums over the tokens of each answer."""
    if counted is None:
        return losses.view(shape).sum(dim=1)
    room = losses.new_zeros(shape.numel()).index_copy(0, counted, losses)
    return room.view(shape).sum(dim=1)


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


class Ranked(NamedTuple):
    """The best answer of each question: its place in the list `[B]`, and minus its loss `[B]`."""

    answers: Tensor
    scores: Tensor


@torch.inference_mode()
def rank_answers(
    model: BlipVqa,
    question_kv: ImageKV,
    ids: Tensor,
    mask: Tensor,
    *,
    top_k: int = 128,
    smoothing: float = 0.0,
) -> Ranked:
    """Which of a list of answers is likeliest: the k likeliest by their first token, then by all their tokens.

    A list of at most k is compared whole. Where first tokens are equally likely, what stands first in the list goes
    first.

    Args:
        model: in eval mode.
        question_kv: keys and values of B questions (`BlipVqa.read_questions`).
        ids: the list, token ids `[R, A]`, `[CLS] … [SEP]` and padding.
        mask: `[R, A]`, 0 on padding.
        top_k: answers compared in full.
        smoothing: 0 compares likelihoods. BLIP's own code compares its loss of training, smoothed by 0.1, which costs
            every token more, and so favours short answers.

    Raises:
        ConfigError: the list is empty.
        ModelError: the model is in training mode.
    """
    if model.training:
        raise ModelError("the model is in training mode: call model.eval() before answering with it")
    if ids.shape[0] == 0:
        raise ConfigError("there is no answer to choose from: give a list of answers, or let the model write one")
    chosen = _likeliest(_first_tokens(model, question_kv), ids[:, 1], min(top_k, ids.shape[0]))
    longest = int(mask.sum(dim=1).max())
    ids, mask = ids[:, :longest], mask[:, :longest]
    at_once = max(1, LOGITS_AT_ONCE // (chosen.shape[1] * longest * model.config.text.vocab_size))
    scores = torch.cat(
        [
            _scores(model, ids, mask, question_kv.select(part), chosen[part], smoothing)
            for part in torch.split(torch.arange(question_kv.images, device=ids.device), at_once)
        ]
    )
    best = scores.max(dim=1)
    return Ranked(chosen.gather(1, best.indices[:, None])[:, 0], best.values)


def _scores(
    model: BlipVqa, ids: Tensor, mask: Tensor, question_kv: ImageKV, chosen: Tensor, smoothing: float
) -> Tensor:
    """Minus the losses `[B, k]` of the answers chosen for each question, by their places `[B, k]` in the list."""
    rows = chosen.flatten()
    return -answer_losses(model, ids[rows], mask[rows], question_kv, smoothing).loss.view(chosen.shape)


def _first_tokens(model: BlipVqa, question_kv: ImageKV) -> Tensor:
    """Log-probabilities `[B, V]` of the token an answer begins with."""
    device = question_kv.layers[0].device
    start = torch.full((question_kv.images, 1), model.config.text.dec_id, dtype=torch.int64, device=device)
    logits = model.text.token_logits(model.text.decode(start, question_kv))[:, 0]
    return functional.log_softmax(logits, dim=-1, dtype=_wide(logits))


def _likeliest(first: Tensor, begins: Tensor, count: int) -> Tensor:
    """Places `[B, k]` in the list of the answers whose first token is likeliest, by `first` `[B, V]`.

    `begins` are the first tokens `[R]` of the list. The sort is stable: equals keep their order, whatever the batch.
    """
    return first.index_select(1, begins).argsort(dim=1, descending=True, stable=True)[:, :count]
