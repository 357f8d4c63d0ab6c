"""What a training step computes: one callable per stage, from a batch to losses.

Pre-training learns ITC + ITM + LM with equal weights (paper 3.2), the filter ITC + ITM, the captioner LM (paper 3.3).

Shapes: B pairs of this process, W processes, S image side, T tokens, N patches, d shared embedding width.

One pass of the vision transformer serves every loss, and its cross-attention keys and values are projected once: ITM
positives, ITM negatives (by index) and the decoder read the same ones, since their weights are tied (docs/facts.md
4). Nothing reads a value back from the device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from components.common.distributed import all_gather, rank, world_size
from components.model import objectives
from components.model.blip import BlipCaptioner, BlipFilter, BlipPretrain
from components.model.momentum import Teacher
from components.model.remembered import RememberedTokens
from components.model.text import ImageKV, with_first
from components.model.token_loss import projected_token_loss
from components.model.vision import VisionTransformer


@dataclass(frozen=True)
class ModelBatch:
    """One micro-batch on the model's device.

    Attributes:
        pixels: normalised images, float `[B, 3, S, S]`.
        ids: token ids `[B, T]`, `[CLS] … [SEP]` and padding; for the captioner with the prompt in front of the text.
        mask: `[B, T]`, 1 on tokens, 0 on padding.
        image_ids: int64 `[B]`, equal for captions of the same image.
        progress: epochs done so far, a fraction; the teacher's weight ramps with it.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    image_ids: Tensor
    progress: float = 0.0

    def to(self, device: torch.device | str) -> "ModelBatch":
        """The batch on a device (asynchronously from pinned memory)."""
        names = ("pixels", "ids", "mask", "image_ids")
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, **moved)


class Bound(NamedTuple):
    """The range a parameter is kept in."""

    parameter: nn.Parameter
    low: float
    high: float


