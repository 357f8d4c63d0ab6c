"""Learning to see before reading: a vision transformer that names what pictures show, as an ImageNet ViT does.

Pictures are labelled by ninths (components/data/sampleworld/labels.py). Every ninth is named from the patches in it,
and the whole picture once more from [CLS], which the contrast with texts will read. The heads are thrown away.

Shapes: B pictures, S image side, N patches, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.model.vision import VisionTransformer, init_weights

_IGNORED = -100
_SIDE = 3


@dataclass(frozen=True)
class LabelBatch:
    """One micro-batch on the model's device.

    Attributes:
        pixels: normalised pictures, float `[B, 3, S, S]`.
        things: int64 `[B, 9, depth, attributes]`, -1 where no thing is.
        ground: int64 `[B, attributes of the ground]`.
    """

    pixels: Tensor
    things: Tensor
    ground: Tensor

    def to(self, device: torch.device | str) -> "LabelBatch":
        """The batch on a device."""
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in ("pixels", "things", "ground")}
        return replace(self, **moved)


class LabelObjective(nn.Module):
    """Cross-entropy of all labels.

    Args:
        vision: what learns, with patches that none of the picture's thirds cuts through.
        of_a_thing: number of values of each attribute of a thing, by name; the first also tells that there is none.
        of_the_ground: the same of the ground.
        depth: things that can lie in one ninth.
    """

    def __init__(
        self, vision: VisionTransformer, of_a_thing: Mapping[str, int], of_the_ground: Mapping[str, int], depth: int
    ) -> None:
        super().__init__()
        self.vision_model = vision
        self._things, self._ground, self._depth = dict(of_a_thing), dict(of_the_ground), depth
        first, *others = of_a_thing.values()
        self._sizes = [first + 1, *others]
        width, named = vision.config.width, depth * sum(self._sizes)
        self.ninth_head = nn.Linear(width, named)
        self.picture_head = nn.Linear(width, _SIDE**2 * named)
        self.ground_head = nn.Linear(width, sum(of_the_ground.values()))
        for head in (self.ninth_head, self.picture_head, self.ground_head):
            init_weights(head, vision.config.initializer_range)

    def forward(self, batch: LabelBatch) -> dict[str, Tensor]:
        """`loss`, its parts `loss_ninths`, `loss_picture`, `loss_ground`, and each attribute's share of right names."""
        tokens = self.vision_model(batch.pixels)
        by_ninth = self._split(self.ninth_head(ninths(tokens[:, 1:])))
        whole = self.picture_head(tokens[:, 0]).view(len(tokens), _SIDE**2, -1)
        grounds = self.ground_head(tokens[:, 0]).split(list(self._ground.values()), dim=-1)
        wanted = [_wanted(batch.things[..., at], none=size) for at, size in enumerate(self._things.values())]
        wanted[1:] = [labels.masked_fill(batch.things[..., 0] < 0, _IGNORED) for labels in wanted[1:]]
        there = batch.things[..., 0] >= 0
        losses = {
            "loss_ninths": _named(by_ninth, wanted, there),
            "loss_picture": _named(self._split(whole), wanted, there),
            "loss_ground": _ground_loss(grounds, batch.ground),
        }
        right = {
            f"{name}_accuracy": _share_right(logits, labels, there)
            for name, logits, labels in zip(self._things, by_ninth, wanted, strict=True)
        }
        total = torch.stack(tuple(losses.values())).sum()
        return {"loss": total} | {name: value.detach() for name, value in (losses | right).items()}

    def _split(self, logits: Tensor) -> Sequence[Tensor]:
        """Logits `[B, 9, depth * sizes]` to `[B, 9, depth, size]` per attribute."""
        by_depth = logits.view(*logits.shape[:2], self._depth, -1)
        parts: Sequence[Tensor] = by_depth.split(self._sizes, dim=-1)  # type: ignore[no-untyped-call]
        return parts


def ninths(patches: Tensor) -> Tensor:
    """Means of the patches `[B, N, D]` in each ninth of the picture: `[B, 9, D]`, row by row."""
    inside = round(patches.shape[1] ** 0.5) // _SIDE
    grid = patches.reshape(len(patches), _SIDE, inside, _SIDE, inside, -1)
    return grid.mean(dim=(2, 4)).flatten(1, 2)


def _wanted(labels: Tensor, none: int) -> Tensor:
    return labels.masked_fill(labels < 0, none)


def _named(logits: Sequence[Tensor], wanted: Sequence[Tensor], there: Tensor) -> Tensor:
    """Cross-entropy summed over attributes and places, per thing that is there."""
    sums = [
        functional.cross_entropy(one.flatten(0, 2), labels.flatten(), ignore_index=_IGNORED, reduction="sum")
        for one, labels in zip(logits, wanted, strict=True)
    ]
    return torch.stack(sums).sum() / there.sum().clamp(min=1)


def _ground_loss(logits: Sequence[Tensor], wanted: Tensor) -> Tensor:
    return torch.stack([functional.cross_entropy(one, wanted[:, at]) for at, one in enumerate(logits)]).sum()


def _share_right(logits: Tensor, wanted: Tensor, there: Tensor) -> Tensor:
    return ((logits.argmax(dim=-1) == wanted) & there).sum() / there.sum().clamp(min=1)
