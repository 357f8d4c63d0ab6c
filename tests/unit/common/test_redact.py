"""What is secret does not come out, whoever says it and however."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.cache import check_cache_folder
from components.common.errors import StorageError
from components.common.redact import install_redaction, redact, redact_values
from components.common.tracking import flatten, open_tracker

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzz"
PRESIGNED = (
    "https://b.s3.amazonaws.com/k.tar?X-Amz-Credential=AKIAABCDEFGHIJKLMNOP%2F20260101&X-Amz-Signature=0badc0de0badc0de"
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"s3://AKIAX:{SECRET}@bucket/x", "s3://***@bucket/x"),
        ("http://me:pa/ss@host/x", "http://***@host/x"),
        ("'http://me:pass@host:5000/x'", "'http://***@host:5000/x'"),
        ("postgresql+psycopg://mlflow:pass@db/mlflow", "postgresql+psycopg://***@db/mlflow"),
        ("https://token@host/x", "https://***@host/x"),
        (PRESIGNED, "https://b.s3.amazonaws.com/k.tar?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("/k?AWSAccessKeyId=AKIAX&Signature=abc%3D&Expires=1", "/k?AWSAccessKeyId=***&Signature=***&Expires=1"),
        ("Authorization: Basic bWU6cGFzcw==", "Authorization: Basic ***"),
        ("key AKIAABCDEFGHIJKLMNOP is unknown", "key *** is unknown"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b/c",
        "/data/run@home/x",
        "http://host:8080/path@x",
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=rounds",
        "a token, a password and a secret: mail me@example.org",
        "sqlite:////tmp/mlflow.db",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_secrets_are_known_by_their_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, f"{name.lower()}/very secret")
        assert redact(f"x{name.lower()}/very secret, {name.lower()}%2Fvery%20secret") == "x***, ***"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter22@mlflow")
    assert redact("no login for hunter22") == "no login for ***"
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token")
    assert redact("/var/run/secrets/token") == "/var/run/secrets/token"
    assert redact_values({"a": ["hunter22", 1, None]}) == {"a": ["***", 1, None]}


def test_every_log_record_is_clean(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    try:
        install_redaction()
        install_redaction()
        logger = logging.getLogger("somebody.else")
        logger.warning("reading %s", f"s3://AKIAX:{SECRET}@bucket")
        try:
            raise ValueError(f"http://me:{SECRET}@host".replace("/K7", ""))
        except ValueError:
            logger.exception("it failed")
        logger.warning("%d of %s", 3, "four")
    finally:
        logging.setLogRecordFactory(before)
    assert "wJalr" not in caplog.text
    assert "s3://***@bucket" in caplog.text
    assert "ValueError: http://***@host" in caplog.text
    assert caplog.records[-1].args == (3, "four"), "what is clean stays as it is"


def test_what_goes_to_mlflow_is_clean(tmp_path: Path) -> None:
    login = f"s3://AKIAX:{SECRET}@bucket/x"
    assert flatten({"a": {"b": login}}) == {"a.b": "s3://***@bucket/x"}
    tracker = open_tracker(f"sqlite:///{tmp_path}/a%20b.db", "x", "run")
    tracker.log_tags({"store": login})
    tracker.log_params({"store": login})
    tracker.log_text(f"store: {login}", "config.yaml")
    tracker.describe(login)
    tracker.end()
    tracker.farewell()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in files)
    assert not [path for path in files if b"wJalr" in path.read_bytes()]


COMMANDS = [
    ["run", "--set", "store=%s"],
    ["run", "--set", "data.web=%s", "--json"],
    ["doctor", "--set", "encoders.vision=%s", "--json"],
    ["run", "--set", "tracking.uri=%s"],
    ["run", "--set", "%s"],
    ["run", "--set", "stroe=%s"],
    ["run", "--set", "store=[%s"],
    ["dataset", "show", "%s", "--json"],
    ["dataset", "import-web", "--web", "%s", "--store", "/nowhere"],
    ["regenerate", "--web", "/nowhere", "--captioner", "%s", "--filter", "x", "--out", "%s", "--json"],
    ["caption", "--model", "%s", "x.jpg"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("uri", [f"s3://AKIAX:{SECRET}@bucket/x", f"http://me:{SECRET[:12]}@host/x", PRESIGNED])
def test_no_command_repeats_a_secret(
    words: list[str], uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-canary-in-the-environment")
    before = logging.getLogRecordFactory()
    try:
        done = CliRunner().invoke(app, [word.replace("%s", uri) for word in words])
    finally:
        logging.setLogRecordFactory(before)
    assert done.exit_code in (1, 2)
    for secret in ("wJalr", "0badc0de", "a-canary"):
        assert secret not in done.output + done.stderr
    if "--json" in words:
        assert "error" in json.loads(done.stdout)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cache_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check_cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    with pytest.raises(StorageError, match=r"/proc/capfilt cannot be written.*set XDG_CACHE_HOME"):
        check_cache_folder()
