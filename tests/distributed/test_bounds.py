"""The temperature's range holds whatever holds the optimizer's copy of it: BLIP's own loop and ZeRO 0, 1 and 2."""

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
