"""Writing texts: greedy search, beam search and nucleus sampling over the image-grounded decoder.

Shapes: B images, R rows being written (R/B per image, lying by image), t tokens so far, V vocabulary, K beams.

Greedy and beam search choose the same tokens as transformers' `generate` does. What nucleus sampling draws for a row
depends on that row's seed and the position alone: not on batch, order, or other rows. Keys and values of what is
written stay in a cache; finished images leave the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from components.common.errors import ConfigError, ModelError
from components.model.config import DecodingConfig
from components.model.text import ImageKV, TextTransformer

NEVER = -1.0e9
"""Added to the score of a beam that must not be chosen."""

SHRINK_AT = 0.75
"""Share of images still being written at which the others leave: leaving copies what stays, so it must pay."""

NUCLEUS_CANDIDATES = 256
"""Likeliest tokens looked at first; only rows whose nucleus is wider have all of their tokens sorted."""


class Writer(Protocol):
    """What `generate` needs of a model, a captioner or VQA: its writing text stack."""

    training: bool

    @property
    def text(self) -> TextTransformer:
        """The stack with the decoder role."""


@torch.inference_mode()
def generate(
    model: Writer,
    image_kv: ImageKV,
    prompt_ids: Sequence[int],
    config: DecodingConfig,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Write texts about B images.

    Args:
        model: a captioner (or VQA model) in eval mode.
        image_kv: keys and values of the images (`encode_images`), or of questions.
        prompt_ids: what every text starts with, [DEC] first (`BlipTokenizer.prompt_ids`); `config.prompt` is not read.
        config: how.
        seeds: one per row; nucleus sampling needs them. With n seeds per image, rows lie by image, n texts each.

    Returns:
        Per row the tokens after the prompt, without [SEP].

    Raises:
        ModelError: the model is in training mode, where dropout would disturb what it writes.
        ConfigError: prompt, lengths and number of seeds do not fit together.
    """
    _check(model, image_kv, prompt_ids, config, seeds)
    if image_kv.images == 0 or (seeds is not None and not seeds):
        return []
    if config.method == "beam":
        return _beam_search(model.text, image_kv, prompt_ids, config)
    return _write_rows(model.text, image_kv, prompt_ids, config, seeds)


def _check(
    model: Writer, image_kv: ImageKV, prompt: Sequence[int], config: DecodingConfig, seeds: Sequence[int] | None
) -> None:
    if model.training:
        raise ModelError("the model is in training mode: call model.eval() before writing with it")
    if not 1 <= len(prompt) < config.max_length:
        raise ConfigError(f"max_length {config.max_length} leaves no room after a prompt of {len(prompt)} tokens")
    if config.method == "nucleus" and seeds is None:
        raise ConfigError("nucleus sampling needs one seed per text")
    rows = image_kv.images if seeds is None else len(seeds)
    if rows % max(1, image_kv.images):
        raise ConfigError(f"{rows} seeds for {image_kv.images} images: give each image equally many")
    if config.method != "nucleus" and rows != image_kv.images:
        raise ConfigError(f"{config.method} search gives one text per image; for several per image use nucleus")


# ---------------------------------------------------------------------------------------------------------------------
# Greedy search and nucleus sampling: rows are independent of one another
# ---------------------------------------------------------------------------------------------------------------------


