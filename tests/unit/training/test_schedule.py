"""The learning rate at steps that can be worked out by hand."""

import pytest

from components.training.config import OptimConfig
from components.training.schedule import learning_rate


def rate(config: OptimConfig, step: int, total: int = 100, per_epoch: float = 10.0) -> float:
    return learning_rate(config, step, total_steps=total, steps_per_epoch=per_epoch)


def test_warm_up_is_linear_and_crosses_epochs() -> None:
    config = OptimConfig(lr=1.0, warmup_lr=0.0, warmup_steps=20, schedule="constant")
    assert [rate(config, step) for step in (0, 5, 10, 19, 20, 99)] == pytest.approx([0, 0.25, 0.5, 0.95, 1, 1])


def test_the_reference_cuts_its_warm_up_off_after_the_first_epoch() -> None:
    config = OptimConfig(lr=1.0, warmup_lr=0.0, warmup_steps=20, schedule="constant", warmup_first_epoch_only=True)
    assert [rate(config, step) for step in (9, 10)] == pytest.approx([0.45, 1.0])


def test_cosine_ends_at_min_lr() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.2, warmup_steps=20)
    assert rate(config, 20) == pytest.approx(1.0)
    assert rate(config, 60) == pytest.approx(0.6)
    assert rate(config, 100) == pytest.approx(0.2)


def test_cosine_per_epoch_moves_in_stairs() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.0, cosine_per_epoch=True)
    assert rate(config, 50) == rate(config, 59) == pytest.approx(0.5)
    assert rate(config, 60) < 0.5


def test_exponential_is_the_references_pre_training() -> None:
    """docs/facts.md 8: max(1e-6, 3e-4 * 0.9^epoch), 4.05e-5 in the last of 20 epochs."""
    config = OptimConfig(lr=3e-4, min_lr=1e-6, schedule="exponential", decay_rate=0.9)
    assert rate(config, 199, total=200) == pytest.approx(4.05e-5, rel=1e-3)
    assert rate(config, 2000, total=2001) == 1e-6
