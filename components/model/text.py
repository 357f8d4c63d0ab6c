"""The text transformer in its three roles: text encoder, image-grounded encoder, image-grounded decoder.

The roles share everything but self-attention (paper section 3.2; docs/facts.md 4). Here they are one module, so
that the sharing needs no aliases: each layer has one self-attention per role, and one cross-attention and one
feed-forward block for all. Post-LN, as BERT.

Shapes: R text rows, T tokens of a row, n tokens of all rows, D width, H heads, K head width, V vocabulary, B images,
N image tokens, M images' (or questions') width, L layers.

Between attentions the tokens of all rows are one list `[n, D]`, on the CPU without padding (`Tokens`).

Rows lie *by image*: rows 0 … R/B-1 belong to image 0, and so on. Then the rows of an image are folded into the length
of the query, and its keys and values are read where they lie, however many rows share them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.common.errors import ModelError
from components.model.config import TextConfig
from components.model.tokens import Tokens
from components.model.vision import init_weights

Role = Literal["encoder", "decoder"]
ROLES: tuple[Role, ...] = ("encoder", "decoder")


@dataclass(frozen=True)
class ImageKV:
    """Cross-attention keys and values of images, projected once, for whoever attends to them.

    Attributes:
        layers: per layer `[B, N, 2, H, K]`, keys and values.
        mask: bool `[B, N]`, False on padding; None where nothing is padded (images never are).
    """

    layers: tuple[Tensor, ...]
    mask: Tensor | None = None

    @property
    def images(self) -> int:
        """Images held, B."""
        return self.layers[0].shape[0]

    def select(self, index: Tensor) -> "ImageKV":
        """The images at these positions, int64 `[Q]`, repeats allowed (a copy)."""
        mask = None if self.mask is None else self.mask.index_select(0, index)
        return ImageKV(tuple(layer.index_select(0, index) for layer in self.layers), mask)

    def detach(self) -> "ImageKV":
        """The same without gradient."""
        return replace(self, layers=tuple(layer.detach() for layer in self.layers))

    @staticmethod
    def cat(parts: "Iterable[ImageKV]") -> "ImageKV":
        """Images of several batches one after the other (all unmasked)."""
        layers = zip(*(part.layers for part in parts), strict=True)
        return ImageKV(tuple(torch.cat(layer) for layer in layers))


class DecoderCache:
    """Self-attention keys and values of the tokens decoded so far, in room reserved for all of them."""

    def __init__(self, store: Tensor, length: int = 0) -> None:
        """`store` is `[L, 2, R, H, max T, K]`; `length` tokens of it are filled."""
        self.store = store
        self.length = length

    @property
    def max_length(self) -> int:
        """Tokens there is room for."""
        return self.store.shape[4]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values `[R, H, T, K]` of new tokens; returns those of all tokens so far."""
        end = self.length + key.shape[2]
        self.store[layer, 0, :, :, self.length : end] = key
        self.store[layer, 1, :, :, self.length : end] = value
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]

    def select(self, index: Tensor) -> None:
        """Keep the rows at these positions, int64 `[Q]`, in that order, repeats allowed."""
        self.store = self.store.index_select(2, index)


