"""A training killed at any moment goes on as if nothing had happened: real processes, real SIGKILL."""

import json
from pathlib import Path

import pytest

from components.common.errors import CapfiltError, DivergedError
from components.training import group
from components.training.config import TrainConfig
from tests.helpers.distributed import curve, run_toy, toy_config


@pytest.mark.parametrize(
    ("processes", "stage", "accumulation", "kill_at"),
    [
        (1, 0, 1, 7),
        pytest.param(1, 1, 1, 6, marks=pytest.mark.slow),
        pytest.param(1, 2, 4, 11, marks=pytest.mark.slow),
        (2, 1, 4, 10),
        pytest.param(2, 2, 1, 7, marks=pytest.mark.slow),
    ],
)
def test_trace_after_a_kill_is_bit_identical(
    tmp_path: Path, processes: int, stage: int, accumulation: int, kill_at: int
) -> None:
    config = toy_config(
        accumulation=accumulation,
        deepspeed={"zero_stage": stage},
        launch={"processes": processes, "threads": 1},
    )
    with pytest.raises(CapfiltError, match="ended with code"):
        run_toy(config, tmp_path, ["--kill-at", str(kill_at)])
    before = curve(tmp_path)
    assert len(before) == kill_at
    resumed = run_toy(config, tmp_path)
    assert resumed.result["start"] == kill_at // 4 * 4
    assert curve(tmp_path)[:kill_at] == before


@pytest.mark.parametrize(("before", "after", "stage"), [(2, 1, 1), pytest.param(1, 2, 2, marks=pytest.mark.slow)])
def test_going_on_with_another_number_of_processes(tmp_path: Path, before: int, after: int, stage: int) -> None:
    """Two processes of 4 pairs, or one of two micro-batches of 4: the same global batch, the same mean gradient."""

    def config(processes: int) -> TrainConfig:
        return toy_config(
            accumulation=2 // processes,
            deepspeed={"zero_stage": stage},
            launch={"processes": processes, "threads": 1},
        )

    with pytest.raises(CapfiltError):
        run_toy(config(before), tmp_path, ["--no-dropout", "--kill-at", "11"])
    killed = curve(tmp_path)
    run_toy(config(after), tmp_path, ["--no-dropout"])
    moved = curve(tmp_path)
    assert moved[:8] == killed[:8]
    for ours, theirs in zip(moved[8:11], killed[8:], strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
        assert ours["train/grad_norm"] == pytest.approx(theirs["train/grad_norm"], rel=1e-4)


def test_a_process_killed_for_memory_is_named_rather_than_the_broken_connection(tmp_path: Path) -> None:
    """One of two is killed, as the memory guard does it; the other one's complaint is not the cause."""
    config = toy_config(launch={"processes": 2, "threads": 1})
    with pytest.raises(CapfiltError, match=r"killed by SIGKILL, .* lower batch_size, cache_decoded_mb"):
        run_toy(config, tmp_path, ["--kill-at", "2", "--kill-rank", "1"])


def test_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, a checkpoint and going on from it, of two processes with no compiler and no ninja in reach."""
    tools, built = tmp_path / "tools", tmp_path / "built"
    tools.mkdir()
    built.mkdir()
    whole = group.environment
    bare = {"PATH": str(tools), "TORCH_EXTENSIONS_DIR": str(built), "CXX": "", "CC": ""}
    monkeypatch.setattr(group, "environment", lambda config, work_dir: whole(config, work_dir) | bare)
    config = toy_config(deepspeed={"zero_stage": 1}, launch={"processes": 2, "threads": 1})
    with pytest.raises(CapfiltError):
        run_toy(config, tmp_path, ["--kill-at", "6"])
    assert run_toy(config, tmp_path).result["start"] == 4
    assert not list(built.iterdir())


def test_truncated_checkpoint_is_passed_over(tmp_path: Path) -> None:
    config = toy_config()
    with pytest.raises(CapfiltError):
        run_toy(config, tmp_path, ["--kill-at", "9"])
    killed = curve(tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000008"
    states = next(newest.glob("deepspeed/*model_states.pt"))
    states.write_bytes(states.read_bytes()[:-100])
    resumed = run_toy(config, tmp_path)
    assert resumed.result["start"] == 4
    assert "damaged" in (tmp_path / "training.log").read_text()
    assert curve(tmp_path)[:9] == killed


def test_a_loss_that_is_not_finite_stops_with_step_and_pairs(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 6 .*pair-20"):
        run_toy(toy_config(), tmp_path, ["--poison", "21"])
    record = json.loads((tmp_path / "checkpoints" / "step-00000004" / "complete.json").read_text())
    assert record["state"]["step"] == 4
