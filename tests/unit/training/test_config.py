"""What a training config accepts, and the DeepSpeed settings that come of it."""

import pytest
from pydantic import ValidationError

from components.common.errors import ConfigError
from components.training import engine
from components.training.config import DeepSpeedConfig, TrainConfig
from components.training.engine import check_compiler, deepspeed_config


def test_zero_3_is_refused_with_the_reason_wherever_it_is_asked_for() -> None:
    for values in ({"zero_stage": 3}, {"extra": {"zero_optimization": {"stage": 3}}}):
        with pytest.raises(ValidationError, match="zero_stage 3 is refused: it empties parameters"):
            DeepSpeedConfig.model_validate(values)
    with pytest.raises(ValidationError, match="must be 0, 1 or 2"):
        DeepSpeedConfig(zero_stage=4)


def test_exactly_one_length() -> None:
    for values in ({}, {"steps": 1, "epochs": 1.0}):
        with pytest.raises(ValidationError, match="exactly one of steps"):
            TrainConfig.model_validate(values)
    with pytest.raises(ValidationError, match="longer than steps"):
        TrainConfig.model_validate({"steps": 5, "optim": {"warmup_steps": 6}})


def test_users_deepspeed_keys_are_merged_over_ours() -> None:
    config = TrainConfig.model_validate(
        {
            "steps": 1,
            "precision": "bf16",
            "deepspeed": {"zero_stage": 2, "extra": {"zero_optimization": {"overlap_comm": False}, "seed": 3}},
        }
    )
    settings = deepspeed_config(config, accumulation=4)
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["seed"] == 3
    assert settings["torch_autocast"]["dtype"] == "bfloat16"
    assert "torch_autocast" not in deepspeed_config(TrainConfig(steps=1), accumulation=1)


def test_reference_quirks_set_the_named_options() -> None:
    quirky = TrainConfig(steps=1, reference_quirks=True)
    pretraining, finetuning = quirky.with_quirks("pretrain"), quirky.with_quirks("filter")
    assert pretraining.optim.warmup_first_epoch_only
    assert pretraining.optim.decay_everything
    assert not pretraining.joint_positives
    assert pretraining.same_image_negatives
    assert finetuning.joint_positives
    assert not finetuning.same_image_negatives
    for config in (pretraining, finetuning):
        assert config.teacher_dropout
        assert config.randaugment_as_released
    plain = TrainConfig(steps=1)
    assert plain.with_quirks("pretrain") is plain


def test_a_missing_compiler_is_named_with_its_remedy_only_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.shutil, "which", lambda *args, **kwargs: None)
    check_compiler(TrainConfig(steps=1))
    with pytest.raises(
        ConfigError, match=r"compile compile.* lacks a C\+\+ compiler \(`apt-get install g\+\+`\), ninja"
    ):
        check_compiler(TrainConfig(steps=1, compile=True))
