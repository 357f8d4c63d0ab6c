"""Image-text retrieval as BLIP measures it: ITC ranks all pairs, ITM re-ranks the best (reference/blip.md section 6).

The score of a re-ranked pair is its raw ITM match logit plus its cosine. It is the same in both directions, so each
pair is scored once. Text recall looks for any caption of an image, image recall for the image of a caption. Candidates
with the very score of the right answer count half each: twins neither help nor hurt, a constant model is at chance.

Shapes: N images, T texts (T >= N), L tokens, S pixels, d embedding width, K candidates per query, P pairs.
Memory: image keys and values for `resident_images` at most, similarities `[rows, T]` by chunk; ITM pairs by batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from components.common.errors import DataError, ModelError
from components.evaluation.config import RetrievalConfig

RECALL_AT = (1, 5, 10)
_ROWS = 1024  # rows of a similarity matrix looked at together


class MatchingModel(Protocol):
    """What retrieval needs of a filter: BlipFilter has it."""

    def image_features(self, pixels: Tensor, /) -> tuple[Any, Tensor]:
        """Keys and values of images [B,3,S,S] for ITM, and unit embeddings [B,d] for ITC."""

    def text_features(self, ids: Tensor, mask: Tensor, /) -> Tensor:
        """Unit embeddings [B,d] of texts [B,L]."""

    def match_logits(self, ids: Tensor, mask: Tensor, kv: Any, /) -> Tensor:
        """ITM logits [P,2] of texts [P,L] with the one image of `kv`; class 1 is a match."""


@dataclass(frozen=True)
class RetrievalTask:
    """Images and texts to match; `pixels(start, stop)` gives normalised images [B,3,S,S] on the model's device."""

    images: int
    pixels: Callable[[int, int], Tensor]
    ids: Tensor  # int64 [T,L], padded at the end
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
    texts = _text_features(model, task, config)
    images, kept = _image_features(model, task, config)
    text_candidates = _nearest(images, texts, min(config.top_k, len(texts)))
    image_candidates = _nearest(texts, images, min(config.top_k, len(images)))
    rows, columns = _pairs(text_candidates, image_candidates, len(texts))
    scores = _pair_scores(model, task, config, rows, columns, kept, advance)
    scores = _finite(scores + (images[rows] * texts[columns]).sum(-1), "match scores")
    lookup = _Lookup(rows * len(texts) + columns, scores)
    text_grid = lookup(torch.arange(len(images), device=device)[:, None] * len(texts) + text_candidates)
    image_grid = lookup(image_candidates * len(texts) + torch.arange(len(texts), device=device)[:, None])
    owners = task.owners.to(device)
    text_ranks = _ranks(text_grid, owners[text_candidates] == torch.arange(len(images), device=device)[:, None])
    image_ranks = _ranks(image_grid, image_candidates == owners[:, None])
    metrics = _recalls("text", text_ranks) | _recalls("image", image_ranks)
    metrics["mean_recall"] = sum(metrics.values()) / len(metrics)
    metrics["itc_mean_recall"] = _itc_recall(images, texts, owners)
    return RetrievalResult(metrics, text_ranks.tolist(), image_ranks.tolist())


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, total)) for start in range(0, total, size))


def _text_features(model: MatchingModel, task: RetrievalTask, config: RetrievalConfig) -> Tensor:
    """Embeddings [T,d] in float32. Texts go by length, so that short ones are not padded to the longest."""
    order = task.mask.sum(1).argsort(stable=True)
    features = []
    for start, stop in _chunks(len(order), config.text_batch):
        ids, mask = _trimmed(task, order[start:stop])
        features.append(model.text_features(ids, mask).float())
    joined = torch.cat(features)
    return _finite(torch.empty_like(joined).index_copy_(0, order, joined), "text embeddings")


def _finite(values: Tensor, what: str) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ModelError(f"the filter's {what} are not finite: its weights are damaged, or its training diverged")
    return values


def _trimmed(task: RetrievalTask, rows: Tensor) -> tuple[Tensor, Tensor]:
    mask = task.mask[rows]
    longest = int(mask.sum(1).max())
    return task.ids[rows, :longest], mask[:, :longest]


def _image_features(
    model: MatchingModel, task: RetrievalTask, config: RetrievalConfig
) -> tuple[Tensor, dict[int, Any]]:
    """Embeddings [N,d], and the keys and values of the first chunks, as many as may stay."""
    features, kept = [], {}
    for start, stop in _chunks(task.images, config.image_batch):
        kv, embedding = model.image_features(task.pixels(start, stop))
        features.append(embedding.float())
        if stop <= config.resident_images:
            kept[start] = kv
    return _finite(torch.cat(features), "image embeddings"), kept


def _nearest(queries: Tensor, keys: Tensor, count: int) -> Tensor:
    """Indices [Q,K] of the keys with the highest cosine to each query."""
    return torch.cat([(part @ keys.T).topk(count).indices for part in torch.split(queries, _ROWS)])


def _pairs(text_candidates: Tensor, image_candidates: Tensor, texts: int) -> tuple[Tensor, Tensor]:
    """All pairs that either direction needs, once each, by image: image indices [P] and text indices [P]."""
    image_rows = torch.arange(len(text_candidates), device=text_candidates.device)[:, None]
    text_rows = torch.arange(len(image_candidates), device=image_candidates.device)[:, None]
    codes = torch.cat(
        [(image_rows * texts + text_candidates).flatten(), (image_candidates * texts + text_rows).flatten()]
    )
    codes = torch.unique(codes, sorted=True)
    return codes // texts, codes % texts


def _pair_scores(
    model: MatchingModel,
    task: RetrievalTask,
    config: RetrievalConfig,
    rows: Tensor,
    columns: Tensor,
    kept: dict[int, Any],
    advance: Callable[[int], None] | None,
) -> Tensor:
    """ITM match logits [P] of pairs sorted by image, one chunk of images in memory at a time."""
    scores = torch.empty(len(rows), device=task.ids.device)
    lengths = task.mask.sum(1)
    ends = torch.searchsorted(rows, torch.arange(task.images + 1, device=rows.device)).tolist()
    for start, stop in _chunks(task.images, config.image_batch):
        kv = kept.pop(start) if start in kept else model.image_features(task.pixels(start, stop))[0]
        for image in range(start, stop):
            # One image's texts at a time: its keys and values are read in place instead of being copied per text.
            own = kv.select(torch.tensor([image - start], device=rows.device))
            chosen = ends[image] + lengths[columns[ends[image] : ends[image + 1]]].argsort(stable=True)
            for batch in torch.split(chosen, config.pair_batch):
                ids, mask = _trimmed(task, columns[batch])
                scores[batch] = model.match_logits(ids, mask, own)[:, 1].float()
        if advance is not None:
            advance(stop - start)
    return scores


class _Lookup:
    """Scores by pair code (image x T + text); codes are sorted, and every code asked for is there."""

    def __init__(self, codes: Tensor, scores: Tensor) -> None:
        self.codes, self.scores = codes, scores

    def __call__(self, codes: Tensor) -> Tensor:
        return self.scores[torch.searchsorted(self.codes, codes.contiguous())]


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
