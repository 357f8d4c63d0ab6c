"""A model by its name on the hub: fetched where the hub answers, else told how to fetch it, and soon."""

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from components.common.errors import ModelError
from components.inference import hub
from components.inference.hub import model_place

COMMAND = "hf download Salesforce/blip2-itm --local-dir blip2-itm, and give blip2-itm"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_name_is_fetched_and_a_folder_is_not(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, list[str]]] = []

    def fetched(name: str, *, revision: str, allow_patterns: list[str], **_: Any) -> str:
        asked.append((name, revision, allow_patterns))
        return "/cache/snapshots/abc"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(sha="abc"))
    (elsewhere / "models" / "own").mkdir(parents=True)
    assert model_place("models/own") == "models/own" and model_place("s3://bucket/models/x") == "s3://bucket/models/x"
    assert asked == []
    assert model_place("Salesforce/blip2-itm") == "/cache/snapshots/abc"
    assert asked[0][:2] == ("Salesforce/blip2-itm", "abc")
    assert not [one for one in asked[0][2] if one.endswith((".py", ".bin", ".pt", ".pth"))]


def test_offline_is_answered_with_the_command(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"{COMMAND}.*without success: .*offline"):
        model_place("Salesforce/blip2-itm")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("listening", [True, False])
def test_a_hub_that_does_not_answer_is_not_waited_for(
    listening: bool, silent: int, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens, or somebody who never answers: one question, given up after its time, and the command."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent if listening else 1}")
    monkeypatch.setattr(hub, "_PATIENCE", 0.5)
    with pytest.raises(ModelError, match=f"{COMMAND}.*without success"):
        model_place("Salesforce/blip2-itm")


def test_what_is_in_the_cache_needs_no_hub(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    kept = elsewhere / "cache" / "models--Salesforce--blip2-itm"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "snapshots" / "abc" / "config.json").write_text("{}")
    assert model_place("Salesforce/blip2-itm") == str(kept / "snapshots" / "abc")
