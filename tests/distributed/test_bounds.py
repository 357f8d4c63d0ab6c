"""What no step may do, under BLIP's own loop and ZeRO 0, 1 and 2: leave the temperature's range, spoil the weights."""

from pathlib import Path

import pytest

from components.model.objectives import TEMPERATURE_RANGE
from components.training.config import LaunchConfig
from components.training.group import run_group
from tests.helpers.cold_training import DOWN, LR
from tests.helpers.contrast_ranks import CONFIG


def test_a_temperature_at_its_floor_comes_back_at_once_under_every_zero_stage(tmp_path: Path) -> None:
    launch = LaunchConfig(processes=2, threads=1)
    result = run_group("tests.helpers.cold_training", ["--work-dir", str(tmp_path)], launch, work_dir=tmp_path).result
    floor = TEMPERATURE_RANGE[0]
    fallen = [max(floor, CONFIG.temperature - LR * step) for step in range(DOWN + 1)]
    assert fallen[-2:] == [floor, floor], "the push is long enough to go below"
    expected = [*fallen, *(floor + LR * step for step in (1, 2))]
    for way in ("plain", "0", "1", "2"):
        assert result[way]["temperatures"] == pytest.approx(expected, abs=2e-3), way
    for stage in "012":
        assert floor <= result[stage]["exported"] <= TEMPERATURE_RANGE[1]
    assert result["0"]["temperatures"] == result["plain"]["temperatures"], "to the last bit"
    assert result["0"]["weights"] == result["plain"]["weights"]


def test_a_step_that_is_not_finite_in_one_process_is_taken_in_none(tmp_path: Path) -> None:
    """Weights stay to the bit, all processes know, and moments are whole: the next step moves again."""
    launch = LaunchConfig(processes=2, threads=1)
    result = run_group("tests.helpers.vetoed_training", ["--work-dir", str(tmp_path)], launch, work_dir=tmp_path).result
    assert len(result) == 12
    for way, seen in result.items():
        assert seen == {"refused": [[False, True, False]] * 2, "moved": True, "kept": True, "goes on": True}, way
