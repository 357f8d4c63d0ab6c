"""Which parameters came with an encoder and which start fresh, so that each can learn at a rate of its own.

`vision` is the vision transformer; `text` what BERT has: embeddings, self-attention of both roles, feed-forward blocks.
`fresh` is everything else: cross-attention, projections, language head, matching head, temperature.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from torch import nn

Part = Literal["vision", "text", "fresh"]
Encoder = Literal["vision", "text"]

_VISION = re.compile(r"(?:^|\.)vision_model\.(?:blocks\.(\d+)\.)?")
_TEXT = re.compile(
    r"(?:^|\.)text(?:_encoder|_decoder)?\.(?:layers\.(\d+)\.(?!cross_attention)|(?:words|positions|norm)\.)"
)
_OUTPUT = re.compile(r"(?:^|\.)vision_model\.norm\.")


class Place(NamedTuple):
    """Where a parameter sits: in which part, and how many layers from the part's output, 0 at the output itself."""

    part: Part
    height: int


def places(module: nn.Module) -> dict[str, Place]:
    """The place of every parameter, by its name in `module`, which may hold a BLIP model anywhere inside.

    The last layer of an encoder is 1 from its output, embeddings are one further than the first layer, and the vision
    transformer's last norm is at the output: layer-wise decay as BEiT has it (arXiv 2106.08254).
    """
    names = [name for name, _ in module.named_parameters()]
    found = {name: _part_and_layer(name) for name in names}
    depths = _depths(found.values())
    return {name: Place(part, _height(name, layer, depths.get(part, 0))) for name, (part, layer) in found.items()}


def freeze(module: nn.Module, parts: Iterable[Encoder]) -> None:
    """Let the parameters of these parts stay as they are: they get no gradient."""
    chosen, where = set(parts), places(module)
    for name, parameter in module.named_parameters():
        if where[name].part in chosen:
            parameter.requires_grad_(False)


def _part_and_layer(name: str) -> tuple[Part, int | None]:
    """The part a parameter belongs to, and its layer; None outside of layers."""
    if match := _VISION.search(name):
        return "vision", None if match[1] is None else int(match[1])
    if match := _TEXT.search(name):
        return "text", None if match[1] is None else int(match[1])
    return "fresh", None


def _depths(found: Iterable[tuple[Part, int | None]]) -> Mapping[Part, int]:
    depths: dict[Part, int] = {}
    for part, layer in found:
        depths[part] = max(depths.get(part, 0), 0 if layer is None else layer + 1)
    return depths


def _height(name: str, layer: int | None, depth: int) -> int:
    if layer is not None:
        return depth - layer
    return 0 if depth == 0 or _OUTPUT.search(name) else depth + 1
