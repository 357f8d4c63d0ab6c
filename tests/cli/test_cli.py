"""The command line's manners: exit codes, messages before any work, one JSON document."""

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from capfilt.cli.console import command
from capfilt.cli.main import app
from components.common.lock import exclusive
from components.common.storage import open_store
from components.config import CONFIGS, load_config
from flows import preflight
from flows.layout import LOCK_KEY
from tests.helpers.s3 import SECRET_KEY, serve_s3
from tests.helpers.tiny import options
from tests.helpers.webshards import encoded, photo, write_web

FLICKR = str(CONFIGS / "flickr8k.yaml")
SCRATCH = "pretrain.optim.freeze=[]"  # from no encoders


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
    heavy = ("torch", "prefect", "mlflow", "ray", "boto3")
    code = f"import sys, capfilt.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "pretrain.stepss=3"], "did you mean `pretrain.steps`?"),
        (["--set", "pretrian.steps=3"], "did you mean `pretrain`?"),
        (["--set", "pretrain.steps=many"], "`pretrain.steps`: Input should be a valid integer"),
        (["--set", "rounds=-1"], "`rounds`: Input should be greater than or equal to 0"),
        (["--set", "data.human=3"], "`data.human` must be a group of settings (train, val"),
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
    """Input that passes: its folders and files by their keys."""
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps([{"image": "1.jpg", "caption": "a dog"}]))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(encoded(photo(1)))
    write_web(tmp_path / "web", shards=1, samples=1)
    names = {"data.human.train": captions, "data.human.val": captions}
    return names | {"data.human.images": tmp_path / "images", "data.web": tmp_path / "web"}


def _flickr(files: dict[str, Path], tmp_path: Path) -> Result:
    settings = [part for name, path in files.items() for part in ("--set", f"{name}={path}")]
    return _call("run", FLICKR, *settings, "--set", SCRATCH, "--set", f"store={tmp_path}/root")


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
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "names no images"),
        ("[1]", "row 0 lacks image or caption"),
        ('{"info": 1}', "neither COCO captions"),
        ('{"images": []}', "no `annotations` list"),
        ('{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}', "a usable caption"),
        ('{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "bbox": [1]}]}', "instances"),
        ('[{"image": "2.jpg", "caption": "a cat"}]', "has none of the images"),
    ],
)
def test_wrong_annotations_are_named(text: str, message: str, tmp_path: Path) -> None:
    files = _files(tmp_path)
    files["data.human.train"] = tmp_path / "wrong.json"
    files["data.human.train"].write_text(text)
    result = _flickr(files, tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "root" / "stages").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda web: (web / "00000.tar").unlink(), "holds no .tar"),
        (lambda web: (web / "00000.tar").rename(web / "00000.zip"), "holds no .tar"),
        (lambda web: (web / "00000.tar").write_bytes(b""), "none of its 1 tars can be read"),
        (lambda web: (web / "00000.tar").write_bytes(b"x" * 4096), "this is not a tar header"),
        (lambda web: (web / "00000.tar").write_bytes(bytes(1024)), "is an empty tar"),
    ],
)
def test_shards_of_no_use_are_named(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    files = _files(tmp_path)
    spoil(files["data.web"])
    result = _flickr(files, tmp_path)
    assert result.exit_code == 2
    assert f"data.web: {files['data.web']}" in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "root" / "stages").exists()


