"""transformers' BLIP with random weights, and the same weights in our modules: what our network is compared with.

Written apart from `components.model.checkpoints.weights` on purpose, so that a mistake there cannot hide one here.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import BlipConfig as TheirConfig
from transformers import (
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipImageProcessor,
)

from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.text import TextTransformer
from components.model.tokenizer import BlipTokenizer
from components.model.vision import VisionTransformer

CLS, SEP, DEC, ENC = 1, 2, 58, 59
TINY = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=24, depth=3, heads=3, layer_norm_eps=1e-5),
    text=TextConfig(
        vocab_size=60, width=32, depth=3, heads=4, intermediate=64, max_positions=40,
        cls_id=CLS, sep_id=SEP, dec_id=DEC, enc_id=ENC,
    ),
    embed_dim=16,
    queue_size=8,
)  # fmt: skip

Theirs = BlipForConditionalGeneration | BlipForImageTextRetrieval | BlipForQuestionAnswering


def theirs(kind: type[Theirs], config: BlipConfig = TINY, *, seed: int = 0, spread: float = 0.3) -> Theirs:
    """A model of transformers with random weights wide enough that its outputs differ from token to token."""
    vision, text = config.vision, config.text
    torch.manual_seed(seed)
    model = kind(
        TheirConfig(
            vision_config={
                "hidden_size": vision.width, "intermediate_size": int(vision.width * vision.mlp_ratio),
                "num_hidden_layers": vision.depth, "num_attention_heads": vision.heads,
                "image_size": vision.image_size, "patch_size": vision.patch_size,
                "layer_norm_eps": vision.layer_norm_eps,
            },
            text_config={
                "vocab_size": text.vocab_size, "hidden_size": text.width, "encoder_hidden_size": vision.width,
                "intermediate_size": text.intermediate, "num_hidden_layers": text.depth,
                "num_attention_heads": text.heads, "max_position_embeddings": text.max_positions,
                "bos_token_id": text.dec_id, "sep_token_id": text.sep_id, "eos_token_id": text.sep_id,
                "pad_token_id": text.pad_id,
                # A VQA decoder reads question states, and transformers has one text config for both stacks.
                **({"encoder_hidden_size": text.width} if kind is BlipForQuestionAnswering else {}),
            },
            image_text_hidden_size=config.embed_dim,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower():
                weight.normal_(0, spread)
    return model.eval()


def save_checkpoints(root: Path, tokenizer: BlipTokenizer, size: int = 48) -> tuple[Path, Path]:
    """A tiny captioner and a filter as transformers saves them, for pictures of `size` pixels; their folders."""
    config = BlipConfig(
        vision=VisionConfig(image_size=size, patch_size=16, width=32, depth=2, heads=2, layer_norm_eps=1e-5),
        text=TextConfig(width=32, depth=2, heads=2, intermediate=64, max_positions=64),
        embed_dim=16,
        queue_size=0,
    ).for_tokenizer(tokenizer)
    processor = BlipImageProcessor(size={"height": size, "width": size}, resample=3)
    for name, kind in (("captioner", BlipForConditionalGeneration), ("filter", BlipForImageTextRetrieval)):
        theirs(kind, config).save_pretrained(root / name)
        processor.save_pretrained(root / name)
        tokenizer.save(root / name)
    return root / "captioner", root / "filter"


def fill_vision(ours: VisionTransformer, weights: dict[str, Tensor]) -> None:
    """Copy `vision_model.*`."""
    p = "vision_model."
    state = {
        "cls": weights[p + "embeddings.class_embedding"],
        "positions": weights[p + "embeddings.position_embedding"],
        "patch.weight": weights[p + "embeddings.patch_embedding.weight"].flatten(1),
        "patch.bias": weights[p + "embeddings.patch_embedding.bias"],
    }
    names = {
        "norm1": "layer_norm1", "norm2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
        "attention.qkv": "self_attn.qkv", "attention.out": "self_attn.projection",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = weights[f"{p}post_layernorm.{kind}"]
        for layer in range(len(ours.blocks)):
            for own, other in names.items():
                state[f"blocks.{layer}.{own}.{kind}"] = weights[f"{p}encoder.layers.{layer}.{other}.{kind}"]
    ours.load_state_dict(state)


def fill_text(ours: TextTransformer, weights: dict[str, Tensor], prefix: str, role: str) -> None:
    """Copy one stack: `text_encoder.` for the encoder, `text_decoder.bert.` for the decoder (with its head)."""
    state = {
        "words.weight": weights[prefix + "embeddings.word_embeddings.weight"],
        "positions.weight": weights[prefix + "embeddings.position_embeddings.weight"],
    }
    names = {
        f"{role}_attention.out": "attention.output.dense", f"{role}_attention.norm": "attention.output.LayerNorm",
        "cross_attention.query": "crossattention.self.query", "cross_attention.out": "crossattention.output.dense",
        "cross_attention.norm": "crossattention.output.LayerNorm", "fc1": "intermediate.dense", "fc2": "output.dense",
        "norm": "output.LayerNorm",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = weights[f"{prefix}embeddings.LayerNorm.{kind}"]
        for index in range(len(ours.layers)):
            own, other = f"layers.{index}.", f"{prefix}encoder.layer.{index}."
            for mine, theirs_name in names.items():
                state[f"{own}{mine}.{kind}"] = weights[f"{other}{theirs_name}.{kind}"]
            parts = [weights[f"{other}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{own}{role}_attention.qkv.{kind}"] = torch.cat(parts)
            parts = [weights[f"{other}crossattention.self.{part}.{kind}"] for part in ("key", "value")]
            state[f"{own}cross_attention.key_value.{kind}"] = torch.cat(parts)
        if role == "decoder":
            head = "text_decoder.cls.predictions."
            state[f"head.dense.{kind}"] = weights[f"{head}transform.dense.{kind}"]
            state[f"head.norm.{kind}"] = weights[f"{head}transform.LayerNorm.{kind}"]
    if role == "decoder":
        state["head.bias"] = weights["text_decoder.cls.predictions.bias"]
    ours.load_state_dict(state)
