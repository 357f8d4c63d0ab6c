import os
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from components.common.configfile import read_config
from components.common.errors import ConfigError


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    uri: str = Field(description="where the part lies")
    repeat: int = 1


class Train(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    lr: float = 3e-4
    steps: int = Field(10, gt=0)
    schedule: Literal["cosine", "linear"] = "cosine"
    parts: tuple[Part, ...] = ()


class Whole(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    pretrain: Train = Train()
    extra: Train | None = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text("name: a\npretrain:\n  lr: 1e-5\n")
    return path


def test_values_and_yaml_typed_overrides(path: Path) -> None:
    config = read_config(Whole, path, ["pretrain.steps=5", "extra.schedule=linear", "name='7'", "extra.lr=.5"])
    assert config.pretrain.lr == 1e-5
    assert config.pretrain.steps == 5
    assert config.extra == Train(lr=0.5, schedule="linear")
    assert config.name == "7"


def test_lists_and_null(path: Path) -> None:
    config = read_config(Whole, path, ["pretrain.parts=[{uri: s3://b/p, repeat: 2}]", "extra=null"])
    assert config.pretrain.parts == (Part(uri="s3://b/p", repeat=2),)
    assert config.extra is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.stepss=5", "unknown key `pretrain.stepss`; did you mean `pretrain.steps`?"),
        ("pretran.steps=5", "unknown key `pretran`; did you mean `pretrain`?"),
        ("lr=5", "unknown key `lr`; did you mean `pretrain.lr` or `extra.lr`?"),
        ("zzz=5", "unknown key `zzz`; valid here: name, pretrain, extra"),
        ("extra.stps=5", "unknown key `extra.stps`; did you mean `extra.steps`?"),
        ("pretrain.parts=[{uri: a, repet: 1}]", "unknown key `pretrain.parts.0.repet`; did you mean"),
        ("pretrain.parts=[{}]", "`pretrain.parts.0.uri` is missing: where the part lies"),
        ("pretrain.lr=fast", "`pretrain.lr`: Input should be a valid number"),
        ("pretrain.steps=0", "`pretrain.steps`: Input should be greater than 0, not 0"),
        ("pretrain.schedule=cosin", "'cosine' or 'linear', not 'cosin'"),
        ("pretrain.lr.x=1", "`lr` is a value, not a group"),
        ("pretrain.lr", "write it as key.inner=value"),
        ("=3", "write it as key.inner=value"),
        ("pretrain.lr=[1", "not valid YAML"),
    ],
)
def test_wrong_settings_are_named(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(Whole, path, [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "value"),
    [("pretrain.steps=010", 10), ("pretrain.steps=0x1F", 31), ("pretrain.lr=1e-4", 1e-4), ("pretrain.lr=.5", 0.5)],
)
def test_numbers_are_what_they_look_like(path: Path, override: str, value: float) -> None:
    """In PyYAML's own schema 010 is 8."""
    config = read_config(Whole, path, [override])
    assert value in (config.pretrain.steps, config.pretrain.lr)
    path.write_text(f"name: a\npretrain:\n  {override.partition('.')[2].replace('=', ': ')}\n")
    assert value in (read_config(Whole, path).pretrain.steps, read_config(Whole, path).pretrain.lr)


@pytest.mark.parametrize(
    "text", ["/data/run #3", "no", "1:30", "2026-01-01", "a: b #c", "yes", "/a%20b", "~/x", "données", "x # y"]
)
def test_texts_stay_what_they_are(path: Path, text: str) -> None:
    quoted = f"'{text}'" if ": " in text else text
    assert read_config(Whole, path, [f"name={quoted}"]).name == text


def test_what_would_be_a_comment_is_refused_where_it_is_no_text(path: Path) -> None:
    with pytest.raises(ConfigError, match="'# b' would be a comment"):
        read_config(Whole, path, ["pretrain.parts=[{uri: a}] # b"])


def test_a_pipe_is_refused_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"pipe: is no file.*save it as a file"):
        read_config(Whole, tmp_path / "pipe")


@pytest.mark.parametrize(
    ("override", "variable"),
    [
        ("name=s3://AKIA:wJalr/XUtn@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        ("pretrain.parts=[{uri: 'https://b.s3.amazonaws.com/x?X-Amz-Signature=wJalr'}]", "AWS_SECRET_ACCESS_KEY"),
        ("extra.uri=http://user:wJalr@mlflow:5000", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_credentials_are_refused_and_not_repeated(path: Path, override: str, variable: str) -> None:
    with pytest.raises(ConfigError, match=rf"credentials in a URI are refused.*{variable}") as error:
        read_config(Whole, path, [override])
    assert "wJalr" not in str(error.value)
    with pytest.raises(ConfigError) as error:
        read_config(Whole, path, [f"{override}]["])
    assert "wJalr" not in str(error.value)


def test_all_faults_at_once_with_the_file(path: Path) -> None:
    path.write_text("pretrain: {lr: x, stps: 3}\n")
    with pytest.raises(ConfigError) as error:
        read_config(Whole, path)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "given twice"),
        ("- 1\n", "must be a mapping"),
        ("name: [\n", "not valid YAML"),
        ("", "must be a mapping"),
        ("name: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    ],
)
def test_unreadable_files(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(Whole, path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        read_config(Whole, tmp_path / "none.yaml")
