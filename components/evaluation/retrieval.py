"""Image-text retrieval as BLIP measures it: ITC ranks all pairs, ITM re-ranks the best (paper, section 5.1).

The score of a re-ranked pair is its raw ITM match logit plus its cosine. It is the same in both directions, so each
pair is scored once. Text recall looks for any caption of an image, image recall for the image of a caption. Candidates
with the very score of the right answer count half each: twins neither help nor hurt, a constant model is at chance.
So that twins do have the very score, equal texts are one text to the model, however they would fall into batches.

Shapes: N images, T texts (T >= N), U different texts, L tokens, d embedding width, K candidates per query, P pairs.
Memory: features, candidates and scores in files where they are large (`nearest.room`); similarities by tile; pairs of a
few images at a time; keys and values of `resident_images` at most. Where it runs out, nothing stays resident any more,
and the batch halves. What a text is, its tokens and its image, is held for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from components.common.errors import DataError, ModelError
from components.evaluation.candidates import ROWS, Candidates, Wanted
from components.evaluation.config import RetrievalConfig
from components.evaluation.nearest import Rows, cosine_ranks, nearest, room
from components.inference.memory import batches, with_halving

RECALL_AT = (1, 5, 10)
_AT_ONCE = 1 << 15  # pairs whose cosine is taken at a time


class MatchingModel(Protocol):
    """What retrieval needs of a filter; `components.inference.filter.Filter` has it."""

    def image_features(self, squares: Any, /) -> tuple[Any, Tensor]:
        """Keys and values of B images for ITM, and unit embeddings [B,d] for ITC."""

    def text_features(self, ids: Tensor, mask: Tensor, /) -> Tensor:
        """Unit embeddings [B,d] of texts [B,L]."""

    def match_logits(self, ids: Tensor, mask: Tensor, kv: Any, /) -> Tensor:
        """ITM logits [P,2] of texts [P,L] with the one image of `kv`; class 1 is a match."""


@dataclass(frozen=True)
class RetrievalTask:
    """Images and texts to match; `squares(start, stop)` gives images as the model's `image_features` takes them."""

    images: int
    squares: Callable[[int, int], Any]
    ids: Tensor  # int64 [T,L] on the model's device, padded at the end
    mask: Tensor  # [T,L], 1 where there is a token
    owners: Tensor  # int64 [T]: the image each text belongs to

    def check(self) -> None:
        """Refuse a task without answers."""
        if self.images == 0 or len(self.ids) == 0:
            raise DataError("nothing to retrieve: the test split has no images or no captions")
        if len(torch.unique(self.owners)) != self.images:
            raise DataError("every test image needs at least one caption; import the split again with its captions")


@dataclass(frozen=True)
class RetrievalResult:
    """Recalls by name, and for each query the rank of its right answer (0 = first; `nan` = beyond the candidates)."""

    metrics: dict[str, float]
    text_ranks: list[float]  # [N]
    image_ranks: list[float]  # [T]


@torch.inference_mode()
def retrieval_metrics(
    model: MatchingModel, task: RetrievalTask, config: RetrievalConfig, advance: Callable[[int], None] | None = None
) -> RetrievalResult:
    """Recall at 1, 5 and 10 both ways, `mean_recall` over the six, and `itc_mean_recall` before re-ranking.

    Args:
        advance: called with the number of images done, for progress.

    Raises:
        DataError: if there is no image, or one without a caption.
    """
    task.check()
    first, twin = _distinct(task)
    known = replace(task, ids=task.ids[first], mask=task.mask[first])
    kept = _Resident(config.resident_images)
    device = task.ids.device
    features = _image_features(model, task, config, kept)
    embedded = _text_features(model, known, config)
    images, texts = Rows(features, device), Rows(embedded, device, twin.to(embedded.device))
    candidates = Candidates(
        nearest(images, texts, min(config.top_k, len(texts))), nearest(texts, images, min(config.top_k, len(images)))
    )
    for group in candidates.groups(batches(task.images, config.image_batch)):
        wanted = Wanted.of(candidates, range(group[0].start, group[-1].stop), twin.cpu(), len(embedded))
        scores = _pair_scores(model, known, config, group, wanted, kept, advance or _nobody)
        scores = _finite(scores + _cosines(images, Rows(embedded, device), wanted), "match scores")
        wanted.hand_over(scores, candidates)
    owners, index = task.owners.cpu(), torch.arange(task.images)
    text_ranks = _ranks_of(candidates.texts, candidates.text_scores, owners, index)
    image_ranks = _ranks_of(candidates.images, candidates.image_scores, index, owners)
    metrics = _recalls("text", text_ranks) | _recalls("image", image_ranks)
    metrics["mean_recall"] = sum(metrics.values()) / len(metrics)
    metrics["itc_mean_recall"] = _itc_recall(images, texts, task.owners.to(device))
    return RetrievalResult(metrics, text_ranks.tolist(), image_ranks.tolist())


