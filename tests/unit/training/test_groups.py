"""Which learning rate each parameter gets, and what is frozen."""

import pytest
import torch
from torch import nn

from components.model.blip import BlipCaptioner, BlipPretrain
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.groups import freeze, places
from components.training.config import OptimConfig
from components.training.engine import build_optimizer

CONFIG = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=16, width=16, depth=3, heads=2),
    text=TextConfig(
        vocab_size=40, width=16, depth=2, heads=2, intermediate=32, max_positions=16, pad_id=0, cls_id=1, sep_id=2,
        dec_id=38, enc_id=39,
    ),
    embed_dim=8,
    queue_size=0,
)  # fmt: skip


class Wrapped(nn.Module):
    """A model inside an objective, as trainings have it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def rates(module: nn.Module, config: OptimConfig) -> dict[str, float]:
    """The learning rate of every parameter that the optimizer has."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = build_optimizer(module, config).param_groups
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


EXPECTED = {  # part and distance from its output
    "vision_model.cls": ("vision", 4),
    "vision_model.positions": ("vision", 4),
    "vision_model.patch.weight": ("vision", 4),
    "vision_model.blocks.0.attention.qkv.weight": ("vision", 3),
    "vision_model.blocks.2.fc2.bias": ("vision", 1),
    "vision_model.norm.weight": ("vision", 0),
    "text.words.weight": ("text", 3),
    "text.positions.weight": ("text", 3),
    "text.norm.bias": ("text", 3),
    "text.layers.0.encoder_attention.qkv.weight": ("text", 2),
    "text.layers.1.decoder_attention.norm.weight": ("text", 1),
    "text.layers.1.fc1.weight": ("text", 1),
    "text.layers.1.norm.weight": ("text", 1),
    "text.layers.0.cross_attention.key_value.weight": ("fresh", 0),
    "text.layers.1.cross_attention.norm.bias": ("fresh", 0),
    "text.head.dense.weight": ("fresh", 0),
    "text.head.bias": ("fresh", 0),
    "vision_proj.weight": ("fresh", 0),
    "text_proj.weight": ("fresh", 0),
    "itm_head.bias": ("fresh", 0),
    "temperature": ("fresh", 0),
}


@pytest.mark.parametrize("inside", ["", "model."])
def test_places(inside: str) -> None:
    model = BlipPretrain(CONFIG)
    found = places(Wrapped(model) if inside else model)
    assert {name: tuple(found[inside + name]) for name in EXPECTED} == EXPECTED


def test_groups_have_their_rates() -> None:
    module = Wrapped(BlipPretrain(CONFIG))
    found = rates(module, OptimConfig(lr=1.0, lr_vision=0.1, lr_text=0.5, layer_decay=0.8))
    assert found.keys() == dict(module.named_parameters()).keys()
    part_rate = {"vision": 0.1, "text": 0.5, "fresh": 1.0}
    for name, (part, height) in EXPECTED.items():
        assert found[f"model.{name}"] == pytest.approx(part_rate[part] * 0.8**height), name


def test_a_captioners_groups_have_theirs() -> None:
    found = rates(Wrapped(BlipCaptioner(CONFIG)), OptimConfig(lr=1.0, lr_vision=0.1, lr_text=0.5))
    assert found["model.text.layers.0.decoder_attention.qkv.weight"] == 0.5
    assert found["model.vision_model.norm.weight"] == 0.1
    assert found["model.text.layers.0.cross_attention.query.weight"] == found["model.text.head.bias"] == 1.0


@pytest.mark.parametrize("decay_everything", [False, True])
def test_by_default_there_are_the_two_groups_of_old(decay_everything: bool) -> None:
    module = BlipPretrain(CONFIG)
    config = OptimConfig(lr=3e-4, decay_everything=decay_everything)
    groups = build_optimizer(module, config).param_groups
    matrices = [p for p in module.parameters() if p.ndim >= 2 or decay_everything]
    plain = [p for p in module.parameters() if p.ndim < 2 and not decay_everything]
    expected = [part for part in (matrices, plain) if part]
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in part] for part in expected]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0][: len(expected)]
    assert {group["lr"] for group in groups} == {3e-4}
    assert {group["lr_factor"] for group in groups} == {1.0}


def test_decay_is_kept_apart_within_a_rate() -> None:
    module = BlipPretrain(CONFIG)
    groups = build_optimizer(module, OptimConfig(lr_vision=0.5)).param_groups
    assert [(group["weight_decay"], group["lr_factor"]) for group in groups] == [
        (0.05, 0.5), (0.05, 1.0), (0.0, 0.5), (0.0, 1.0)
    ]  # fmt: skip
    for group in groups:
        assert all((parameter.ndim >= 2) is (group["weight_decay"] > 0) for parameter in group["params"])


@pytest.mark.parametrize(("parts", "still"), [(("vision",), {"vision"}), (("vision", "text"), {"vision", "text"})])
def test_what_is_frozen_does_not_move(parts: tuple[str, ...], still: set[str]) -> None:
    module = BlipPretrain(CONFIG)
    freeze(module, parts)
    optimizer = build_optimizer(module, OptimConfig(lr=0.1, freeze=parts))
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    kv, features = module.image_features(torch.randn(2, 3, 32, 32))
    ids = torch.randint(3, 38, (2, 5))
    loss = features.sum() + module.text_features(ids).sum() + module.match_logits(ids, None, kv).sum()
    (loss * module.temperature + module.logits(ids, None, kv).pow(2).sum()).sum().backward()
    optimizer.step()
    moved = {name: not torch.equal(parameter, before[name]) for name, parameter in module.named_parameters()}
    for name, place in places(module).items():
        if place.part in still:
            assert not moved[name], name
    assert {place.part for name, place in places(module).items() if moved[name]} == {"vision", "text", "fresh"} - still
