"""A full disk is named as the cause, whatever the error that it showed itself by."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from capfilt.cli.console import command
from components.common import diskspace
from components.common.errors import CapfiltError, ConfigError


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in use on a disk with 4 KiB left; all others have room."""
    plenty = shutil.disk_usage(tmp_path)._replace(free=1 << 40)
    monkeypatch.setattr(diskspace, "_in_use", {})
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: plenty._replace(free=4096) if Path(path) == tmp_path else plenty
    )
    diskspace.note_in_use(tmp_path / "prefect")  # not made yet: the place where it would be counts
    return tmp_path


def fail(error: Exception, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    with pytest.raises(typer.Exit) as end, command(as_json=True):
        raise error
    out, err = capsys.readouterr()
    return end.value.exit_code, json.loads(out), err


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Server error '500 Internal Server Error' for url '…/set_state'"),
        RuntimeError("PytorchStreamWriter failed writing file data/4: file write failed"),
        CapfiltError("the training processes ended with code -7 and no result"),
    ],
)
def test_what_a_full_disk_brought_about_says_so(
    error: Exception, full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, err = fail(error, capsys)
    assert code == 1
    assert f"the disk is full: 4 KiB are free at {full}; free space and run the same command again" in err
    assert "the disk is full" in document["error"]
    assert str(error) in document["error"]
    assert "defect" not in err


def test_wrong_usage_has_nothing_to_do_with_the_disk(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document, err = fail(ConfigError("rounds: too many"), capsys)
    assert (code, document["error"]) == (2, "rounds: too many")


def test_a_defect_is_a_defect_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diskspace, "_in_use", {tmp_path: None})
    code, document, err = fail(RuntimeError("x"), capsys)
    assert (code, document["error"]) == (1, "x")
    assert "defect" in err
