"""Which checkpoint is taken and which are kept, without an engine."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.common.errors import StorageError
from components.training.checkpoint import Checkpoints


class PlainEngine:
    """Saves one number."""

    def save(self, folder: Path, client_state: dict[str, Any]) -> None:
        (folder / "deepspeed").mkdir()
        (folder / "deepspeed" / "weights").write_text(str(client_state["step"]))

    def load(self, folder: Path) -> dict[str, Any]:
        return {"step": int((folder / "deepspeed" / "weights").read_text())}


class PlainObjective:
    def __init__(self) -> None:
        self.state = torch.zeros(2)

    def teacher_state(self) -> dict[str, Tensor]:
        return {"state": self.state}

    def load_teacher_state(self, state: dict[str, Tensor]) -> None:
        self.state = state["state"]


def save(checkpoints: Checkpoints, step: int, loss: float = 1.0) -> Path:
    return checkpoints.save(PlainEngine(), PlainObjective(), {"step": step, "loss": loss})  # type: ignore[arg-type]


def steps(checkpoints: Checkpoints) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints.all()]


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, keep_best=True)
    for step, loss in ((1, 3.0), (2, 0.5), (3, 2.0), (4, 1.0), (5, 1.5)):
        save(checkpoints, step, loss)
    assert steps(checkpoints) == [5, 4, 2]
    assert not list(tmp_path.glob(".*")), "nothing half-made or half-removed is left"


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "unreadable record", "no record"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    newest = save(checkpoints, 2)
    victim = newest / "teacher.safetensors"
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "changed":
        victim.write_bytes(victim.read_bytes()[:-1] + b"\x01")
    elif damage == "missing":
        victim.unlink()
    elif damage == "unreadable record":
        (newest / "complete.json").write_text('{"state": {}, "fil')
    else:
        (newest / "complete.json").unlink()
    with caplog.at_level(logging.WARNING):
        found = checkpoints.newest()
    assert found is not None
    assert found.state["step"] == 1
    assert "step-00000002 is damaged" in caplog.text


def test_a_crash_while_writing_leaves_the_one_before_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    half = tmp_path / ".partial-00000002"
    half.mkdir()
    (half / "teacher.safetensors").write_text("half")
    found = checkpoints.newest()
    assert found is not None
    assert found.state["step"] == 1
    save(checkpoints, 3)
    assert not half.exists()


def test_a_full_disk_is_a_storage_error_and_harms_nothing(tmp_path: Path) -> None:
    class FullDisk(PlainEngine):
        def save(self, folder: Path, client_state: dict[str, Any]) -> None:
            raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    with pytest.raises(StorageError, match="No space left on device.*free some disk space"):
        checkpoints.save(FullDisk(), PlainObjective(), {"step": 2})  # type: ignore[arg-type]
    assert steps(checkpoints) == [1]
    assert checkpoints.newest() is not None


def test_all_random_states_come_back(tmp_path: Path) -> None:
    import random

    import numpy as np

    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    found = checkpoints.newest()
    assert found is not None
    objective = PlainObjective()
    checkpoints.restore(found, PlainEngine(), objective)  # type: ignore[arg-type]
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    assert json.loads((found.path / "complete.json").read_text())["files"]["teacher.safetensors"]["bytes"] > 0