class Objective(nn.Module):
    """What the training loop needs to know of a stage.

    `forward` returns scalars by name: `loss` to learn from, the rest detached, to look at. The loop calls `after_step`
    once per optimizer step, and keeps `teacher_state` in its checkpoints beside the model's parameters.

    Attributes:
        remembered: tokens of images that never look different to a vision transformer that does not learn; None: every
            image is looked at anew.
    """

    remembered: RememberedTokens | None = None

    def forward(self, batch: ModelBatch) -> dict[str, Tensor]:
        """Losses of one micro-batch."""
        raise NotImplementedError

    def see(self, vision: VisionTransformer, pixels: Tensor, image_ids: Tensor) -> Tensor:
        """Image tokens `[B, 1+N, D]` of images `[B, 3, S, S]` with ids `[B]`."""
        if self.remembered is not None:
            return self.remembered(pixels, image_ids)
        return vision(pixels)  # type: ignore[no-any-return]

    def bounds(self) -> list[Bound]:
        """Parameters that every optimizer step must leave within a range; none by default."""
        return []

    def after_step(self) -> None:
        """Advance what moves once per optimizer step; nothing does by default."""

    def teacher_state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint holds besides the model's parameters; none by default."""
        return {}

    def load_teacher_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `teacher_state` gave."""


class CaptionObjective(Objective):
    """LM alone, the prompt's tokens not counted (docs/facts.md 7).

    Args:
        model: the captioner.
        prompt_length: tokens of the prompt with [DEC], which every text of a batch starts with: 4 for "a picture of ".
    """

    def __init__(self, model: BlipCaptioner, prompt_length: int) -> None:
        super().__init__()
        self.model = model
        self.prompt_length = prompt_length

    def forward(self, batch: ModelBatch) -> dict[str, Tensor]:
        """`loss`, `loss_lm`, `nll_lm`."""
        image_kv = self.model.project_images(self.see(self.model.vision_model, batch.pixels, batch.image_ids))
        language = language_loss(self.model, batch.ids, batch.mask, image_kv, prompt_length=self.prompt_length)
        return _report({"loss_lm": language.loss}, {"nll_lm": language.nll})


class ContrastiveObjective(Objective):
    """ITC and ITM, for pre-training and the filter. The teacher stays outside the module tree on purpose.

    Args:
        model: what learns.
        teacher: its momentum encoders and queue; made from the model if not given.
        ramp_epochs: epochs over which the teacher's weight grows from 0 to `config.alpha`; None: as BLIP has it.
        joint_positives: whether captions of the same image, in batch and queue, are all positives (else only the own).
        all_rank_negatives: draw hard negatives from the batches of all processes (`negative_all_rank` of BLIP's COCO
            retrieval), by the student's features. Waits for the devices once, to agree on a text length.
        negative_temperature: lowest temperature that hard negatives are drawn at; None: the learned one (the paper).
            Where captions fit many images, the hardest negatives of a low temperature are often none at all.
        same_image_negatives: forbid a pair's own partner alone as its negative, not all of the same image (BLIP's
            pre-training, which so calls right captions wrong: docs/facts.md 13).
    """

    student_negatives: ClassVar[bool]
    """Draw hard negatives by the student's features (retrieval finetuning), not by the ITC logits against the
    teacher's (pre-training)."""

    usual_ramp_epochs: ClassVar[float]

    def __init__(
        self,
        model: BlipPretrain | BlipFilter,
        teacher: Teacher | None = None,
        *,
        ramp_epochs: float | None = None,
        joint_positives: bool = True,
        all_rank_negatives: bool = False,
        negative_temperature: float | None = None,
        same_image_negatives: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.ramp_epochs = self.usual_ramp_epochs if ramp_epochs is None else ramp_epochs
        self.joint_positives = joint_positives
        self.all_rank_negatives = all_rank_negatives
        self.negative_temperature = negative_temperature
        self.same_image_negatives = same_image_negatives
        # In a tuple, so that nothing takes it for a submodule: the engine must not cast or shard it.
        self._teacher = (teacher if teacher is not None else Teacher(model),)

    @property
    def teacher(self) -> Teacher:
        """Momentum encoders and queue."""
        return self._teacher[0]

    def forward(self, batch: ModelBatch) -> dict[str, Tensor]:
        """`loss`, `loss_itc`, `loss_itm`, `itm_accuracy`, `itm_negatives`, `temperature`."""
        losses, watched, _ = self._contrast_and_match(batch)
        return _report(losses, watched)

    def bounds(self) -> list[Bound]:
        """The temperature's range."""
        return [Bound(self.model.temperature, *objectives.TEMPERATURE_RANGE)]

    def after_step(self) -> None:
        """Move the momentum encoders, and enqueue the features of all micro-batches of all processes."""
        self.teacher.advance()

    def teacher_state(self) -> dict[str, Tensor]:
        """Momentum encoders and queue, by name."""
        return self.teacher.state_dict()

    def load_teacher_state(self, state: Mapping[str, Tensor]) -> None:
        """Take momentum encoders and queue from a checkpoint; ModelError if they do not fit."""
        self.teacher.load_state_dict(state)

    def _contrast_and_match(self, batch: ModelBatch) -> tuple[dict[str, Tensor], dict[str, Tensor], ImageKV]:
        """ITC and ITM of one vision pass; and the image keys and values, for whoever needs them next."""
        model = self.model
        with torch.no_grad():
            model.temperature.clamp_(*objectives.TEMPERATURE_RANGE)
        tokens = self.see(model.vision_model, batch.pixels, batch.image_ids)
        image_kv = model.project_images(tokens)
        image_embed, text_embed = model.image_embed(tokens), model.text_features(batch.ids, batch.mask)
        contrast = self._contrast(batch, tokens, image_embed, text_embed)
        if self.all_rank_negatives and world_size() > 1:
            logits, labels = self._match_across_ranks(batch, tokens, image_kv, image_embed, text_embed)
        else:
            logits, labels = self._match(batch, image_kv, self._similarities(contrast, image_embed, text_embed))
        losses = {"loss_itc": contrast.loss, "loss_itm": objectives.itm_loss(logits, labels)}
        watched = {
            "itm_accuracy": objectives.itm_accuracy(logits, labels),
            "itm_negatives": objectives.negatives_share(labels),
            "temperature": model.temperature[0],
        }
        return losses, watched, image_kv

    def _contrast(
        self, batch: ModelBatch, tokens: Tensor, image_embed: Tensor, text_embed: Tensor
    ) -> objectives.ItcOutput:
        """ITC of features `[B, d]` against the teacher's keys."""
        keys = self.teacher.keys(
            batch.pixels, batch.ids, batch.mask, batch.image_ids, remember=self.training, tokens=tokens
        )
        hard = objectives.itc_targets(batch.image_ids, keys.image_ids, joint_positives=self.joint_positives)
        alpha = objectives.alpha_at(batch.progress, self.model.config.alpha, self.ramp_epochs)
        return objectives.itc_loss(
            image_embed, text_embed, keys.images, keys.texts, hard, self.model.temperature, alpha
        )

    def _similarities(
        self, contrast: objectives.ItcOutput, image_embed: Tensor, text_embed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits `[B, B]` of images to texts and of texts to images, to draw negatives by."""
        if self.student_negatives:
            return _logits(image_embed, text_embed, self.model), _logits(text_embed, image_embed, self.model)
        batch = image_embed.shape[0]
        return contrast.image_to_text[:, :batch], contrast.text_to_image[:, :batch]

    def _forbidden(self, image_ids: Tensor, column_image_ids: Tensor, first: int = 0) -> Tensor:
        """Bool `[B, C]`: columns that are no negative of a row, whose own partner is column `first` + row."""
        if not self.same_image_negatives:
            return objectives.same_image(image_ids, column_image_ids)
        rows, columns = (torch.arange(len(ids), device=ids.device) for ids in (image_ids, column_image_ids))
        return objectives.same_image(rows + first, columns)

    def _negatives(self, similarity: Tensor, forbidden: Tensor) -> objectives.Negatives:
        """One hard negative per row of logits `[B, C]`, drawn at no lower temperature than `negative_temperature`."""
        if self.negative_temperature is not None:
            learned = self.model.temperature.detach()
            similarity = similarity * (learned / learned.clamp(min=self.negative_temperature))
        return objectives.hard_negative_indices(similarity, forbidden)

    def _match(
        self, batch: ModelBatch, image_kv: ImageKV, similarities: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """ITM logits `[3B, 2]` and labels `[3B]` with negatives of this process's batch."""
        forbidden = self._forbidden(batch.image_ids, batch.image_ids)
        texts = self._negatives(similarities[0], forbidden)
        images = self._negatives(similarities[1], forbidden)
        # Rows by image (own text, then hard text), then the own texts again with their hard images by index.
        ids = torch.cat([_pairwise(batch.ids, batch.ids[texts.chosen]), batch.ids])
        mask = torch.cat([_pairwise(batch.mask, batch.mask[texts.chosen]), batch.mask])
        logits = self.model.match_logits(ids, mask, image_kv, images.chosen)
        by_image = logits[: -batch.ids.shape[0]].view(-1, 2, 2)
        ordered = torch.cat([by_image[:, 0], logits[-batch.ids.shape[0] :], by_image[:, 1]])
        return ordered, objectives.itm_labels(images.valid, texts.valid)

    def _match_across_ranks(
        self, batch: ModelBatch, tokens: Tensor, image_kv: ImageKV, image_embed: Tensor, text_embed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """ITM logits `[3B, 2]` and labels `[3B]` with negatives of all processes (docs/facts.md 6)."""
        forbidden = self._forbidden(batch.image_ids, all_gather(batch.image_ids), rank() * batch.ids.shape[0])
        texts = self._negatives(_logits(image_embed, all_gather(text_embed), self.model), forbidden)
        images = self._negatives(_logits(text_embed, all_gather(image_embed), self.model), forbidden)
        own_ids, own_mask = _to_common_length(batch.ids, batch.mask, self.model.config.text.pad_id)
        hard_ids, hard_mask = all_gather(own_ids)[texts.chosen], all_gather(own_mask)[texts.chosen]
        by_image = self.model.match_logits(_pairwise(own_ids, hard_ids), _pairwise(own_mask, hard_mask), image_kv)
        hard_kv = self.model.project_images(gather_with_gradient(tokens).index_select(0, images.chosen))
        hard_image = self.model.match_logits(batch.ids, batch.mask, hard_kv)
        by_image = by_image.view(-1, 2, 2)
        ordered = torch.cat([by_image[:, 0], hard_image, by_image[:, 1]])
        return ordered, objectives.itm_labels(images.valid, texts.valid)


class FilterObjective(ContrastiveObjective):
    """ITC + ITM as in BLIP's retrieval finetuning: joint positives, the teacher's weight ramped over one epoch."""

    student_negatives = True
    usual_ramp_epochs = 1.0


class PretrainObjective(ContrastiveObjective):
    """ITC + ITM + LM with equal weights, the teacher's weight ramped over two epochs.

    BLIP pre-trains with `joint_positives=False` and `same_image_negatives=True`; the default here is the opposite,
    since web data and several captions per image put the same image into a batch again and again.
    """

    model: BlipPretrain
    student_negatives = False
    usual_ramp_epochs = 2.0

    def forward(self, batch: ModelBatch) -> dict[str, Tensor]:
        """`loss`, `loss_itc`, `loss_itm`, `loss_lm`, `nll_lm`, `itm_accuracy`, `itm_negatives`, `temperature`."""
        losses, watched, image_kv = self._contrast_and_match(batch)
        language = language_loss(self.model, batch.ids, batch.mask, image_kv)
        return _report(losses | {"loss_lm": language.loss}, watched | {"nll_lm": language.nll})


def language_loss(
    model: BlipPretrain | BlipCaptioner, ids: Tensor, mask: Tensor, image_kv: ImageKV, *, prompt_length: int = 0
) -> objectives.LmOutput:
    """LM loss of texts `[B, T]` with their images.

    The last position predicts nothing and is not computed. On the CPU the vocabulary projection is made for the
    tokens that count alone; on a device that would mean to wait for it.
    """
    targets = objectives.lm_targets(ids, mask, prompt_length)[:, 1:].reshape(-1)
    inputs = with_first(ids[:, :-1], model.config.text.dec_id)
    hidden = model.text.decode(inputs, image_kv, mask=mask[:, :-1]).flatten(0, 1)
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        counted = (targets != objectives.IGNORED).nonzero().squeeze(1)
        hidden, targets = hidden[counted], targets[counted]
    head, words = model.text.head, model.text.words.weight
    return projected_token_loss(head.transform(hidden), words, head.bias, targets, model.config.label_smoothing)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Rows `[B, …]` of every process in rank order, `[W * B, …]`; what others do with ours comes back as gradient."""
    gathered: Tensor = _Gather.apply(rows) if world_size() > 1 else rows  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """all-gather forward; backward sums the gradient over the processes and keeps this one's part."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return all_gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def _to_common_length(ids: Tensor, mask: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, T]` padded to the longest T of all processes."""
    longest = torch.tensor(ids.shape[1], device=ids.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    missing = int(longest) - ids.shape[1]
    return functional.pad(ids, (0, missing), value=pad_id), functional.pad(mask, (0, missing))


def _logits(rows: Tensor, columns: Tensor, model: BlipPretrain | BlipFilter) -> Tensor:
    """Similarities `[B, C]` of features, divided by the temperature, without gradient."""
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float().T / model.temperature.float()


def _pairwise(first: Tensor, second: Tensor) -> Tensor:
    """Rows of two `[B, T]` in turns: `[2B, T]`."""
    return torch.stack([first, second], dim=1).flatten(0, 1)


def _report(losses: dict[str, Tensor], watched: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sum of the losses to learn from, and everything detached to look at."""
    total = torch.stack(tuple(losses.values())).sum()
    return {"loss": total} | {name: value.detach().clone() for name, value in (losses | watched).items()}
