"""Image-text retrieval as BLIP measures it: ITC ranks all pairs, ITM re-ranks the best (paper, section 5.1).

The score of a re-ranked pair is its raw ITM match logit plus its cosine. It is the same in both directions, so each
pair is scored once. Text recall looks for any caption of an image, image recall for the image of a caption. Candidates
with the very score of the right answer count half each: twins neither help nor hurt, a constant model is at chance.
So that twins do have the very score, equal texts are one text to the model, however they would fall into batches.

Shapes: N images, T texts (T >= N), U different texts, L tokens, d embedding width, K candidates per query, P pairs.
Memory: image keys and values for `resident_images` at most, similarities `[rows, T]` by chunk; ITM pairs by batch.
Where it runs out, nothing stays resident any more, and the batch halves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from components.common.errors import DataError, ModelError
from components.evaluation.config import RetrievalConfig
from components.inference.memory import batches, with_halving

RECALL_AT = (1, 5, 10)
_ROWS = 1024  # rows of a similarity matrix looked at together


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
    device = task.ids.device
    first, twin = _distinct(task)
    known = replace(task, ids=task.ids[first], mask=task.mask[first])
    kept = _Resident(config.resident_images)
    images = _image_features(model, task, config, kept)
    embedded = _text_features(model, known, config)
    texts = embedded[twin]
    text_candidates = _nearest(images, texts, min(config.top_k, len(texts)))
    image_candidates = _nearest(texts, images, min(config.top_k, len(images)))
    own = torch.arange(len(images), device=device)[:, None]
    # A pair's code is image x U + text: what either direction needs is scored once.
    asked_texts = own * len(embedded) + twin[text_candidates]
    asked_images = image_candidates * len(embedded) + twin[:, None]
    codes = torch.cat([asked_texts.flatten(), asked_images.flatten()]).unique(sorted=True)  # type: ignore[no-untyped-call]
    rows, columns = codes // len(embedded), codes % len(embedded)
    scores = _pair_scores(model, known, config, rows, columns, kept, advance or _nobody)
    scores = _finite(scores + (images[rows] * embedded[columns]).sum(-1), "match scores")
    text_grid, image_grid = (scores[torch.searchsorted(codes, grid)] for grid in (asked_texts, asked_images))
    owners = task.owners.to(device)
    text_ranks = _ranks(text_grid, owners[text_candidates] == own)
    image_ranks = _ranks(image_grid, image_candidates == owners[:, None])
    metrics = _recalls("text", text_ranks) | _recalls("image", image_ranks)
    metrics["mean_recall"] = sum(metrics.values()) / len(metrics)
    metrics["itc_mean_recall"] = _itc_recall(images, texts, owners)
    return RetrievalResult(metrics, text_ranks.tolist(), image_ranks.tolist())


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

    order = task.mask.sum(1).argsort(stable=True)
    features: list[Tensor] = []
    for batch in batches(len(order), config.text_batch):
        features += with_halving(embed, order[batch.start : batch.stop].tolist())
    joined = torch.cat(features)
    return _finite(torch.empty_like(joined).index_copy_(0, order, joined), "text embeddings")


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

    features: list[Tensor] = []
    for batch in batches(task.images, config.image_batch):
        features += with_halving(embed, batch, release=kept.let_go)
    return _finite(torch.cat(features), "image embeddings")


def _nearest(queries: Tensor, keys: Tensor, count: int) -> Tensor:
    """Indices [Q,K] of the keys with the highest cosine to each query."""
    return torch.cat([(part @ keys.T).topk(count).indices for part in torch.split(queries, _ROWS)])


def _pair_scores(
    model: MatchingModel,
    task: RetrievalTask,
    config: RetrievalConfig,
    rows: Tensor,
    columns: Tensor,
    kept: _Resident,
    advance: Callable[[int], None],
) -> Tensor:
    """ITM match logits [P] of pairs sorted by image, one batch of images in memory at a time."""
    ends = torch.searchsorted(rows, torch.arange(task.images + 1, device=rows.device)).tolist()

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
                kv.select(torch.tensor([place], device=rows.device)),
                columns[ends[image] : ends[image + 1]],
            )
            for place, image in enumerate(numbers)
        ]

    scores: list[Tensor] = []
    for batch in batches(task.images, config.image_batch):
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


def _itc_recall(images: Tensor, texts: Tensor, owners: Tensor) -> float:
    """Mean of the six recalls by cosine alone."""
    index = torch.arange(len(images), device=owners.device)
    recalls: list[float] = []
    for queries, keys, query_ids, key_ids in ((images, texts, index, owners), (texts, images, owners, index)):
        ranks = [
            _ranks(part @ keys.T, ids[:, None] == key_ids[None])
            for part, ids in zip(torch.split(queries, _ROWS), torch.split(query_ids, _ROWS), strict=True)
        ]
        recalls += _recalls("", torch.cat(ranks)).values()
    return sum(recalls) / len(recalls)


def owners_of(captions_per_image: Sequence[int]) -> Tensor:
    """Image index [T] of each text, for texts listed image by image."""
    return torch.repeat_interleave(torch.arange(len(captions_per_image)), torch.tensor(captions_per_image))
