"""Whatever decides what a captioner writes or a scorer says is in the plan's fingerprint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.inference import families
from components.model.checkpoints.publishing import reference_model
from components.regeneration import outcomes
from components.regeneration.config import CapfiltConfig
from components.regeneration.lineup import settled_models
from components.regeneration.plan import Plan, WebInput

FILES = (
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
)


def folder(path: Path, model_type: str) -> Path:
    """What a plan reads of a model: its files, none of which is opened but config.json."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name in FILES:
        (path / name).write_text(name)
    return path


@pytest.fixture
def fingerprint(tmp_path: Path) -> Callable[..., str]:
    writer, judge = folder(tmp_path / "captioner", "qwen3_vl"), folder(tmp_path / "filter", "siglip2")
    other = folder(tmp_path / "scorer", "clip")

    def found(**settings: Any) -> str:
        config = CapfiltConfig.model_validate({"threshold": 0.1, "precision": "fp32", **settings})
        refs = [reference_model(str(writer), "captioner"), reference_model(str(judge), "filter")]
        scorers = {"clip": reference_model(str(other), "filter")}
        config, more = settled_models(refs[0], refs[1], scorers, config)
        return Plan(WebInput("web", "w" * 64, ()), refs[0], refs[1], config, **more).fingerprint

    return found


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("role", ["captioner", "filter", "scorer"])
def test_every_file_that_transformers_reads(
    role: str, name: str, fingerprint: Callable[..., str], tmp_path: Path
) -> None:
    before = fingerprint()
    (tmp_path / role / "README.md").write_text("nobody reads it")
    assert fingerprint() == before
    (tmp_path / role / name).write_text("other")
    assert fingerprint() != before


def test_prompt_decoding_and_arithmetic(fingerprint: Callable[..., str]) -> None:
    prompt = families.CAPTIONERS["qwen3_vl"].decoding["prompt"]
    assert fingerprint() == fingerprint(decoding={"prompt": prompt, "max_length": 96}), "a family's own, written out"
    other = [{"prompt": "What is this?"}, {"max_length": 95}, {"min_length": 1}, {"repetition_penalty": 1.1}]
    other += [{"method": "beam"}, {"method": "nucleus"}, {"method": "nucleus", "top_p": 0.5}]
    found = [fingerprint(), fingerprint(precision="bf16"), *(fingerprint(decoding=one) for one in other)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("where", "what", "value"),
    [
        (families, "version", lambda package: "6.0.0"),
        (families, "WHOLE_SIDE", 512),
        (families, "REVISION", 99),
        (families, "WRITERS_REVISION", 99),
        (outcomes, "REVISION", 99),
    ],
)
def test_the_library_how_images_are_processed_and_how_captions_are_checked(
    where: Any, what: str, value: Any, fingerprint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint()
    monkeypatch.setattr(where, what, value)
    assert fingerprint() != before
