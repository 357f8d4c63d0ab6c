"""The command line's manners: exit codes, messages before any work, one JSON document."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from components.common.lock import exclusive
from components.common.storage import open_store
from components.config import CONFIGS
from flows import _preflight
from flows._layout import LOCK_KEY
from flows.cli import app
from tests.helpers.s3 import SECRET_KEY, serve_s3
from tests.helpers.tiny import options

FLICKR = str(CONFIGS / "flickr8k.yaml")


def _call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def _commands(group: str = "") -> list[str]:
    text = _call(*group.split(), "--help").output
    return re.findall(r"^[│|]? *([a-z-]+)  +[A-Z]", text, re.MULTILINE)


def test_every_command_explains_itself() -> None:
    names = {"run", "serve", "ui", "regenerate", "caption", "match", "metrics", "retrieval", "dataset", "doctor"}
    assert names <= set(_commands())
    for name in names:
        assert _call(name, "--help").exit_code == 0


def test_help_is_instant() -> None:
    code = (
        "import sys, flows.cli; print([m for m in ('torch', 'prefect', 'mlflow', 'ray', 'boto3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "pretrain.stepss=3"], "did you mean `pretrain.steps`?"),
        (["--set", "pretrian.steps=3"], "did you mean `pretrain`?"),
        (["--set", "pretrain.steps=many"], "`pretrain.steps`: Input should be a valid integer"),
        (["--set", "rounds=-1"], "`rounds`: Input should be greater than or equal to 0"),
        (["--set", "store=ftp://x"], "use a path, file://… or s3://bucket/prefix"),
        (["--set", "name=Ünïcode"], "`name`"),
        (["no-such.yaml"], "there is no such config file"),
        ([FLICKR], "data.web, data.human.train, data.human.val, data.human.images; add --set data.web=…"),
    ],
)
def test_a_wrong_config_is_bad_usage(arguments: list[str], message: str, tmp_path: Path) -> None:
    store = [] if any("store=" in one for one in arguments) else ["--set", f"store={tmp_path}/root"]
    result = _call("run", *arguments, *store)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "root").exists()


def test_an_unknown_option_is_bad_usage() -> None:
    assert _call("run", "--sett", "a=b").exit_code == 2


def test_failure_as_one_json_document() -> None:
    result = _call("run", "--json", "--set", "pretrain.stepss=3")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert document["kind"] == "ConfigError"
    assert "pretrain.steps" in document["error"]


def _files(tmp_path: Path) -> dict[str, Path]:
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"images": [], "annotations": []}))
    for folder in ("images", "web"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"x")
    (tmp_path / "web" / "00000.tar").write_bytes(b"x")
    names = {"data.human.train": captions, "data.human.val": captions}
    return names | {"data.human.images": tmp_path / "images", "data.web": tmp_path / "web"}


def _flickr(files: dict[str, Path], tmp_path: Path) -> Result:
    settings = [part for name, path in files.items() for part in ("--set", f"{name}={path}")]
    return _call("run", FLICKR, *settings, "--set", f"store={tmp_path}/root")


@pytest.mark.parametrize("name", ["data.human.train", "data.human.val", "data.human.images", "data.web"])
def test_a_missing_path_is_named_with_its_key(name: str, tmp_path: Path) -> None:
    files = _files(tmp_path)
    result = _flickr(files | {name: tmp_path / "nowhere"}, tmp_path)
    assert result.exit_code == 2
    assert f"{name}: " in result.stderr
    assert "nowhere" in result.stderr
    assert not (tmp_path / "root" / "stages").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[1]", "neither COCO captions JSON"), ('{"images": []}', "neither COCO captions JSON")],
)
def test_wrong_annotations_are_named(text: str, message: str, tmp_path: Path) -> None:
    files = _files(tmp_path)
    files["data.human.train"] = tmp_path / "wrong.json"
    files["data.human.train"].write_text(text)
    result = _flickr(files, tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    files = _files(tmp_path)
    (tmp_path / "web" / "00000.tar").unlink()
    result = _flickr(files, tmp_path)
    assert result.exit_code == 2
    assert "no *.tar" in result.stderr


def test_without_a_compiler_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_preflight, "find_compiler", lambda: None)
    result = _call("run", *options(store=str(tmp_path / "root")))
    assert result.exit_code == 1
    assert "apt install g++" in result.stderr
    assert not (tmp_path / "root").exists()


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = _call("run", *options(store=str(tmp_path / "root")))
    assert result.exit_code == 1
    assert "free space" in result.stderr


def test_a_second_run_on_one_store_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "root"))
    with exclusive(store, LOCK_KEY, "bootstrap 'sample'"):
        result = _call("run", *options(store=store.uri))
    assert result.exit_code == 1
    assert "works here since" in result.stderr


def test_a_store_that_refuses_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: the S3 client of this one may have other keys already."""
    with serve_s3(tmp_path) as server:
        done = _doctor(server.environment(secret="wrong"), server.uri)
        assert done.returncode == 1
        found = {one["what"]: one for one in json.loads(done.stdout)}
        assert found["store"]["verdict"] == "wrong"
        assert "AWS_SECRET_ACCESS_KEY" in found["store"]["found"]
        assert "wrong" not in found["store"]["found"]
        assert SECRET_KEY not in done.stdout + done.stderr


def _doctor(environment: dict[str, str], uri: str) -> "subprocess.CompletedProcess[str]":
    import os

    command = [sys.executable, "-m", "flows.cli", "doctor", "--json", "--set", f"store={uri}/x"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_doctor_is_content_here(tmp_path: Path) -> None:
    result = _call("doctor", "--json", "--set", f"store={tmp_path}/root")
    found = {one["what"]: one["verdict"] for one in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert {"Python", "C++ compiler", "memory", "disk", "GPU", "store", "torch", "deepspeed"} <= found.keys()


def test_metrics_of_files(tmp_path: Path) -> None:
    references = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"image_id": 1, "id": 1, "caption": "a red circle above a blue square"},
            {"image_id": 2, "id": 2, "caption": "two dogs run over wet grass"},
        ],
    }
    predictions = [{"image_id": one["image_id"], "caption": one["caption"]} for one in references["annotations"]]
    (tmp_path / "r.json").write_text(json.dumps(references))
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    result = _call(
        "metrics", "--references", str(tmp_path / "r.json"), "--predictions", str(tmp_path / "p.json"), "--json"
    )
    scores = json.loads(result.stdout)
    assert scores["BLEU-4"] == pytest.approx(1.0)
    assert scores["CIDEr"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "2"], "--top-p: Input should be less than or equal to 1"),
        (["--decoding", "dream"], "--decoding: Input should be 'greedy'"),
        (["--min-length", "30"], "min_length 30 must not exceed max_length 20"),
        (["--captions-per-image", "2", "--decoding", "beam"], "use nucleus for several"),
    ],
)
def test_options_are_checked_before_a_model_is_loaded(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    result = _call("caption", "--model", "nowhere", str(tmp_path / "x.jpg"), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