def _cosines(images: Rows, texts: Rows, wanted: Wanted) -> Tensor:
    """Cosines [P] of the pairs, on the CPU."""
    parts = zip(torch.split(wanted.rows, _AT_ONCE), torch.split(wanted.columns, _AT_ONCE), strict=True)
    return torch.cat([(images.take(rows) * texts.take(columns)).sum(-1).cpu() for rows, columns in parts])


def _ranks_of(candidates: Tensor, scores: Tensor, key_ids: Tensor, query_ids: Tensor) -> Tensor:
    """Rank [Q] of the best candidate [Q,K] of the query's id."""
    return torch.cat(
        [
            _ranks(scores[span], key_ids[candidates[span]] == query_ids[span, None])
            for span in (slice(part.start, part.stop) for part in batches(len(candidates), ROWS))
        ]
    )


def _nobody(images: int) -> None:
    """Whom progress is told where nobody asks."""


def _distinct(task: RetrievalTask) -> tuple[Tensor, Tensor]:
    """Where each different text comes first, in that order [U], and per text [T] its number among them."""
    texts = len(task.ids)
    group = torch.unique(torch.cat([task.ids, task.mask.long()], 1), dim=0, return_inverse=True)[1]
    first = group.new_full((int(group.max()) + 1,), texts)
    first.scatter_reduce_(0, group, torch.arange(texts, device=group.device), "amin")
    order = first.argsort()
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device)
    return first[order], number[group]


def _text_features(model: MatchingModel, task: RetrievalTask, config: RetrievalConfig) -> Tensor:
    """Embeddings [U,d] in float32. Texts go by length, so that short ones are not padded to the longest."""

    def embed(rows: Sequence[int]) -> list[Tensor]:
        return [model.text_features(*_trimmed(task, rows)).float()]

    order = task.mask.sum(1).argsort(stable=True).tolist()
    features = _Features(len(order), "text embeddings")
    for batch in batches(len(order), config.text_batch):
        numbers = order[batch.start : batch.stop]
        features.put(numbers, torch.cat(with_halving(embed, numbers)))
    return features.rows


def _finite(values: Tensor, what: str) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ModelError(f"the filter's {what} are not finite: its weights are damaged, or its training diverged")
    return values


