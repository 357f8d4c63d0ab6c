"""What the terminal needs beside the commands' work: settings told, shells completed, ports, commands to be typed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from capfilt.cli.describe import settings
from capfilt.cli.main import app
from capfilt.cli.place import config_at
from capfilt.cli.ui import _port
from components.common.errors import ConfigError
from components.common.programs import program, typeable
from components.config import CONFIGS, SAMPLE_CONFIG
from components.inference.roles import role_of
from components.regeneration.config import CapfiltConfig

BIN = Path(sys.executable).parent


def _call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def _flat(values: dict[str, object], group: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        key = f"{group}{name}"
        found |= _flat(value, f"{key}.") if isinstance(value, dict) and value else {key: value}
    return found


def test_version() -> None:
    result = _call("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("capfilt 0.")


def test_every_setting_of_the_configs_is_described() -> None:
    known = {one.key: one for one in settings()}
    tables = {key.rpartition(".")[0] for key in known} | set(known)
    for path in CONFIGS.rglob("*.yaml"):
        for key in _flat({**yaml.safe_load(path.read_text()), "extends": None}):
            assert key == "extends" or any(key == one or key.startswith(f"{one}.") for one in tables), (path, key)
    for one in known.values():
        assert one.description, one.key
        assert one.type and "<class" not in one.type and "typing" not in one.type, one


def test_defaults_are_those_of_the_config() -> None:
    known = {one.key: one for one in settings()}
    capfilt = _flat(CapfiltConfig().model_dump(mode="json"), "capfilt.")
    assert {key: known[key].default for key in capfilt if key in known} == {
        key: value for key, value in capfilt.items() if key in known
    }
    assert len(capfilt.keys() & known.keys()) > 30
    seed, store = known["seed"], known["store"]
    assert (seed.default, seed.decides, seed.type) == (0, True, "whole number, at least 0")
    assert (store.default, store.decides) == ("required", False)
    assert "a store that was moved" in store.decides_not_because


def test_a_setting_for_people() -> None:
    text = _call("config", "describe", "capfilt.policy").stdout
    assert "keep_both" in text
    assert "--set capfilt.policy=" in text
    group = _call("config", "describe", "tracking").stdout
    assert "tracking.uri" in group and "tracking.experiment" in group
    wrong = _call("config", "describe", "pretrain.stepz", "--json")
    assert wrong.exit_code == 2
    assert "did you mean pretrain.steps" in json.loads(wrong.stdout)["error"]


def test_bash_completes_commands_and_options() -> None:
    script = subprocess.run([BIN / "capfilt", "completion", "bash"], capture_output=True, text=True, check=True).stdout
    typed = "COMP_WORDS=(capfilt dataset ver); COMP_CWORD=2; _capfilt_completion capfilt; echo ${COMPREPLY[@]}"
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{script}\n{typed}"], env=environment, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == ["verify", "versions"], done.stderr


def test_there_is_one_way_to_completion() -> None:
    assert "-completion" not in _call("--help").stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_that_says_how_it_is_used(shell: str) -> None:
    result = _call("completion", shell)
    assert result.exit_code == 0
    assert "_CAPFILT_COMPLETE" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("# ")
    assert f"completion {shell}" in result.stdout.splitlines()[-1]


def test_commands_in_messages_can_be_typed_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/capfilt").touch()
    monkeypatch.chdir(tmp_path)
    assert program("capfilt") == ".venv/bin/capfilt"
    assert typeable("run `capfilt store upgrade x` once") == "run `.venv/bin/capfilt store upgrade x` once"
    assert typeable("capfilt: the `capfilt` command") == "capfilt: the `capfilt` command"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert program("capfilt") == str(tmp_path / ".venv/bin/capfilt")
    monkeypatch.setenv("PATH", str(tmp_path / ".venv/bin"))
    (tmp_path / ".venv/bin/capfilt").chmod(0o755)
    assert program("capfilt") == "capfilt"


def test_a_taken_port_is_told_or_the_next_one_serves() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be listened on: give another with --port"):
            _port(port, 5000, "--port")
        assert port < _port(None, port, "--port") < port + 20
    assert _port(0, 5000, "--port") > 0


def test_a_store_stands_for_a_config(tmp_path: Path) -> None:
    assert config_at(str(tmp_path), []).store == str(tmp_path)
    assert config_at("s3://bucket/root", []).store == "s3://bucket/root"
    assert config_at(str(SAMPLE_CONFIG), ["seed=3"]).seed == 3
    with pytest.raises(ConfigError, match=r"nowhere: there is no such config file, and no store"):
        config_at("nowhere", [])


def _model(folder: Path, architecture: str, family: str = "blip") -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": family, "architectures": [architecture]}))
    return str(folder)


def test_swapped_models_are_told_with_the_right_command(tmp_path: Path) -> None:
    captioner = _model(tmp_path / "a", "BlipForConditionalGeneration")
    filter = _model(tmp_path / "b", "BlipForImageTextRetrieval")
    places = ("--web", "shards", "--out", str(tmp_path / "out"))
    result = _call("regenerate", *places, "--captioner", filter, "--filter", captioner)
    assert result.exit_code == 2
    assert f"--captioner {filter} is a filter" in result.stderr
    assert f"--web shards --captioner {captioner} --filter {filter} --out" in result.stderr
    twice = _call("regenerate", *places, "--captioner", captioner, "--filter", captioner)
    assert twice.exit_code == 2
    assert f"--filter {captioner} is a captioner, which judges none: give a filter there" in twice.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "architecture", "role"),
    [
        ("clip", "CLIPModel", "filter"),
        ("git", "GitForCausalLM", "captioner"),
        ("blip-2", "Blip2ForConditionalGeneration", "captioner"),
        ("blip-2", "Blip2ForImageTextRetrieval", "filter"),
        ("blip", "BlipModel", None),
    ],
)
def test_what_a_model_can_be(family: str, architecture: str, role: str | None, tmp_path: Path) -> None:
    assert role_of(_model(tmp_path / "model", architecture, family)) == role
    assert role_of(str(tmp_path)) is None
