"""Options made of config fields: the field's type, default and bounds, and nothing written twice."""

import re
import typing
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from capfilt.cli import datasets, images, measures, regenerate
from capfilt.cli.main import app
from capfilt.cli.options import Given, Option, Shown, field_at
from components.common.errors import ConfigError
from components.regeneration.config import CapfiltConfig

TODAY = {
    "regenerate": (
        "--web --captioner --filter --out --threshold --target-precision --calibration --calibration-images "
        "--bad-share --policy --text --extend --captions-per-image --decoding --top-p --top-k --beams --min-length "
        "--max-length --repetition-penalty --prompt --seed --dtype --batch-size --image-size --position-zero --engine "
        "--workers --limit --json --calibrated --score --keep --weigh --scorer --threshold-of --text-filter "
        "--concurrency --max-requests --max-answer-tokens --cascade --cascade-tolerance --cascade-sample "
        "--cascade-audit --cascade-web --cascade-synthetic --pilot --truth --retry"
    ),
    "caption": (
        "--model --captions-per-image --decoding --top-p --top-k --beams --min-length --max-length "
        "--repetition-penalty --prompt --seed --dtype --image-size --json"
    ),
    "match": "--model --text --position-zero --dtype --image-size --json",
    "retrieval": "--model --annotations --images --top-k --limit --dtype --position-zero --json",
    "dataset recut": "--out --threshold --policy --text --keep --weigh --score --threshold-of --text-filter --json",
}


@pytest.mark.parametrize("command", TODAY)
def test_no_option_is_lost(command: str) -> None:
    text = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
    shown = set(re.findall(r"^[│|*\s]+(--[a-z-]+)", text, re.MULTILINE))
    assert shown == {*TODAY[command].split(), "--help"}


@pytest.mark.parametrize(
    "shown",
    [regenerate.SETTINGS, images.CAPTION, images.MATCH, measures.RETRIEVAL, datasets.RECUT],
    ids=["regenerate", "caption", "match", "retrieval", "recut"],
)
def test_what_is_not_typed_is_the_config_as_it_stands(shown: "Shown[Any]") -> None:
    """Two defaults of `retrieval` aside, which are its own."""
    typed: list[Given[Any]] = []
    one = typer.Typer()
    one.command()(shown(lambda given: typed.append(given)))
    assert CliRunner().invoke(one, []).exit_code == 0
    config, own = typed[0].config(), shown.model()
    for option in shown.options:
        wanted = {"retrieval.top_k": 128, "position_zero": "enc"} if shown is measures.RETRIEVAL else {}
        value, default = config, own
        for part in option.key.split("."):
            value, default = getattr(value, part, None), getattr(default, part, None)  # of a group left out: nothing
        assert value == wanted.get(option.key, default), option.key


def test_values_reach_their_fields() -> None:
    typed: list[Given[CapfiltConfig]] = []
    one = typer.Typer()
    one.command()(regenerate.SETTINGS(lambda given: typed.append(given)))
    options = ["--decoding", "beam", "--beams", "5", "--bad-share", "0.3", "--dtype", "bf16", "--threshold", "0.25"]
    assert CliRunner().invoke(one, [*options, "--limit", "7"]).exit_code == 0
    config = typed[0].config()
    assert (config.decoding.method, config.decoding.beams, config.calibration.bad_share) == ("beam", 5, 0.3)
    assert (config.precision, config.threshold, config.limit) == ("bf16", 0.25, 7)


@pytest.mark.parametrize(("typed", "name"), [("bfloat16", "bf16"), ("float32", "fp32"), ("auto", "auto"), ("", "auto")])
def test_precisions_may_be_typed_as_torch_calls_them(typed: str, name: str) -> None:
    read: list[Given[CapfiltConfig]] = []
    one = typer.Typer()
    one.command()(regenerate.SETTINGS(lambda given: read.append(given)))
    assert CliRunner().invoke(one, ["--dtype", typed] if typed else []).exit_code == 0
    assert read[0].config().precision == name
    refused = CliRunner().invoke(one, ["--dtype", "fp8"], env={"COLUMNS": "150"})
    assert refused.exit_code == 2 and "'fp8' is not one of 'auto', 'fp32', 'bf16', 'fp16'" in refused.output


def test_choices_are_shown_and_every_field_is_described() -> None:
    text = CliRunner().invoke(app, ["regenerate", "--help"], env={"COLUMNS": "250"}).output
    for key in ("policy", "decoding.method", "precision", "engine", "position_zero"):
        assert f"<{'|'.join(typing.get_args(field_at(CapfiltConfig, key).annotation))}>" in text
    assert "null" not in text
    for option in regenerate.SETTINGS.options:
        assert field_at(CapfiltConfig, option.key).description


def test_shells_complete_choices() -> None:
    typed = {"_CAPFILT_COMPLETE": "complete_bash", "COMP_WORDS": "capfilt caption --decoding ", "COMP_CWORD": "3"}
    assert CliRunner().invoke(app, [], env=typed, prog_name="capfilt").output.split() == ["greedy", "beam", "nucleus"]
    typed["COMP_WORDS"] = "capfilt caption --dtype "
    shown = CliRunner().invoke(app, [], env=typed, prog_name="capfilt").output.split()
    assert shown == ["auto", "fp32", "bf16", "fp16"]


def test_faults_name_options_as_they_are_typed() -> None:
    given = Given(regenerate.SETTINGS, {"target_precision": 0.4, "calibration.bad_share": 0.5, "decoding.top_p": 2.0})
    with pytest.raises(ConfigError, match="--top-p: Input should be less than or equal to 1, not 2.0"):
        given.config()
    given = Given(regenerate.SETTINGS, {"target_precision": 0.4, "calibration.bad_share": 0.5})
    with pytest.raises(ConfigError, match="--target-precision 0.4 asks for no filter: with a --bad-share of 0.5"):
        given.config()


def test_a_key_that_is_none_is_a_defect_at_once() -> None:
    class Settings(BaseModel):
        limit: int = 3

    with pytest.raises(KeyError):
        Shown(Settings, "limits")(lambda given: None)
    with pytest.raises(TypeError, match="no group of settings"):
        Shown(Settings, Option("limit.inner"))(lambda given: None)
