"""Sizes and constants of BLIP: any model from the sample's to ViT-L is one of these configs."""

from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from components.common.identity import harmless

PositionZero = Literal["enc", "cls"]
"""Token at position 0 of a text that is matched with an image: [ENC] as trained, or [CLS] as BLIP's demo has it."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means BLIP was trained with, of values in 0..1."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations BLIP was trained with, of values in 0..1."""


class TokenIds(Protocol):
    """What a config takes from a tokenizer."""

    vocab_size: int
    pad_id: int
    cls_id: int
    sep_id: int
    dec_id: int
    enc_id: int


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VisionConfig(_Config):
    """The vision transformer; the defaults are ViT-B/16 at 224 (docs/facts.md 1)."""

    image_size: int = Field(default=224, ge=1, description="side of the square input, pixels")
    patch_size: int = Field(default=16, ge=1, description="side of a patch, pixels; divides image_size")
    width: int = Field(default=768, ge=1, description="features per token")
    depth: int = Field(default=12, ge=1, description="blocks")
    heads: int = Field(default=12, ge=1, description="attention heads per block; divides width")
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the MLP, in widths")
    layer_norm_eps: float = Field(default=1e-6, gt=0, description="added to the variance in LayerNorm; BLIP has 1e-6")
    initializer_range: float = Field(
        default=0.02, gt=0, description="deviation of fresh weights; BLIP: 0.02, narrow models want more"
    )
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="chance to skip the last block; linear from 0")
    checkpoint_layers: int = Field(
        default=0,
        ge=0,
        description="last blocks to recompute in backward, to save memory",
        json_schema_extra=harmless("only memory and time: what is recomputed comes out the same"),
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        _check_heads(self.width, self.heads)
        return self

    @property
    def patches(self) -> int:
        """Patches of an image, N; the encoder returns 1 + N tokens."""
        return (self.image_size // self.patch_size) ** 2


class TextConfig(_Config):
    """The text transformer in all roles; the defaults are BERT-base with [DEC] and [ENC] (docs/facts.md 2)."""

    vocab_size: int = Field(default=30524, ge=1, description="tokens, with [DEC] and [ENC]; the tokenizer's wins")
    width: int = Field(default=768, ge=1, description="features per token")
    depth: int = Field(default=12, ge=1, description="layers")
    heads: int = Field(default=12, ge=1, description="attention heads per layer; divides width")
    intermediate: int = Field(default=3072, ge=1, description="hidden width of the feed-forward block")
    max_positions: int = Field(default=512, ge=1, description="longest text, tokens")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of hidden states in training")
    attention_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="dropout of attention weights in training; 0 allows fused kernels on CPU"
    )
    layer_norm_eps: float = Field(default=1e-12, gt=0, description="added to the variance in LayerNorm")
    initializer_range: float = Field(
        default=0.02, gt=0, description="deviation of fresh weights; BLIP: 0.02, narrow models want more"
    )
    pad_id: int = Field(default=0, ge=0, description="id of [PAD]; the tokenizer's wins")
    cls_id: int = Field(default=101, ge=0, description="id of [CLS], which opens a text; the tokenizer's wins")
    sep_id: int = Field(default=102, ge=0, description="id of [SEP], which ends a text; the tokenizer's wins")
    dec_id: int = Field(default=30522, ge=0, description="id of [DEC], first in the decoder; the tokenizer's wins")
    enc_id: int = Field(default=30523, ge=0, description="id of [ENC], first when matching; the tokenizer's wins")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_heads(self.width, self.heads)
        return self


class BlipConfig(_Config):
    """A whole model: both encoders, the shared space, and the constants of its losses."""

    vision: VisionConfig = Field(default_factory=VisionConfig, description="the vision transformer")
    text: TextConfig = Field(default_factory=TextConfig, description="the text transformer")
    embed_dim: int = Field(default=256, ge=1, description="width of the space shared by images and texts")
    queue_size: int = Field(default=57600, ge=0, description="momentum features kept as negatives; 0 for none")
    momentum: float = Field(default=0.995, ge=0, le=1, description="share of its old value a momentum weight keeps")
    alpha: float = Field(default=0.4, ge=0, le=1, description="weight of the momentum model's soft targets")
    temperature: float = Field(default=0.07, gt=0, description="divides similarities at the start; learned")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of an LM target spread over all tokens")

    def for_tokenizer(self, tokenizer: TokenIds) -> "BlipConfig":
        """This config with vocabulary size and special token ids of a tokenizer."""
        names = ("vocab_size", "pad_id", "cls_id", "sep_id", "dec_id", "enc_id")
        return self.with_text(**{name: getattr(tokenizer, name) for name in names})

    def with_text(self, **changes: Any) -> "BlipConfig":
        """This config with other values of `text`, checked."""
        return self.model_copy(update={"text": TextConfig(**{**self.text.model_dump(), **changes})})

    def with_vision(self, **changes: Any) -> "BlipConfig":
        """This config with other values of `vision`, checked (another `image_size`, say)."""
        return self.model_copy(update={"vision": VisionConfig(**{**self.vision.model_dump(), **changes})})


class EncodersConfig(_Config):
    """What a model from scratch starts from; the paper: an ImageNet ViT and BERT-base, all else fresh (section 4.1)."""

    vision: str | None = Field(
        default=None,
        description="URI of a ViT's folder as transformers or timm save it, or a folder beside the config file; null: "
        "random weights",
    )
    text: str | None = Field(
        default=None,
        description="URI of a BERT's folder as transformers saves it, or a folder beside the config file; null: random "
        "weights",
    )
    as_released: bool = Field(
        default=False,
        description="the reference's way: drop BERT's token types, and take the model's own LayerNorm epsilon and "
        "BLIP's normalisation of images whatever the encoders had; else the model computes what they compute",
    )

    def folders(self) -> dict[str, str]:
        """URIs of the encoders that are given, by part."""
        return {name: uri for name, uri in (("vision", self.vision), ("text", self.text)) if uri is not None}


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width {width} must be a multiple of heads {heads}")


class DecodingConfig(_Config):
    """How texts are written. Lengths are totals in tokens, prompt and [DEC] included (docs/facts.md 7)."""

    method: Literal["greedy", "beam", "nucleus"] = Field(
        default="nucleus",
        description="greedy and beam give one text per image; nucleus draws; not set: nucleus, and "
        "greedy for one text by other captioners than BLIP",
    )
    top_p: float = Field(default=0.9, gt=0, le=1, description="nucleus: probability mass of the tokens drawn from")
    top_k: int = Field(default=0, ge=0, description="nucleus: tokens drawn from at most; 0 for no limit")
    temperature: float = Field(default=1.0, gt=0, description="nucleus: divides the logits")
    beams: int = Field(default=3, ge=1, description="beam: hypotheses kept")
    length_penalty: float = Field(default=1.0, description="beam: scores are divided by length to this power")
    min_length: int = Field(
        default=5,
        ge=0,
        description="tokens before the text may end, prompt included: 5 for BLIP, if not set; of other captioners new "
        "tokens, and 0",
    )
    max_length: int = Field(
        default=20,
        ge=2,
        description="tokens at most, prompt and end included: 20 for BLIP, if not set; of other captioners new tokens, "
        "40 to 96 by family",
    )
    repetition_penalty: float = Field(default=1.0, gt=0, description="above 1 makes written tokens less likely")
    prompt: str = Field(
        default="a picture of ",
        description="how every text starts, not part of what is returned: `a picture of ` for BLIP, if not set; of "
        "other captioners what they are asked, by family",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} must not exceed max_length {self.max_length}")
        return self


class AnsweringConfig(_Config):
    """How questions about images are answered; the defaults are BLIP's on VQA v2 (docs/vqa.md)."""

    method: Literal["rank", "generate"] = Field(
        default="rank",
        description="rank: the likeliest of a list of answers; generate: an answer written word by word (beam search)",
    )
    top_k: int = Field(
        default=128, ge=1, description="rank: answers compared in full, the likeliest by their first word piece"
    )
    rank_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="rank: 0 compares likelihoods; BLIP's own code has 0.1, training's label smoothing, which favours "
        "short answers",
    )
    beams: int = Field(default=3, ge=1, description="generate: hypotheses kept")
    max_length: int = Field(
        default=10, ge=2, description="generate: tokens of an answer at most, [DEC] and end included"
    )
    max_words: int = Field(default=50, ge=1, description="words a question is cut to")
    max_tokens: int = Field(default=35, ge=4, description="word pieces a question is cut to, [ENC] and [SEP] included")
    position_zero: PositionZero = Field(
        default="enc",
        description="token at position 0 of a question: [ENC] as trained, or [CLS] as transformers has it",
    )

    @property
    def decoding(self) -> DecodingConfig:
        """The search of `generate`."""
        return DecodingConfig(method="beam", beams=self.beams, min_length=1, max_length=self.max_length, prompt="")
