"""The label objective against loops written out, and the folder it leaves against transformers' ViTModel."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.config import load_config
from components.data.decoding import CLIP_MEAN, CLIP_STD
from components.model.config import VisionConfig
from components.model.encoder_facts import read_normalisation
from components.model.encoders import model_from_encoders, save_vision
from components.model.labelling import LabelBatch, LabelObjective, ninths
from components.model.vision import VisionTransformer

CONFIG = VisionConfig(image_size=36, patch_size=6, width=16, depth=2, heads=2, initializer_range=0.2)
THINGS, GROUND, DEPTH = {"shape": 5, "colour": 3}, {"ground": 4, "pattern": 2}, 2


@pytest.fixture
def objective() -> LabelObjective:
    torch.manual_seed(0)
    return LabelObjective(VisionTransformer(CONFIG), THINGS, GROUND, DEPTH)


@pytest.fixture
def batch() -> LabelBatch:
    torch.manual_seed(1)
    things = torch.stack([torch.randint(0, 5, (4, 9, 2)), torch.randint(0, 3, (4, 9, 2))], dim=-1)
    things[torch.rand(4, 9, 2) < 0.7] = -1
    ground = torch.stack([torch.randint(0, 4, (4,)), torch.randint(0, 2, (4,))], dim=-1)
    return LabelBatch(torch.randn(4, 3, 36, 36), things, ground)


def test_ninths_are_means_of_the_patches_in_them() -> None:
    patches = torch.randn(2, 36, 5)
    for row in range(3):
        for column in range(3):
            inside = [6 * y + x for y in (2 * row, 2 * row + 1) for x in (2 * column, 2 * column + 1)]
            mean = patches[:, inside].mean(dim=1)
            torch.testing.assert_close(ninths(patches)[:, 3 * row + column], mean)


def entropy(logits: Tensor, wanted: int) -> float:
    values = logits.double().tolist()
    return math.log(sum(math.exp(value) for value in values)) - values[wanted]


def test_losses_equal_loops_over_things_and_attributes(objective: LabelObjective, batch: LabelBatch) -> None:
    found = objective(batch)
    tokens = objective.vision_model(batch.pixels)
    by_ninth = objective.ninth_head(ninths(tokens[:, 1:]))
    whole = objective.picture_head(tokens[:, 0]).view(4, 9, -1)
    ground = objective.ground_head(tokens[:, 0])
    sizes, there = (6, 3), 0
    sums, right = {"ninths": 0.0, "picture": 0.0}, 0
    for b in range(4):
        for place in range(9):
            for depth in range(DEPTH):
                shape, colour = batch.things[b, place, depth].tolist()
                there += shape >= 0
                for name, logits in (("ninths", by_ninth), ("picture", whole)):
                    per_attribute = logits[b, place].view(DEPTH, sum(sizes))[depth].split(sizes)
                    sums[name] += entropy(per_attribute[0], shape if shape >= 0 else 5)
                    if shape >= 0:
                        sums[name] += entropy(per_attribute[1], colour)
                    if name == "ninths" and shape >= 0:
                        right += int(per_attribute[0].argmax()) == shape
    of_ground = sum(
        entropy(part, int(batch.ground[b, at])) for b in range(4) for at, part in enumerate(ground[b].split([4, 2]))
    )
    assert float(found["loss_ninths"]) == pytest.approx(sums["ninths"] / there, rel=1e-5)
    assert float(found["loss_picture"]) == pytest.approx(sums["picture"] / there, rel=1e-5)
    assert float(found["loss_ground"]) == pytest.approx(of_ground / 4, rel=1e-5)
    assert float(found["shape_accuracy"]) == pytest.approx(right / there)
    parts = sum(float(value) for name, value in found.items() if name.startswith("loss_"))
    assert found["loss"].item() == pytest.approx(parts, rel=1e-5)


def test_a_saved_vision_transformer_is_transformers_vit_model(objective: LabelObjective, tmp_path: Path) -> None:
    from transformers import ViTModel

    vision = objective.vision_model.eval()
    save_vision(vision, tmp_path / "vit", (CLIP_MEAN, CLIP_STD))
    theirs = ViTModel.from_pretrained(tmp_path / "vit", add_pooling_layer=False).eval()
    pixels = torch.randn(2, 3, 36, 36)
    with torch.no_grad():
        torch.testing.assert_close(vision(pixels), theirs(pixels).last_hidden_state, atol=1e-5, rtol=1e-5)
    assert read_normalisation(tmp_path / "vit") == (CLIP_MEAN, CLIP_STD)


def test_the_command_writes_a_folder_that_a_model_starts_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from components.training.seeing import main

    size = {"image_size": 36, "patch_size": 6, "width": 16, "depth": 1, "heads": 2}
    settings = {"vision": size, "steps": 3, "batch_size": 4, "pictures": 6, "tested": 4, "optim": {"lr": 1e-3}}
    main([str(tmp_path / "vit"), "--config", json.dumps(settings)])
    shares = json.loads(capsys.readouterr().out)
    assert set(shares) == {f"{name}_accuracy" for name in ("shape", "colour", "size", "texture")}
    network = load_config(None).model.with_vision(**size).with_text(vocab_size=50)
    first = model_from_encoders(network, vision=tmp_path / "vit", text=None, seed=0)
    again = model_from_encoders(network, vision=tmp_path / "vit", text=None, seed=1)
    assert torch.equal(first.vision_model.blocks[0].fc1.weight, again.vision_model.blocks[0].fc1.weight)
    assert not torch.equal(first.vision_proj.weight, again.vision_proj.weight)


def test_patches_that_cross_the_thirds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from components.training.seeing import main

    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--config", '{"vision": {"image_size": 72, "patch_size": 18, "width": 16, "heads": 2}}'])
    assert "4 patches a side do not go into thirds" in capsys.readouterr().err


def test_the_sample_starts_from_the_shipped_encoder() -> None:
    config = load_config(None)
    folder = Path(str(config.encoders.vision))
    assert folder.is_dir()
    model = model_from_encoders(config.model.with_text(vocab_size=50), vision=folder, text=None, seed=0)
    assert model.vision_model.config == config.model.vision
    assert load_config(None, ["encoders.vision=null", "pretrain.optim.freeze=[]"]).encoders.vision is None
    assert load_config(None, ["encoders.vision=/elsewhere/vit"]).encoders.vision == "/elsewhere/vit"
