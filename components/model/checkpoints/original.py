"""Reading checkpoints of the original `salesforce/BLIP` repository: `torch.save({"model": state dict, …})`.

Such a file has no config: sizes are read off the shapes, the rest is what that code builds (docs/facts.md 1 to 5).
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from components.common.errors import ModelError
from components.model.checkpoints.layouts import from_original
from components.model.config import BlipConfig

_HEAD_WIDTH = 64  # of every model that repository builds
_VISION_EPS = 1e-6
_LAYERS = "vision_model.encoder.layers"


def read_original(path: Path) -> tuple[BlipConfig, dict[str, Tensor]]:
    """Config and weights (under Hugging Face names) of an original checkpoint; momentum and queues are left behind.

    Raises:
        ModelError: not such a file, or one that holds more than tensors.
    """
    checkpoint = from_original(_read_state(path))
    config = _config_of(checkpoint.weights, path)
    if checkpoint.temperature is not None:
        config = config.model_copy(update={"temperature": checkpoint.temperature})
    return config, checkpoint.weights


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise ModelError(
            f"{path}: not a checkpoint that is safe to read (tensors alone, weights_only): {error}; "
            "use an original file of salesforce/BLIP, or a model folder with model.safetensors"
        ) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: holds no state dict of tensors, at its top or under 'model'")
    return dict(state)


def _config_of(weights: Mapping[str, Tensor], path: Path) -> BlipConfig:
    """Sizes from shapes; heads of 64, [DEC] and [ENC] the last two tokens, ViT epsilon 1e-6."""
    text = "text_encoder" if "text_encoder.embeddings.LayerNorm.weight" in weights else "text_decoder.bert"
    try:
        patch = weights["vision_model.embeddings.patch_embedding.weight"]
        positions = weights["vision_model.embeddings.position_embedding"].shape[1]
        words = weights[f"{text}.embeddings.word_embeddings.weight"]
        vision = {
            "image_size": round((positions - 1) ** 0.5) * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "width": patch.shape[0],
            "depth": _layers(weights, f"{_LAYERS}.", ".layer_norm1.weight"),
            "heads": max(1, patch.shape[0] // _HEAD_WIDTH),
            "mlp_ratio": weights[f"{_LAYERS}.0.mlp.fc1.weight"].shape[0] / patch.shape[0],
            "layer_norm_eps": _VISION_EPS,
        }
        texts = {
            "vocab_size": words.shape[0],
            "width": words.shape[1],
            "depth": _layers(weights, f"{text}.encoder.layer.", ".output.LayerNorm.weight"),
            "heads": max(1, words.shape[1] // _HEAD_WIDTH),
            "intermediate": weights[f"{text}.encoder.layer.0.intermediate.dense.weight"].shape[0],
            "max_positions": weights[f"{text}.embeddings.position_embeddings.weight"].shape[0],
            "dec_id": words.shape[0] - 2,
            "enc_id": words.shape[0] - 1,
        }
        embed = weights["vision_proj.weight"].shape[0] if "vision_proj.weight" in weights else 256
        return BlipConfig.model_validate({"vision": vision, "text": texts, "embed_dim": embed})
    except (KeyError, IndexError) as error:
        raise ModelError(f"{path}: no BLIP checkpoint, {error} is missing; NLVR models are not supported") from error
    except ValidationError as error:
        raise ModelError(f"{path}: its shapes make no model: {error}") from error


def _layers(weights: Mapping[str, Tensor], before: str, after: str) -> int:
    """Number of layers: names `<before><number><after>`."""
    middles = (name[len(before) : -len(after)] for name in weights if name.startswith(before) and name.endswith(after))
    return sum(middle.isdigit() for middle in middles)
