"""The small files of a model folder: `config.json`, `preprocessor_config.json`, `generation_config.json`.

Written so that transformers loads the folder by itself; read from our folders and from official ones. What Hugging
Face's config has no place for (dropout in training, the constants of the losses) is kept in `config.json` under
`capfilt`, which transformers ignores.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from components.common.errors import ModelError
from components.model.config import CLIP_MEAN, CLIP_STD, BlipConfig, PositionZero

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
GENERATION_FILE = "generation_config.json"

_BICUBIC = 3  # Pillow's number

# transformers' own defaults for what a config.json leaves out (5.23): not BLIP's values, but what the file then means.
_VISION_DEFAULTS = {
    "image_size": 384,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
}
_TEXT_DEFAULTS = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "bos_token_id": 30522,
    "pad_token_id": 0,
    "sep_token_id": 102,
}


@dataclass(frozen=True)
class Preprocessor:
    """How a model wants its images: resized to a square (bicubic), scaled to 0…1, normalised.

    Attributes:
        size: side of the square, pixels.
        mean, std: per channel (red, green, blue), of values in 0…1.
    """

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


def write_config(
    folder: Path, config: BlipConfig, architectures: Sequence[str], position_zero: PositionZero = "enc"
) -> None:
    """Write `config.json` and `generation_config.json`, complete, so that no reader has to assume a value."""
    text, vision = config.text, config.vision
    tokens = {"bos_token_id": text.dec_id, "eos_token_id": text.sep_id, "pad_token_id": text.pad_id}
    _write(
        folder / CONFIG_FILE,
        {
            "architectures": list(architectures),
            "model_type": "blip",
            "dtype": "float32",
            "image_text_hidden_size": config.embed_dim,
            "projection_dim": config.embed_dim,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "label_smoothing": 0.0,
            "logit_scale_init_value": 2.6592,
            "tie_word_embeddings": True,
            "vision_config": {
                "model_type": "blip_vision_model",
                "attention_dropout": 0.0,
                "hidden_act": "gelu",
                "hidden_size": vision.width,
                "image_size": vision.image_size,
                "initializer_range": 0.02,
                "intermediate_size": int(vision.width * vision.mlp_ratio),
                "layer_norm_eps": vision.layer_norm_eps,
                "num_attention_heads": vision.heads,
                "num_hidden_layers": vision.depth,
                "patch_size": vision.patch_size,
                "projection_dim": config.embed_dim,
            },
            "text_config": {
                "model_type": "blip_text_model",
                "attention_probs_dropout_prob": text.attention_dropout,
                "encoder_hidden_size": vision.width,
                "hidden_act": "gelu",
                "hidden_dropout_prob": text.dropout,
                "hidden_size": text.width,
                "initializer_range": 0.02,
                "intermediate_size": text.intermediate,
                "is_decoder": True,
                "label_smoothing": 0.0,
                "layer_norm_eps": text.layer_norm_eps,
                "max_position_embeddings": text.max_positions,
                "num_attention_heads": text.heads,
                "num_hidden_layers": text.depth,
                "projection_dim": text.width,
                "sep_token_id": text.sep_id,
                "tie_word_embeddings": True,
                "use_cache": True,
                "vocab_size": text.vocab_size,
                **tokens,
            },
            "capfilt": {"config": config.model_dump(mode="json"), "position_zero": position_zero},
        },
    )
    _write(folder / GENERATION_FILE, tokens)


class FolderConfig(NamedTuple):
    """What `config.json` says: the model, the token at position 0 of ITM (None: nothing), transformers' classes."""

    model: BlipConfig
    position_zero: PositionZero | None
    architectures: tuple[str, ...]


