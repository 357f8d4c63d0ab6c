"""Machines that wait for one another in a store: what is waited for ends, and what is dead is not joined."""

from pathlib import Path

import pytest

from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import CapfiltError, ConfigError
from components.common.storage import open_store
from components.training import gathering, joining
from components.training.config import TrainConfig
from components.training.gathering import Gathering, LostMachineError, gathered, is_broken_connection
from components.training.nodes import Placement
from components.training.spec import DatasetUse, TrainSpec

DATA = DatasetRef(name="human", uri="/data", digest="d" * 64, images=1, pairs=1)
PLACE = Placement(2, 0, "127.0.0.1", 1, 1)


def spec(store: Path, **launch: object) -> TrainSpec:
    config = TrainConfig.model_validate({"steps": 1, "launch": {"nodes": 2, "timeout_minutes": 0.02} | launch})
    base = ModelRef(role="base", uri="/base", digest="b" * 64)
    data = (DatasetUse(ref=DATA),)
    return TrainSpec(objective="captioner", label="round-1/captioner", config=config, datasets=data, base=base,
                     store=f"{store}/models/finetune-captioner/abc")  # fmt: skip


def test_who_waits_for_a_machine_is_told_the_command_and_gives_up_in_time(tmp_path: Path) -> None:
    lost = pytest.raises(LostMachineError, match=f"machine 1 of 2 did not join .*join {tmp_path}`")
    with lost, gathered(spec(tmp_path), PLACE):
        pytest.fail("nobody came")
    (announced,) = tmp_path.glob("trainings/*/announcement.json")
    assert joining.read_announcement(open_store(str(tmp_path)), str(announced.relative_to(tmp_path))).state == "over"


def test_who_joins_gives_up_in_time_and_joins_nothing_that_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Gathering(spec(tmp_path), PLACE).tell("waiting")  # by a machine 0 that was killed then: it changes no more
    with pytest.raises(CapfiltError, match="no training was announced in .* start one on machine 0"):
        joining.join(str(tmp_path), minutes=0.03)
    assert not list(tmp_path.glob("trainings/*/*/machine-1.json"))


def test_a_machine_that_falls_silent_is_lost_and_one_that_failed_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(gathering, "BEAT_SECONDS", 0.0)
    store, here = open_store(str(tmp_path)), Gathering(spec(tmp_path), PLACE)
    here.tell("waiting")
    part = joining._Board(store)
    assert part.claim() is None, "seen once, it may be dead"
    here.tell()
    found = part.claim()
    assert found is not None and part.claim() is None, "a machine takes one place"
    with pytest.raises(LostMachineError, match=r"machine 1 \(.*\) is lost: no sign of life"):
        here.check()
    found._leave("the disk is full")
    with pytest.raises(LostMachineError, match=r"machine 1 \(.*\) failed: the disk is full; .*join"):
        here.check()


def test_machine_1_does_not_launch(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"machine 0 launches .*join {tmp_path}`"):
        Gathering(spec(tmp_path), Placement(2, 1, "127.0.0.1", 1, 1))


def test_what_is_a_broken_connection() -> None:
    assert is_broken_connection(CapfiltError("RuntimeError: [gloo/transport/tcp/pair.cc:547] Read error [10.0.0.2]"))
    assert not is_broken_connection(CapfiltError("the training processes ended with code -9 (killed)\n  gloo: reset"))
    assert not is_broken_connection(ConfigError("gloo"))
