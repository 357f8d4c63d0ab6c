"""The models of BLIP: for pre-training (everything), captioner, filter, and visual question answering.

Shapes: B images, S image side, N image tokens, R text rows, T tokens, D text width, d shared width, V vocabulary.

Rows of texts lie by image (see `text.py`): with as many rows as images, row i belongs to image i.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.model.config import BlipConfig, PositionZero
from components.model.text import ROLES, ImageKV, Role, TextTransformer, with_first
from components.model.vision import VisionTransformer, init_weights


class _ImageText(nn.Module):
    """An image encoder and one text stack that reads from it."""

    def __init__(self, config: BlipConfig, roles: tuple[Role, ...]) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config.vision)
        self.text = TextTransformer(config.text, roles, config.vision.width)

    def project_images(self, tokens: Tensor) -> ImageKV:
        """Image tokens `[B, 1+N, D]` to keys and values of every layer, for `match_logits` and `logits`."""
        return self.text.project_images(tokens)

    def encode_images(self, pixels: Tensor) -> ImageKV:
        """Normalised pixels `[B, 3, S, S]` to keys and values of every layer."""
        return self.project_images(self.vision_model(pixels))


class _Contrastive(_ImageText):
    """Adds what ITC and ITM need: projections to the shared space, the matching head, the temperature."""

    def __init__(self, config: BlipConfig, roles: tuple[Role, ...], position_zero: PositionZero = "enc") -> None:
        super().__init__(config, roles)
        self.position_zero = position_zero
        self.vision_proj = nn.Linear(config.vision.width, config.embed_dim)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temperature = nn.Parameter(torch.full((1,), config.temperature))
        for head in (self.vision_proj, self.text_proj, self.itm_head):
            init_weights(head, config.text.initializer_range)

    def image_embed(self, tokens: Tensor) -> Tensor:
        """Image tokens `[B, 1+N, D]` to features `[B, d]` of length 1."""
        return _unit(self.vision_proj(tokens[:, 0]))

    def image_features(self, pixels: Tensor) -> tuple[ImageKV, Tensor]:
        """Pixels `[B, 3, S, S]` to keys and values, and features `[B, d]` of length 1."""
        tokens = self.vision_model(pixels)
        return self.project_images(tokens), self.image_embed(tokens)

    def text_features(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Texts `[R, T]` that start with [CLS] to features `[R, d]` of length 1; `mask` is 0 on padding."""
        return _unit(self.text_proj(self.text.encode(ids, mask)))

    def match_logits(
        self,
        ids: Tensor,
        mask: Tensor | None,
        image_kv: ImageKV,
        image_index: Tensor | None = None,
        *,
        position_zero: PositionZero | None = None,
    ) -> Tensor:
        """Logits `[R, 2]` of texts and images; class 1 is "they match".

        Args:
            ids: `[R, T]`; the first token is replaced by [ENC], or by [CLS] if `position_zero` says so.
            mask: `[R, T]`, 0 on padding, or None.
            image_kv: keys and values of B images.
            image_index: int64 `[Q]`, images of the last Q rows; the rows before them lie by image. None: all do.
            position_zero: the model's own by default (docs/facts.md 12).
        """
        zero = position_zero or self.position_zero
        first = self.config.text.enc_id if zero == "enc" else self.config.text.cls_id
        state = self.text.match(with_first(ids, first), mask, image_kv, image_index)
        return self.itm_head(state)  # type: ignore[no-any-return]


def _unit(features: Tensor) -> Tensor:
    """Features at length 1, at least in fp32: a 16-bit one would be off by more than ITC's temperature forgives."""
    return functional.normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)


class BlipCaptioner(_ImageText):
    """Image to text: ViT and image-grounded decoder (`BlipForConditionalGeneration`)."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config, ("decoder",))

    def logits(self, ids: Tensor, mask: Tensor | None, image_kv: ImageKV) -> Tensor:
        """Next-token logits `[R, T, V]` of texts `[R, T]`, whose first token is replaced by [DEC].

        Padding must be on the right, where logits mean nothing; `mask`, 0 on it, lets it be left out.
        """
        return self.text.language_logits(ids, image_kv, mask)


class BlipFilter(_Contrastive):
    """Does a text match an image: ViT, text encoder, matching head (`BlipForImageTextRetrieval`)."""

    def __init__(self, config: BlipConfig, position_zero: PositionZero = "enc") -> None:
        super().__init__(config, ("encoder",), position_zero)


class BlipPretrain(_Contrastive):
    """Encoder and decoder over shared weights, with all heads: ITC, ITM and LM (paper section 3.2)."""

    def __init__(self, config: BlipConfig, position_zero: PositionZero = "enc") -> None:
        super().__init__(config, ROLES, position_zero)

    def logits(self, ids: Tensor, mask: Tensor | None, image_kv: ImageKV) -> Tensor:
        """Next-token logits `[R, T, V]` of texts `[R, T]`, whose first token is replaced by [DEC].

        Padding must be on the right, where logits mean nothing; `mask`, 0 on it, lets it be left out.
        """
        return self.text.language_logits(ids, image_kv, mask)


class BlipVqa(nn.Module):
    """Question answering: the question reads the image, the answer reads the question; nothing is tied between them."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config.vision)
        self.text_encoder = TextTransformer(config.text, ("encoder",), config.vision.width)
        self.text_decoder = TextTransformer(config.text, ("decoder",), config.text.width)

    @property
    def text(self) -> TextTransformer:
        """The stack that writes, by the name decoding looks for."""
        return self.text_decoder

    def encode_images(self, pixels: Tensor) -> ImageKV:
        """Normalised pixels `[B, 3, S, S]` to what questions read: keys and values of the images."""
        return self.text_encoder.project_images(self.vision_model(pixels))

    def read_questions(
        self,
        image_kv: ImageKV,
        ids: Tensor,
        mask: Tensor | None = None,
        image_index: Tensor | None = None,
        *,
        position_zero: PositionZero = "enc",
    ) -> ImageKV:
        """Questions about encoded images to what the answer reads: keys and values of the questions.

        Args:
            image_kv: keys and values of B images.
            ids: questions `[R, T]`; the first token is replaced by [ENC], or by [CLS] if `position_zero` says so.
            mask: `[R, T]`, 0 on padding, which nothing attends to; None if nothing is padded.
            image_index: int64 `[R]`, the image of each question; None: they lie by image.
            position_zero: official checkpoints are trained with [ENC].
        """
        text = self.config.text
        first = text.enc_id if position_zero == "enc" else text.cls_id
        states = self.text_encoder.states(with_first(ids, first), mask, image_kv, image_index)
        return self.text_decoder.project_images(states, None if mask is None else mask.bool())

    def encode_questions(
        self, pixels: Tensor, ids: Tensor, mask: Tensor | None = None, *, position_zero: PositionZero = "enc"
    ) -> ImageKV:
        """Images `[B, 3, S, S]` and questions `[B, T]` to what the answer reads: see `read_questions`."""
        return self.read_questions(self.encode_images(pixels), ids, mask, position_zero=position_zero)

    def logits(self, ids: Tensor, mask: Tensor | None, question_kv: ImageKV) -> Tensor:
        """Next-token logits `[R, T, V]` of answers `[R, T]`, whose first token is replaced by [DEC]."""
        return self.text_decoder.language_logits(ids, question_kv, mask)