def read_config(folder: Path) -> FolderConfig:
    """Read `config.json`.

    Sizes, epsilons, head counts and token ids are the file's, or what transformers takes where it says nothing.

    Raises:
        ModelError: no `config.json`, not BLIP's, or values that make no model.
    """
    path = folder / CONFIG_FILE
    values = _read(path)
    if values.get("model_type") != "blip":
        raise ModelError(f"{path}: model_type is {values.get('model_type')!r}, not 'blip': give a BLIP checkpoint")
    extra = values.get("capfilt") or {}
    vision = {**_VISION_DEFAULTS, **(values.get("vision_config") or {})}
    text = {**_TEXT_DEFAULTS, **(values.get("text_config") or {})}
    try:
        own = BlipConfig.model_validate(extra.get("config") or {}).model_dump()
        own["vision"] |= _vision_values(vision, path)
        own["text"] |= _text_values(text, given=bool(extra))
        own["embed_dim"] = values.get("image_text_hidden_size", 256)
        architectures = tuple(values.get("architectures") or ())
        return FolderConfig(BlipConfig.model_validate(own), extra.get("position_zero"), architectures)
    except (ValidationError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: values that make no model: {error}; copy the file again from its source") from error


def _vision_values(vision: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if vision.get("hidden_act", "gelu") != "gelu":
        raise ModelError(f"{path}: hidden_act is {vision['hidden_act']!r}, but BLIP computes with 'gelu'")
    return {
        "image_size": _side(vision["image_size"], path),
        "patch_size": _side(vision["patch_size"], path),
        "width": vision["hidden_size"],
        "depth": vision["num_hidden_layers"],
        "heads": vision["num_attention_heads"],
        "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        "layer_norm_eps": vision["layer_norm_eps"],
    }


def _text_values(text: Mapping[str, Any], *, given: bool) -> dict[str, Any]:
    """Text sizes; without our own section, [ENC] is the token after [DEC], as in every official checkpoint."""
    values = {
        "vocab_size": text["vocab_size"],
        "width": text["hidden_size"],
        "depth": text["num_hidden_layers"],
        "heads": text["num_attention_heads"],
        "intermediate": text["intermediate_size"],
        "max_positions": text["max_position_embeddings"],
        "layer_norm_eps": text["layer_norm_eps"],
        "pad_id": text["pad_token_id"],
        "sep_id": text["sep_token_id"],
        "dec_id": text["bos_token_id"],
    }
    return values if given else values | {"enc_id": text["bos_token_id"] + 1}


def _side(value: Any, path: Path) -> int:
    """A side of a square, written as a number or as two equal ones."""
    if isinstance(value, Mapping):
        value = [value.get("height", value.get("shortest_edge")), value.get("width", value.get("shortest_edge"))]
    sides = set(value) if isinstance(value, list | tuple) else {value}
    side = next(iter(sides))
    if len(sides) != 1 or not isinstance(side, int):
        raise ModelError(f"{path}: {value} is no square size: BLIP takes square images, write one number of pixels")
    return side


def write_preprocessor(folder: Path, preprocessor: Preprocessor) -> None:
    """Write `preprocessor_config.json`."""
    _write(
        folder / PREPROCESSOR_FILE,
        {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(preprocessor.mean),
            "image_processor_type": "BlipImageProcessor",
            "image_std": list(preprocessor.std),
            "processor_class": "BlipProcessor",
            "resample": _BICUBIC,
            "rescale_factor": 1 / 255,
            "size": {"height": preprocessor.size, "width": preprocessor.size},
        },
    )


def read_preprocessor(folder: Path, image_size: int) -> Preprocessor:
    """How the folder wants images; BLIP's own way, at the model's image size, if it does not say.

    Raises:
        ModelError: it asks for something other than a bicubic square of values in 0…1.
    """
    path = folder / PREPROCESSOR_FILE
    if path.is_file():
        values = _read(path)
    else:
        path = folder / PROCESSOR_FILE
        values = (_read(path) if path.is_file() else {}).get("image_processor") or {}
    if values.get("resample", _BICUBIC) != _BICUBIC:
        raise ModelError(f"{path}: resample is {values['resample']}, but only bicubic ({_BICUBIC}) is supported")
    factor = values.get("rescale_factor", 1 / 255)
    if not values.get("do_rescale", True) or abs(factor - 1 / 255) > 1e-6:
        raise ModelError(f"{path}: images must be scaled to 0…1 (do_rescale true, rescale_factor 1/255)")
    size = _side(values.get("size", image_size), path)
    if not values.get("do_normalize", True):
        return Preprocessor(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Preprocessor(
        size, _channels(values, "image_mean", CLIP_MEAN, path), _channels(values, "image_std", CLIP_STD, path)
    )


def _channels(
    values: Mapping[str, Any], name: str, default: tuple[float, float, float], path: Path
) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values.get(name) or default)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: {name} must be three numbers, not {values[name]!r}") from error
    return red, green, blue


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} has no {path.name}: give a model folder as transformers saves it") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}; copy it again from its source") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: a JSON object is expected; copy it again from its source")
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
