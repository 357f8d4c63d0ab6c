"""Arithmetic under the names that people type."""

from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from components.common.identity import deciding
from components.common.precision import AUTOMATIC, SPELLINGS, Precision
from components.config import load_config
from components.evaluation.config import EvaluationConfig
from components.regeneration.config import CapfiltConfig
from components.training.config import TrainConfig


@pytest.mark.parametrize("config", [CapfiltConfig(), EvaluationConfig(), TrainConfig(steps=1)])
@pytest.mark.parametrize(
    ("typed", "name"),
    [("float32", "fp32"), ("bfloat16", "bf16"), ("BFloat16", "bf16"), ("fp32", "fp32"), ("auto", "auto")],
)
def test_every_config_takes_every_name(config: BaseModel, typed: str, name: str) -> None:
    given = type(config).model_validate(config.model_dump() | {"precision": typed})
    plain = type(config).model_validate(config.model_dump() | {"precision": name})
    assert given.precision == name  # type: ignore[attr-defined]
    assert deciding(given) == deciding(plain), "what is spelled otherwise is found done"


def test_fp16_is_for_inference() -> None:
    assert CapfiltConfig.model_validate({"precision": "float16"}).precision == "fp16"
    assert EvaluationConfig.model_validate({"precision": "fp16"}).precision == "fp16"
    with pytest.raises(ValidationError, match="'auto', 'fp32' or 'bf16'"):
        TrainConfig.model_validate({"steps": 1, "precision": "fp16"})


def test_no_name_is_taken_for_another() -> None:
    for typed in ("fp8", "float64", "", 16, None):
        with pytest.raises(ValidationError, match="precision"):
            CapfiltConfig.model_validate({"precision": typed})


def test_spellings_lead_to_names_that_there_are() -> None:
    names = get_args(Precision)
    assert set(SPELLINGS.values()) == set(names) > set(AUTOMATIC)
    for model in (CapfiltConfig, EvaluationConfig, TrainConfig):
        assert set(get_args(model.model_fields["precision"].annotation)) <= {"auto", *names}


def test_overrides_take_them_too() -> None:
    config = load_config(
        None, ["pretrain.precision=bfloat16", "capfilt.precision=float32", "evaluation.precision=auto"]
    )
    assert (config.pretrain.precision, config.capfilt.precision) == ("bf16", "fp32")
    assert config.evaluation.precision == "auto"