def _trimmed(task: RetrievalTask, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    mask = task.mask[rows]
    longest = int(mask.sum(1).max())
    return task.ids[rows, :longest], mask[:, :longest]


class _Resident:
    """Keys and values of the first image batches, kept from the first pass for the second while memory lasts."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._kept: dict[tuple[int, int], Any] = {}

    def put(self, numbers: Sequence[int], kv: Any) -> None:
        """Keep those of a batch, if it is one of the first."""
        if numbers[-1] < self._images:
            self._kept[numbers[0], len(numbers)] = kv

    def take(self, numbers: Sequence[int]) -> Any | None:
        """Hand those of a batch over, if they are here."""
        return self._kept.pop((numbers[0], len(numbers)), None)

    def let_go(self) -> None:
        """Keep nothing, from now on."""
        self._kept.clear()
        self._images = 0


def _image_features(model: MatchingModel, task: RetrievalTask, config: RetrievalConfig, kept: _Resident) -> Tensor:
    """Embeddings [N,d] in float32."""

    def embed(numbers: Sequence[int]) -> list[Tensor]:
        kv, embedding = model.image_features(task.squares(numbers[0], numbers[-1] + 1))
        kept.put(numbers, kv)
        return [embedding.float()]

    features = _Features(task.images, "image embeddings")
    for batch in batches(task.images, config.image_batch):
        features.put(batch, torch.cat(with_halving(embed, batch, release=kept.let_go)))
    return features.rows


class _Features:
    """Embeddings as they come, by number, in a room made for all when the first show how wide they are."""

    def __init__(self, count: int, what: str) -> None:
        self.rows = torch.empty(0)
        self._count, self._what = count, what

    def put(self, numbers: Sequence[int], features: Tensor) -> None:
        """Those of some numbers."""
        if not self.rows.numel():
            self.rows = room((self._count, features.shape[1]), features.dtype, features.device)
        self.rows[torch.as_tensor(numbers)] = _finite(features, self._what).to(self.rows.device)


def _pair_scores(
    model: MatchingModel,
    task: RetrievalTask,
    config: RetrievalConfig,
    group: Sequence[range],
    wanted: Wanted,
    kept: _Resident,
    advance: Callable[[int], None],
) -> Tensor:
    """ITM match logits [P] of a group's pairs, on the CPU, with one batch of images in memory at a time."""
    first, device = wanted.images.start, task.ids.device
    ends = torch.searchsorted(wanted.rows, torch.arange(first, wanted.images.stop + 1)).tolist()

    def score(numbers: Sequence[int]) -> list[Tensor]:
        kv = kept.take(numbers)
        if kv is None:
            kv = model.image_features(task.squares(numbers[0], numbers[-1] + 1))[0]
        # One image's texts at a time: its keys and values are read in place instead of being copied per text.
        return [
            _image_scores(
                model,
                task,
                config,
                kv.select(torch.tensor([place], device=device)),
                wanted.columns[ends[image - first] : ends[image - first + 1]].to(device),
            ).cpu()
            for place, image in enumerate(numbers)
        ]

    scores: list[Tensor] = []
    for batch in group:
        scores += with_halving(score, batch, release=kept.let_go)
        advance(len(batch))
    return torch.cat(scores)


def _image_scores(model: MatchingModel, task: RetrievalTask, config: RetrievalConfig, kv: Any, texts: Tensor) -> Tensor:
    """Match logits of one image's texts, numbers int64 `[p]`, by length."""

    def match(part: Sequence[int]) -> list[Tensor]:
        ids, mask = _trimmed(task, texts[part])
        return [model.match_logits(ids, mask, kv)[:, 1].float()]

    order = task.mask[texts].sum(1).argsort(stable=True)
    scores: list[Tensor] = []
    for batch in batches(len(order), config.pair_batch):
        scores += with_halving(match, order[batch.start : batch.stop].tolist())
    joined = torch.cat(scores)
    return torch.empty_like(joined).index_copy_(0, order, joined)


def _ranks(scores: Tensor, right: Tensor) -> Tensor:
    """Rank [Q] of the best right answer among the candidates [Q,K]; ties count half, nan where there is none."""
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    better = (scores > best).sum(1)
    ties = ((scores == best) & ~right).sum(1)
    ranks = better + ties / 2
    return ranks.masked_fill(~right.any(1), float("nan"))


def _recalls(direction: str, ranks: Tensor) -> dict[str, float]:
    """Share of queries whose answer is among the first k; nan (not found) is not."""
    return {f"{direction}_recall_at_{k}": float((ranks < k).double().mean()) for k in RECALL_AT}


def _itc_recall(images: Rows, texts: Rows, owners: Tensor) -> float:
    """Mean of the six recalls by cosine alone."""
    index = torch.arange(len(images), device=owners.device)
    recalls: list[float] = []
    for queries, keys, query_ids, key_ids in ((images, texts, index, owners), (texts, images, owners, index)):
        recalls += _recalls("", cosine_ranks(queries, keys, query_ids, key_ids)).values()
    return sum(recalls) / len(recalls)


def owners_of(captions_per_image: Sequence[int]) -> Tensor:
    """Image index [T] of each text, for texts listed image by image."""
    return torch.repeat_interleave(torch.arange(len(captions_per_image)), torch.tensor(captions_per_image))
