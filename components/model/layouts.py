"""The names BLIP's parameters go by in files: Hugging Face's, which ours are kept under, and the original repository's.

Reference: reference/blip.md 9 ("Key mapping") and 1.4 (what the encoder and the decoder share).
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from components.common.errors import ModelError

_SHOWN = 20

_VISION_NAMES = (  # original name, Hugging Face's name; in a regular expression and its replacement
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.(\w+)$", r"vision_model.embeddings.patch_embedding.\1"),
    (r"^visual_encoder\.norm\.(\w+)$", r"vision_model.post_layernorm.\1"),
    (r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.(\w+)$", r"vision_model.encoder.layers.\1.layer_norm\2.\3"),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(\w+)$", r"vision_model.encoder.layers.\1.self_attn.qkv.\2"),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.(\w+)$", r"vision_model.encoder.layers.\1.self_attn.projection.\2"),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.(fc[12]\.\w+)$", r"vision_model.encoder.layers.\1.mlp.\2"),
)
_ORIGINAL_NAMES = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.(\w+)$", r"visual_encoder.patch_embed.proj.\1"),
    (r"^vision_model\.post_layernorm\.(\w+)$", r"visual_encoder.norm.\1"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)$", r"visual_encoder.blocks.\1.norm\2.\3"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.(\w+)$", r"visual_encoder.blocks.\1.attn.qkv.\2"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.(\w+)$", r"visual_encoder.blocks.\1.attn.proj.\2"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.(fc[12]\.\w+)$", r"visual_encoder.blocks.\1.mlp.\2"),
)
_MOMENTUM = re.compile(r"^(visual_encoder|vision_proj|text_encoder|text_proj)_m\.(.+)$")
_QUEUES = {"image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue"}
_BUFFERS = ("position_ids",)
_TIED_HEAD = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


class OriginalCheckpoint(NamedTuple):
    """A `salesforce/BLIP` state dict taken apart: weights and momentum under Hugging Face names, and the rest."""

    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    queues: dict[str, Tensor]
    temperature: Tensor | None


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name


def from_original(state: Mapping[str, Tensor]) -> OriginalCheckpoint:
    """Take a `salesforce/BLIP` state dict apart (reference/blip.md 9)."""
    checkpoint = OriginalCheckpoint({}, {}, {}, state["temp"].reshape(1) if "temp" in state else None)
    for name, value in state.items():
        if name == "temp":
            continue
        if name in _QUEUES:
            checkpoint.queues[name] = value
        elif match := _MOMENTUM.match(name):
            checkpoint.momentum[_renamed(f"{match[1]}.{match[2]}", _VISION_NAMES)] = value
        else:
            checkpoint.weights[_renamed(name, _VISION_NAMES)] = value
    return checkpoint


def to_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under Hugging Face names to the names of `salesforce/BLIP`, with the tied copies its loader expects."""
    state = {_renamed(name, _ORIGINAL_NAMES): value for name, value in weights.items()}
    return state | {copy: state[source] for copy, source in _TIED_HEAD.items() if source in state}


def without_copies(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Drop buffers, and the LM head's output matrix and bias, which must equal what they are tied to.

    Raises:
        ModelError: a copy that differs: the checkpoint was untied and is none of BLIP's.
    """
    kept = {name: value for name, value in weights.items() if name.rsplit(".", 1)[-1] not in _BUFFERS}
    for copy, source in _TIED_HEAD.items():
        value = kept.pop(copy, None)
        if value is not None and source in kept and not torch.equal(value, kept[source]):
            raise ModelError(
                f"{where}: {copy} differs from {source}, which BLIP ties; export the model with tied weights"
            )
        if value is not None and source not in kept:
            kept[source] = value
    return kept


def check_names(
    weights: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], where: str, *, surplus_allowed: bool = False
) -> None:
    """Refuse a checkpoint that is not exactly what the model wants.

    Raises:
        ModelError: with the missing, unexpected and mis-shaped names (the first 20 of each, and the count).
    """
    missing = [name for name in wanted if name not in weights]
    unexpected = [] if surplus_allowed else [name for name in weights if name not in wanted]
    shaped = [
        f"{name} {tuple(weights[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in weights and weights[name].shape != shape
    ]
    if missing or unexpected or shaped:
        parts = [_listed("missing", missing), _listed("unexpected", unexpected), _listed("of the wrong shape", shaped)]
        raise ModelError(
            f"{where} does not hold this model: {'; '.join(part for part in parts if part)}. "
            "Use a checkpoint of the same role and size, with the config.json it came with."
        )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" … and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"