class SelfAttention(nn.Module):
    """Self-attention block: attention, output, residual, LayerNorm. One per role."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, tokens: Tokens, *, first_only: bool = False) -> Tensor:
        """All tokens `[n, D]` attend to all of their row; `first_only` computes each row's first alone, `[R, D]`."""
        query, key, value = self._project(hidden, tokens)
        if first_only:
            hidden, query = tokens.spread(hidden)[:, 0], query[:, :, :1]
            tokens = Tokens(tokens.rows, 1, None, tokens.mask)
        mixed = functional.scaled_dot_product_attention(query, key, value, tokens.mask, self._dropout)
        return self._finish(mixed, hidden, tokens)

    def causal(self, hidden: Tensor, tokens: Tokens, cache: DecoderCache | None, layer: int) -> Tensor:
        """Tokens `[n, D]` attend to themselves and to what comes before, in their row and in the cache."""
        query, key, value = self._project(hidden, tokens)
        past = 0
        if cache is not None:
            past = cache.length
            key, value = cache.append(layer, key, value)
        new, mask, from_start = tokens.length, None, False
        if new > 1 and past == 0:  # a branch: compiled with lengths left open, a comparison would be no bool
            from_start = True
        elif new > 1:
            mask = torch.ones(new, past + new, dtype=torch.bool, device=hidden.device).tril(past)
        mixed = functional.scaled_dot_product_attention(query, key, value, mask, self._dropout, is_causal=from_start)
        return self._finish(mixed, hidden, tokens)

    @property
    def _dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _project(self, hidden: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value `[R, H, T, K]` each."""
        heads, width = self.config.heads, self.config.width
        qkv = tokens.spread(self.qkv(hidden)).view(tokens.rows, tokens.length, 3, heads, width // heads)
        query, key, value = qkv.unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def _finish(self, mixed: Tensor, hidden: Tensor, tokens: Tokens) -> Tensor:
        output = self.out(tokens.pack(mixed.transpose(1, 2).flatten(2)))
        return self.norm(hidden + functional.dropout(output, self.config.dropout, self.training))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Cross-attention block: text tokens attend to an image's tokens. One for encoder and decoder."""

    def __init__(self, config: TextConfig, memory_width: int) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(memory_width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def project(self, memory: Tensor) -> Tensor:
        """Image tokens `[B, N, M]` to keys and values `[B, N, 2, H, K]`."""
        batch, count, _ = memory.shape
        heads = self.config.heads
        return self.key_value(memory).view(batch, count, 2, heads, self.config.width // heads)  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, tokens: Tokens, images: ImageKV, layer: int, index: Tensor | None) -> Tensor:
        """Rows attend to images.

        Args:
            hidden: `[n, D]`.
            tokens: whose rows they are.
            images: keys and values of B images.
            layer: which layer's.
            index: int64 `[Q]`, the images of the last Q rows; the R - Q rows before them lie by image. None for Q = 0.
        """
        query = tokens.spread(self.query(hidden))
        memory, mask = images.layers[layer], images.mask
        if index is None:
            mixed = self._attend(query, memory, mask)
        else:
            chosen = memory.index_select(0, index)
            chosen_mask = None if mask is None else mask.index_select(0, index)
            by_image = tokens.rows - index.shape[0]
            mixed = self._attend(query[by_image:], chosen, chosen_mask)
            if by_image:
                mixed = torch.cat([self._attend(query[:by_image], memory, mask), mixed])
        output = functional.dropout(self.out(tokens.pack(mixed)), self.config.dropout, self.training)
        return self.norm(hidden + output)  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of rows `[R, T, D]` that lie by image; as many query tokens per image as its rows have together."""
        batch, _, _, heads, head_width = memory.shape
        key, value = (part.transpose(1, 2) for part in memory.unbind(2))
        folded = query.reshape(batch, -1, heads, head_width).transpose(1, 2)
        dropout = self.config.attention_dropout if self.training else 0.0
        mask = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(folded, key, value, mask, dropout)
        return mixed.transpose(1, 2).reshape(query.shape)


class Layer(nn.Module):
    """Self-attention of each role, the shared cross-attention, the shared feed-forward block."""

    def __init__(self, config: TextConfig, roles: tuple[Role, ...], memory_width: int) -> None:
        super().__init__()
        self.config = config
        if "encoder" in roles:
            self.encoder_attention = SelfAttention(config)
        if "decoder" in roles:
            self.decoder_attention = SelfAttention(config)
        self.cross_attention = CrossAttention(config, memory_width)
        self.fc1 = nn.Linear(config.width, config.intermediate)
        self.fc2 = nn.Linear(config.intermediate, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """`[n, D]` to the same shape."""
        output = self.fc2(functional.gelu(self.fc1(hidden)))
        return self.norm(hidden + functional.dropout(output, self.config.dropout, self.training))  # type: ignore[no-any-return]


class LanguageHead(nn.Module):
    """Hidden states to logits over the vocabulary; its matrix is the word embeddings', its bias its own."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """States `[…, D]` and word embeddings `[V, D]` to logits `[…, V]`."""
        return functional.linear(self.transform(hidden), words, self.bias)

    def transform(self, hidden: Tensor) -> Tensor:
        """States `[…, D]` to those `[…, D]` that are compared with the words."""
        return self.norm(functional.gelu(self.dense(hidden)))  # type: ignore[no-any-return]


class TextTransformer(nn.Module):
    """One stack for the roles asked for.

    Args:
        config: sizes and token ids.
        roles: which self-attentions it has; the decoder also brings the language head.
        memory_width: width of what cross-attention reads, M (the image encoder's; for VQA's decoder the questions').
    """

    def __init__(self, config: TextConfig, roles: tuple[Role, ...] = ROLES, memory_width: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.roles = roles
        width = config.width if memory_width is None else memory_width
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.layers: nn.ModuleList = nn.ModuleList(Layer(config, roles, width) for _ in range(config.depth))
        if "decoder" in roles:
            self.head = LanguageHead(config)
        init_weights(self, config.initializer_range)

    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The text alone: state of its first token.

        Args:
            ids: `[R, T]`, [CLS] first, padding on the right.
            mask: `[R, T]`, 0 or False on padding; None if nothing is padded.

        Returns:
            `[R, D]`.
        """
        return self._encode(ids, Tokens.of(ids, mask), None, None, first_only=True)

    def match(self, ids: Tensor, mask: Tensor | None, image_kv: ImageKV, image_index: Tensor | None = None) -> Tensor:
        """The text with an image: state of its first token.

        Args:
            ids: `[R, T]`, [ENC] first, padding on the right.
            mask: `[R, T]`, 0 or False on padding; None if nothing is padded.
            image_kv: keys and values of B images (`project_images`).
            image_index: int64 `[Q]`, images of the *last* Q rows. The R - Q rows before them lie by image, equally
                many each; None means that all rows do. Rows by image read keys and values in place, indexed rows copy.

        Returns:
            `[R, D]`.
        """
        return self._encode(ids, Tokens.of(ids, mask), image_kv, image_index, first_only=True)

    def states(self, ids: Tensor, mask: Tensor | None, image_kv: ImageKV, image_index: Tensor | None = None) -> Tensor:
        """The text with an image: states of all tokens `[R, T, D]` (VQA's question); without meaning on padding.

        Arguments as of `match`.
        """
        tokens = Tokens.of(ids, mask)
        return tokens.spread(self._encode(ids, tokens, image_kv, image_index, first_only=False))

    def project_images(self, tokens: Tensor, mask: Tensor | None = None) -> ImageKV:
        """Keys and values of image tokens `[B, N, M]` for every layer, with bool mask `[B, N]` if some are padding."""
        return ImageKV(tuple(layer.cross_attention.project(tokens) for layer in self._stack()), mask)

    def decode(
        self, ids: Tensor, image_kv: ImageKV, cache: DecoderCache | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Next-token states of texts with an image.

        Args:
            ids: `[R, T]`, rows by image, [DEC] first unless the cache holds the beginning; padding on the right, so
                that no token that counts can see it.
            image_kv: keys and values of B images.
            cache: holds the tokens before; gets these.
            mask: `[R, T]`, 0 or False on padding: lets it be left out (not with a cache). Changes nothing else.

        Returns:
            `[R, T, D]`, without meaning on padding.
        """
        _check_rows(ids.shape[0], image_kv, None)
        tokens = Tokens.of(ids, mask if cache is None else None)
        hidden = self._embed(ids, tokens, 0 if cache is None else cache.length)
        for index, layer in enumerate(self._stack()):
            hidden = layer.decoder_attention.causal(hidden, tokens, cache, index)
            hidden = layer.cross_attention(hidden, tokens, image_kv, index, None)
            hidden = layer.feed_forward(hidden)
        if cache is not None:
            cache.length += ids.shape[1]
        return tokens.spread(hidden)

    def token_logits(self, hidden: Tensor) -> Tensor:
        """States `[…, D]` of `decode` to logits `[…, V]`."""
        return self.head(hidden, self.words.weight)  # type: ignore[no-any-return]

    def language_logits(self, ids: Tensor, image_kv: ImageKV, mask: Tensor | None = None) -> Tensor:
        """Logits `[R, T, V]` of whole texts `[R, T]`, whose first token becomes [DEC]; position t predicts t + 1."""
        return self.token_logits(self.decode(with_first(ids, self.config.dec_id), image_kv, mask=mask))

    def new_cache(self, rows: int, max_length: int) -> DecoderCache:
        """An empty cache for `rows` texts of at most `max_length` tokens, of the model's type and device."""
        self._check_length(max_length)
        heads, weight = self.config.heads, self.words.weight
        shape = (self.config.depth, 2, rows, heads, max_length, self.config.width // heads)
        return DecoderCache(weight.new_empty(shape))

    def _encode(
        self,
        ids: Tensor,
        tokens: Tokens,
        image_kv: ImageKV | None,
        image_index: Tensor | None,
        *,
        first_only: bool,
    ) -> Tensor:
        """All encoder layers: states `[n, D]`, or with `first_only` `[R, D]`, which the last layer computes alone."""
        if image_kv is not None:
            _check_rows(ids.shape[0], image_kv, image_index)
        hidden = self._embed(ids, tokens, 0)
        for index, layer in enumerate(self._stack()):
            first = first_only and index == self.config.depth - 1
            hidden = layer.encoder_attention(hidden, tokens, first_only=first)
            if first:
                tokens = Tokens(tokens.rows, 1)
            if image_kv is not None:
                hidden = layer.cross_attention(hidden, tokens, image_kv, index, image_index)
            hidden = layer.feed_forward(hidden)
        return hidden

    def _embed(self, ids: Tensor, tokens: Tokens, past: int) -> Tensor:
        """Words and positions of ids `[R, T]`, `[n, D]`; `past` tokens came before."""
        self._check_length(past + ids.shape[1])
        positions = self.positions.weight[past : past + ids.shape[1]]
        hidden = self.norm(tokens.pack(self.words(ids) + positions))
        return functional.dropout(hidden, self.config.dropout, self.training)

    def _check_length(self, length: int) -> None:
        if length > self.config.max_positions:
            raise ModelError(
                f"text of {length} tokens given to a model of {self.config.max_positions} positions: "
                "truncate it, or raise text.max_positions"
            )

    def _stack(self) -> Iterable[Layer]:
        return self.layers  # type: ignore[return-value]


def with_first(ids: Tensor, first: int) -> Tensor:
    """Token ids `[R, T]` with the first of each row replaced (a copy): how BLIP tells the roles apart."""
    return torch.cat([torch.full_like(ids[:, :1], first), ids[:, 1:]], dim=1)


def _check_rows(rows: int, image_kv: ImageKV, index: Tensor | None) -> None:
    """Rows that lie by image must be equally many per image."""
    by_image = rows - (0 if index is None else index.shape[0])
    if by_image < 0 or by_image % image_kv.images:
        raise ModelError(
            f"{by_image} text rows cannot lie evenly by {image_kv.images} images: give equally many rows per image, "
            "or name each row's image in image_index"
        )
