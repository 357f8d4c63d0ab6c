"""What an encoder's folder says and its weights do not show: heads, epsilon, activation, how it wants images.

A network of other heads takes the same weights and computes something else, so these are held against the network that
is to start from them. What a transformers `config.json` leaves out means transformers' own default (5.23); timm writes
the name of an architecture, from which its heads follow.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.common.errors import ModelError
from components.model.config import VisionConfig

Channels = tuple[float, float, float]
Part = Literal["vision", "text"]

_KINDS: dict[Part, tuple[str, ...]] = {"vision": ("vit", "deit", "vit_mae", "vit_msn"), "text": ("bert",)}
_GELU = ("gelu", "gelu_python")  # the exact one, under its two names
_HEADS, _EPS = 12, 1e-12
_HALF: Channels = (0.5, 0.5, 0.5)  # what transformers' ViT processor takes where its file says nothing
_TIMM = re.compile(r"^(?:vit|deit3?|flexivit)_(tiny|small|base|large|huge)_")
_TIMM_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
_TIMM_EPS = 1e-6


@dataclass(frozen=True)
class EncoderFacts:
    """What a folder says of its encoder.

    Attributes:
        kind: transformers' `model_type`, or `timm`; None where an old file does not say.
        heads: attention heads per layer.
        layer_norm_eps: added to the variance in LayerNorm.
        activation: of the feed-forward block.
        positions: kind of position embeddings.
    """

    kind: str | None
    heads: int
    layer_norm_eps: float
    activation: str
    positions: str = "absolute"


def read_facts(folder: Path) -> EncoderFacts:
    """The facts of a transformers or timm folder.

    Raises:
        ModelError: there is no readable `config.json`, or it does not tell the heads.
    """
    values = _read(folder / "config.json")
    if "architecture" in values:
        return _timm_facts(folder, values)
    try:
        return EncoderFacts(
            kind=values.get("model_type"),
            heads=int(values.get("num_attention_heads", _HEADS)),
            layer_norm_eps=float(values.get("layer_norm_eps", _EPS)),
            activation=str(values.get("hidden_act", "gelu")),
            positions=str(values.get("position_embedding_type", "absolute")),
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder}/config.json: not an encoder's: {error}; copy it again from its source") from error


def _timm_facts(folder: Path, values: Mapping[str, Any]) -> EncoderFacts:
    arguments, name = values.get("model_args") or {}, str(values["architecture"])
    size = _TIMM.match(name)
    heads = arguments.get("num_heads", _TIMM_HEADS[size[1]] if size else None)
    if not isinstance(heads, int):
        raise ModelError(
            f"{folder}/config.json: how many heads timm's {name} has is not known here: "
            'add "model_args": {"num_heads": …} to it'
        )
    return EncoderFacts("timm", heads, _TIMM_EPS, str(arguments.get("act_layer", "gelu")))


def check_facts(facts: EncoderFacts, part: Part, folder: Path, *, heads: int, layer_norm_eps: float | None) -> None:
    """Refuse an encoder that computes something else than the network does with its weights.

    Args:
        facts: what the folder says.
        part: of the network.
        folder: for the message.
        heads: of the network.
        layer_norm_eps: of the network; None: it need not agree.

    Raises:
        ModelError: with all that differs, and what to set.
    """
    faults = [*_faults(facts, part, heads, layer_norm_eps)]
    if faults:
        raise ModelError(f"{folder} is another encoder than model.{part}: {'; '.join(faults)}")


def _faults(facts: EncoderFacts, part: Part, heads: int, eps: float | None) -> Iterator[str]:
    kinds = (*_KINDS[part], *(("timm",) if part == "vision" else ()))
    if facts.kind is not None and facts.kind not in kinds:
        yield f"its model_type is {facts.kind!r}, give one of {', '.join(kinds)}"
        return
    if facts.heads != heads:
        yield f"it has {facts.heads} heads, not {heads}: set model.{part}.heads={facts.heads}"
    if eps is not None and facts.layer_norm_eps != eps:
        own = f"{facts.layer_norm_eps:g}"
        yield f"its LayerNorm adds {own} to the variance, not {eps:g}: set model.{part}.layer_norm_eps={own}"
    if facts.activation not in _GELU:
        yield f"it computes with {facts.activation!r}, BLIP with 'gelu'"
    if facts.positions != "absolute":
        yield f"its positions are {facts.positions!r}, BLIP's absolute"


def read_normalisation(folder: Path) -> tuple[Channels, Channels] | None:
    """Mean and deviation per channel, of values in 0…1, that a vision encoder's images had; None: it does not say.

    Raises:
        ModelError: they are not three numbers each.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        values = _read(path)
        if not values.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return (
            _channels(values.get("image_mean", _HALF), "image_mean", path),
            _channels(values.get("image_std", _HALF), "image_std", path),
        )
    path = folder / "config.json"
    values = _read(path)
    values = values.get("pretrained_cfg") or values  # timm's, in folders of today and of old
    if "mean" not in values or "std" not in values:
        return None
    return _channels(values["mean"], "mean", path), _channels(values["std"], "std", path)


def write_vision(folder: Path, config: VisionConfig, normalisation: tuple[Channels, Channels]) -> None:
    """Write `config.json` and `preprocessor_config.json` of a vision transformer, for transformers' `ViTModel`."""
    size, (mean, std) = config.image_size, normalisation
    facts = {
        "architectures": ["ViTModel"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.width,
        "image_size": size,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "layer_norm_eps": config.layer_norm_eps,
        "model_type": "vit",
        "num_attention_heads": config.heads,
        "num_channels": 3,
        "num_hidden_layers": config.depth,
        "patch_size": config.patch_size,
        "qkv_bias": True,
    }
    images = {"do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": list(mean)}
    images |= {"image_processor_type": "ViTImageProcessor", "image_std": list(std), "resample": 3}
    images |= {"size": {"height": size, "width": size}}
    for name, values in (("config.json", facts), ("preprocessor_config.json", images)):
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _channels(values: Sequence[float], name: str, path: Path) -> Channels:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: {name} must be three numbers, not {values!r}") from error
    return red, green, blue


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: not readable: {error}; put the file there that came with the weights, "
            "which alone do not tell how many heads they are for"
        ) from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: a JSON object is expected; copy it again from its source")
    return values
