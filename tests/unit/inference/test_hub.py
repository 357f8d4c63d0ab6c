"""A model by its name on the hub: fetched where the hub answers, else told how to fetch it."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from components.common.errors import ModelError
from components.inference.hub import model_place


def test_a_name_is_fetched_and_a_folder_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def fetched(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append((name, allow_patterns))
        return "/cache/snapshots/abc"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "own").mkdir(parents=True)
    assert model_place("models/own") == "models/own" and model_place("s3://bucket/models/x") == "s3://bucket/models/x"
    assert asked == []
    assert model_place("Salesforce/blip2-itm") == "/cache/snapshots/abc"
    assert asked[0][0] == "Salesforce/blip2-itm"
    assert not [one for one in asked[0][1] if one.endswith((".py", ".bin", ".pt", ".pth"))]


def test_out_of_reach_is_answered_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="hf download Salesforce/blip2-itm --local-dir blip2-itm.*no route to the hub"):
        model_place("Salesforce/blip2-itm")
