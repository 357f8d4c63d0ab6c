import pytest
import torch

from components.common.errors import ModelError
from components.model.config import VisionConfig
from components.model.vision import Block, VisionTransformer, resize_positions

TINY = VisionConfig(image_size=32, patch_size=8, width=16, depth=3, heads=2)
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_all_tokens_come_back_with_cls_first():
    model = VisionTransformer(TINY).eval()
    tokens = model(PIXELS)
    assert tokens.shape == (2, 17, 16)
    with torch.no_grad():
        model.positions[:, 0] += 1.0
    changed = (model(PIXELS) - tokens).abs().sum((0, 2))
    assert changed.argmax() == 0


def test_images_of_another_size_are_refused():
    with pytest.raises(ModelError, match="image size 32"):
        VisionTransformer(TINY)(torch.zeros(1, 3, 64, 64))


def test_recomputing_blocks_changes_no_gradient():
    torch.manual_seed(0)
    plain = VisionTransformer(TINY)
    recomputed = VisionTransformer(TINY.model_copy(update={"checkpoint_layers": 2}))
    recomputed.load_state_dict(plain.state_dict())
    for model in (plain, recomputed):
        model.double().train()(PIXELS.double()).square().sum().backward()
    for own, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_stochastic_depth_keeps_the_mean_and_is_off_in_eval():
    torch.manual_seed(0)
    block = Block(TINY, drop_path=0.4)
    branch = torch.ones(20_000, 1, 1)
    dropped = block.train()._skip(branch)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(block.eval()._skip(branch), branch)


def test_stochastic_depth_grows_linearly():
    blocks = VisionTransformer(TINY.model_copy(update={"drop_path": 0.2})).blocks
    assert [block.drop_path for block in blocks] == [0.0, 0.1, 0.2]


def test_positions_resize_bicubically_and_keep_cls():
    rows = torch.randn(1, 17, 8)
    resized = resize_positions(rows, 36)
    assert resized.shape == (1, 37, 8)
    assert torch.equal(resized[:, 0], rows[:, 0])
    assert resize_positions(rows, 16) is rows
    constant = resize_positions(torch.full((1, 17, 8), 0.5), 64)
    torch.testing.assert_close(constant, torch.full((1, 65, 8), 0.5))
    with pytest.raises(ModelError, match="square"):
        resize_positions(rows, 30)