@pytest.mark.parametrize("place", ["00000.tar", "sub/00000.tar"])
def test_good_input_passes_also_as_one_tar_or_in_a_subfolder(place: str, tmp_path: Path) -> None:
    files = _files(tmp_path)
    web = files["data.web"]
    (web / place).parent.mkdir(exist_ok=True)
    (web / "00000.tar").rename(web / place)
    files["data.web"] = web / place if "/" not in place else web
    settings = [f"{name}={path}" for name, path in files.items()]
    preflight.check_before_work(load_config(FLICKR, [*settings, SCRATCH, f"store={tmp_path}/root"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pretrain.launch={nodes: 2, node_rank: 2}", "machine number 2 is not in 0 … 1"),
        ("filter.launch.hostfile=/nowhere", "launch.hostfile /nowhere cannot be read"),
        (f"tokenizer.vocab_file={FLICKR}", "tokenizer.vocab_file: "),
        ("encoders.vision=/nowhere/vit", "encoders.vision: /nowhere/vit is no model folder"),
        ("encoders.text=/nowhere/bert", "encoders.text: /nowhere/bert is no model folder"),
    ],
)
def test_what_would_fail_late_is_refused_early(setting: str, message: str, tmp_path: Path) -> None:
    result = _call("run", *options(store=str(tmp_path / "root")), "--set", setting)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "root" / "stages").exists()


@pytest.mark.parametrize(
    ("variable", "value", "settings"),
    [
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9", {}),
        ("PREFECT_API_URL", "http://127.0.0.1:9/api", {}),
        ("RAY_ADDRESS", "127.0.0.1:9", {"capfilt__engine": "ray"}),
    ],
)
def test_a_server_out_of_reach_is_named_with_its_variable(
    variable: str, value: str, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    result = _call("run", *options(store=str(tmp_path / "root"), **settings))
    assert result.exit_code == 1
    assert variable in result.stderr
    assert value in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "root" / "stages").exists()
    found = {one["what"]: one for one in json.loads(_call("doctor", "--json").stdout)}
    assert any(one["verdict"] == "wrong" and value in one["found"] for one in found.values())


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = _call("run", *options(store=str(tmp_path / "root")))
    assert result.exit_code == 1
    assert "free space" in result.stderr


def test_a_disk_that_fills_up_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end, command(as_json=True):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/training.log")
    out, err = capsys.readouterr()
    assert end.value.exit_code == 1
    assert "the disk is full (/data/training.log); free space and run the same command again" in err
    assert json.loads(out)["kind"] == "StorageError"
    assert "defect" not in err


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

    command = [sys.executable, "-m", "capfilt.cli.main", "doctor", "--json", "--set", f"store={uri}/x"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_doctor_is_content_here(tmp_path: Path) -> None:
    result = _call("doctor", "--json", "--set", f"store={tmp_path}/root")
    found = {one["what"]: one["verdict"] for one in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert {"Python", "memory", "disk", "GPU", "store", "torch", "deepspeed"} <= found.keys()


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
        (["--top-p", "much"], "--top-p: Input should be a valid number"),
        (["--top-p", "0"], "--top-p: Input should be greater than 0"),
        (["--decoding", "dream"], "--decoding: 'dream' is not one of 'greedy', 'beam', 'nucleus'"),
        (["--dtype", "fp8"], "--dtype: 'fp8' is not one of 'auto', 'fp32', 'bf16'"),
        (["--min-length", "30"], "--min-length 30 must not exceed --max-length 20"),
        (["--captions-per-image", "2", "--decoding", "beam"], "set --decoding to nucleus for 2"),
        (["--captions-per-imag", "2"], "--captions-per-image"),
    ],
)
def test_options_are_checked_before_a_model_is_loaded(arguments: list[str], message: str, tmp_path: Path) -> None:
    """One line that names the option as it was typed; the same in the one document of --json."""
    (tmp_path / "x.jpg").write_bytes(b"x")
    typed = ["caption", "--model", "nowhere", str(tmp_path / "x.jpg"), *arguments]
    result = _call(*typed)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("capfilt: ")
    assert result.stderr.count("\n") == 1
    document = json.loads(_call(*typed, "--json").stdout)
    assert message in document["error"]
    assert document["kind"] == "ConfigError"


def test_without_arguments_there_is_help() -> None:
    for group in ((), ("dataset",)):
        result = _call(*group)
        assert result.exit_code == 2
        assert "Usage:" in result.output
        assert "capfilt: " not in result.output
