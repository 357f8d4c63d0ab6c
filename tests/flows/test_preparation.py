"""What an import depends on, besides its input."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.data import coco, web
from flows.preparation import _import_human, _import_web
from flows.stages import Stage
from tests.helpers.webshards import write_web


@pytest.mark.parametrize("module", [coco, web])
def test_imports_are_done_again_when_the_reader_changes(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_web(tmp_path / "web", shards=1))
    stages: list[Stage[Any]] = []
    data = SimpleNamespace(web_limit=None, human_limit=None, shard_size=10)
    context: Any = SimpleNamespace(config=SimpleNamespace(data=data), run=stages.append)

    def prepare() -> int:
        if module is web:
            _import_web(context, folder, "origin")
        else:
            _import_human(context, "train", "captions.json", "images", "origin")
        return stages[-1].revision

    assert prepare() == module.REVISION
    monkeypatch.setattr(module, "REVISION", 77)
    assert prepare() == 77