def _write_rows(
    text: TextTransformer, image_kv: ImageKV, prompt: Sequence[int], config: DecodingConfig, seeds: Sequence[int] | None
) -> list[list[int]]:
    """Write every row token by token, until all have ended."""
    device = image_kv.layers[0].device
    images = image_kv.images
    rows = images if seeds is None else len(seeds)
    choose = _greedy if config.method == "greedy" else nucleus(config, seeds or (), device)
    tokens = _prompted(rows, prompt, config.max_length, text.config.pad_id, device)
    live = torch.arange(rows, device=device)  # row numbers of those still in the batch
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    cache = text.new_cache(rows, config.max_length)
    hidden = text.decode(tokens[:, : len(prompt)], image_kv, cache)
    for length in range(len(prompt), config.max_length):
        logits = text.token_logits(hidden[:, -1:])[:, 0].float()
        scores = _adjusted(logits, tokens[live, :length], config, text.config.sep_id)
        chosen = choose(scores, live, length).masked_fill(ended, text.config.pad_id)
        tokens[live, length] = chosen
        ended = ended | (chosen == text.config.sep_id)
        if length + 1 == config.max_length:
            break
        open_images = (~ended).view(image_kv.images, -1).any(1).nonzero()[:, 0]
        if open_images.numel() == 0:
            break
        if open_images.numel() <= SHRINK_AT * image_kv.images:
            kept = _rows_of(open_images, live.numel() // image_kv.images)
            image_kv = image_kv.select(open_images)
            cache.select(kept)
            live, ended, chosen = live[kept], ended[kept], chosen[kept]
        hidden = text.decode(chosen[:, None], image_kv, cache)
    return _finished(tokens, len(prompt), length + 1, text.config.sep_id)


def _greedy(scores: Tensor, live: Tensor, length: int) -> Tensor:
    return scores.argmax(dim=-1)


def nucleus(
    config: DecodingConfig, seeds: Sequence[int], device: torch.device
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Draws from the likeliest tokens that together hold `top_p`, by each row's own numbers.

    Returns:
        What chooses tokens `[R]` for scores `[R, V]` of the rows `live` `[R]`, at this place of their texts.
    """
    uniforms = torch.from_numpy(_uniforms(seeds, config.max_length)).to(device)

    def choose(scores: Tensor, live: Tensor, length: int) -> Tensor:
        scores = scores / config.temperature
        if 0 < config.top_k < scores.shape[1]:
            least = scores.topk(config.top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        return sample_nucleus(scores.softmax(dim=-1), config.top_p, uniforms[live, length])

    return choose


def _uniforms(seeds: Sequence[int], length: int) -> np.ndarray:
    """Numbers in [0, 1), `[R, length]`: row r's depend on `seeds[r]` alone."""
    rows = [np.random.Generator(np.random.Philox(key=int(seed) % 2**64)).random(length) for seed in seeds]
    return np.stack(rows)


def sample_nucleus(probabilities: Tensor, top_p: float, uniforms: Tensor) -> Tensor:
    """Draw one token per row from the smallest set of likeliest tokens that holds `top_p` (arXiv 1904.09751).

    Tokens as likely as the least likely of the set belong to it too, and the draw walks the set in the order of token
    ids, so that no sorting order among equals can matter.

    Args:
        probabilities: `[R, V]`, rows sum to one.
        top_p: mass of the set, 0 to 1.
        uniforms: float64 `[R]` in [0, 1): where in the set's mass each row's draw falls.

    Returns:
        Token ids `[R]`.
    """
    if probabilities.shape[1] <= NUCLEUS_CANDIDATES:
        return _draw_of_all(probabilities, top_p, uniforms)
    values, ids = probabilities.topk(NUCLEUS_CANDIDATES, dim=-1)
    least = _least_likely(values, top_p)
    ids, order = ids.sort(dim=-1)
    chosen = ids.gather(1, _place(values.gather(1, order), least, uniforms))[:, 0]
    wide = (values[:, -1:] >= least).nonzero()[:, 0]  # the nucleus may go on beyond the candidates
    if wide.numel():
        chosen[wide] = _draw_of_all(probabilities[wide], top_p, uniforms[wide])
    return chosen


def _draw_of_all(probabilities: Tensor, top_p: float, uniforms: Tensor) -> Tensor:
    least = _least_likely(_falling(probabilities), top_p)
    return _place(probabilities, least, uniforms)[:, 0]


def _falling(values: Tensor) -> Tensor:
    """Rows sorted, greatest first. On the CPU by NumPy, which sorts values alone many times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)
    return values.sort(dim=-1, descending=True).values


def _least_likely(falling: Tensor, top_p: float) -> Tensor:
    """Probability of the nucleus's last token `[R, 1]`, from the likeliest probabilities in falling order."""
    mass = falling.double().cumsum(dim=-1)
    count = (mass < top_p).sum(dim=-1, keepdim=True)  # tokens before the one that reaches the mass
    return falling.gather(1, count.clamp(max=falling.shape[1] - 1))


def _place(values: Tensor, least: Tensor, uniforms: Tensor) -> Tensor:
    """Where in its row `[R, C]` each draw falls among the values from `least` up, `[R, 1]`."""
    mass = values.double().masked_fill(values < least, 0.0).cumsum(dim=-1)
    total = mass[:, -1:]
    target = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return (mass <= target).sum(dim=-1, keepdim=True)


# ---------------------------------------------------------------------------------------------------------------------
# Beam search
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Beams:
    """Hypotheses of the images still in the batch: K running and the K best that have ended."""

    images: Tensor  # [B] image numbers
    tokens: Tensor  # [B, K, max T]
    scores: Tensor  # [B, K] summed log-probabilities
    ended_tokens: Tensor  # [B, K, max T]
    ended_scores: Tensor  # [B, K], divided by the length penalty, best first
    ended: Tensor  # [B, K] whether the slot holds a hypothesis at all
    open: Tensor  # [B] whether a running one may still beat an ended one

    def select(self, index: Tensor) -> None:
        """Keep these images."""
        for name, value in vars(self).items():
            setattr(self, name, value.index_select(0, index))


def _beam_search(
    text: TextTransformer, image_kv: ImageKV, prompt: Sequence[int], config: DecodingConfig
) -> list[list[int]]:
    """Keep the K best continuations of each image until none of them can improve on the K best that ended."""
    device, images, beams = image_kv.layers[0].device, image_kv.images, config.beams
    state = _new_beams(images, prompt, config, text.config.pad_id, device)
    best = state.tokens[:, 0].clone()
    cache = text.new_cache(images, config.max_length)
    hidden = text.decode(state.tokens[:, 0, : len(prompt)], image_kv, cache)[:, -1:]
    hidden = hidden.repeat_interleave(beams, dim=0)
    cache.select(torch.arange(images, device=device).repeat_interleave(beams))
    for length in range(len(prompt), config.max_length):
        log_probs = text.token_logits(hidden)[:, 0].float().log_softmax(dim=-1)
        written = state.tokens[:, :, :length].flatten(0, 1)
        log_probs = _adjusted(log_probs, written, config, text.config.sep_id)
        parents = _advance(state, log_probs, length, len(prompt), config, text.config.sep_id)
        best[state.images] = state.ended_tokens[:, 0]
        if length + 1 == config.max_length:
            break
        kept = state.open.nonzero()[:, 0]
        if kept.numel() == 0:
            break
        if kept.numel() <= SHRINK_AT * image_kv.images:
            image_kv = image_kv.select(kept)
            parents = parents.index_select(0, kept)
            state.select(kept)
        cache.select(parents.flatten())
        hidden = text.decode(state.tokens[:, :, length].reshape(-1, 1), image_kv, cache)
    return _finished(best, len(prompt), config.max_length, text.config.sep_id)


def _new_beams(images: int, prompt: Sequence[int], config: DecodingConfig, pad_id: int, device: torch.device) -> _Beams:
    """All beams of an image start equal; the first alone counts, or they would stay equal."""
    beams = config.beams
    tokens = _prompted(images * beams, prompt, config.max_length, pad_id, device).view(images, beams, -1)
    scores = torch.full((images, beams), NEVER, device=device)
    scores[:, 0] = 0.0
    return _Beams(
        images=torch.arange(images, device=device),
        tokens=tokens,
        scores=scores,
        ended_tokens=tokens.clone(),
        ended_scores=torch.full((images, beams), NEVER, device=device),
        ended=torch.zeros(images, beams, dtype=torch.bool, device=device),
        open=torch.ones(images, dtype=torch.bool, device=device),
    )


def _advance(
    state: _Beams, log_probs: Tensor, length: int, prompt_length: int, config: DecodingConfig, sep_id: int
) -> Tensor:
    """One token more for every beam; returns which row of the cache each beam continues, `[B, K]`.

    Of 2K candidates per image at most K can end, so K remain to go on. A candidate that ends counts only if it is
    among the best K.
    """
    images, beams = state.scores.shape
    vocabulary = log_probs.shape[-1]
    totals = (log_probs.view(images, beams, vocabulary) + state.scores[:, :, None]).flatten(1)
    totals, index = totals.topk(2 * beams, dim=-1)
    parent, word = index // vocabulary, index % vocabulary
    candidates = _take(state.tokens, parent)
    candidates[:, :, length] = word
    ends = (word == sep_id) | (length + 1 >= config.max_length)
    _collect_ended(state, candidates, totals, ends, (length + 1 - prompt_length) ** config.length_penalty)
    totals, chosen = (totals + ends * NEVER).topk(beams, dim=-1)
    state.tokens, state.scores = _take(candidates, chosen), totals
    possible = state.scores[:, :1] / (length + 1 - prompt_length) ** config.length_penalty
    worst = torch.where(state.ended, state.ended_scores.amin(dim=1, keepdim=True), NEVER)
    state.open = state.open & (possible > worst).any(dim=1)
    return parent.gather(1, chosen) + beams * torch.arange(images, device=parent.device)[:, None]


def _collect_ended(state: _Beams, candidates: Tensor, totals: Tensor, ends: Tensor, divisor: float) -> None:
    """Merge candidates that end into the K best ended; images that are closed take none."""
    beams = state.scores.shape[1]
    counts = ends & (torch.arange(2 * beams, device=ends.device) < beams)
    scores = totals / divisor + ~state.open[:, None] * NEVER + ~counts * NEVER
    state.ended_scores, kept = torch.cat([state.ended_scores, scores], dim=1).topk(beams, dim=-1)
    state.ended_tokens = _take(torch.cat([state.ended_tokens, candidates], dim=1), kept)
    state.ended = torch.cat([state.ended, counts], dim=1).gather(1, kept)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """`[B, C, T]` at `[B, K]` of C: `[B, K, T]`."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


# ---------------------------------------------------------------------------------------------------------------------
# Shared by all
# ---------------------------------------------------------------------------------------------------------------------


def _adjusted(scores: Tensor, written: Tensor, config: DecodingConfig, sep_id: int) -> Tensor:
    """Scores `[R, V]` after repetition penalty (arXiv 1909.05858) on tokens `[R, t]`, and no end before its time."""
    if config.repetition_penalty != 1.0:
        penalty = config.repetition_penalty
        seen = scores.gather(1, written)
        scores = scores.scatter(1, written, torch.where(seen < 0, seen * penalty, seen / penalty))
    if written.shape[1] < config.min_length:
        scores = scores.clone()
        scores[:, sep_id] = -torch.inf
    return scores


def _prompted(rows: int, prompt: Sequence[int], length: int, pad_id: int, device: torch.device) -> Tensor:
    """`[rows, length]`: the prompt, then padding."""
    tokens = torch.full((rows, length), pad_id, dtype=torch.int64, device=device)
    tokens[:, : len(prompt)] = torch.tensor(list(prompt), dtype=torch.int64, device=device)
    return tokens


def _rows_of(images: Tensor, per_image: int) -> Tensor:
    """Row numbers of these images."""
    return (images[:, None] * per_image + torch.arange(per_image, device=images.device)).flatten()


def _finished(tokens: Tensor, start: int, end: int, sep_id: int) -> list[list[int]]:
    """Tokens from `start` up to [SEP] or `end`, per row."""
    rows: list[list[int]] = tokens[:, start:end].tolist()
    return [row[: row.index(sep_id)] if sep_id in row else row for row in rows]
