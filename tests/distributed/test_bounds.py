"""What no step may do, under BLIP's own loop and ZeRO 0, 1 and 2: leave the temperature's range, spoil the weights.

Every group learns at its own rate, and what is frozen does not move.
"""

from pathlib import Path
from typing import Any

import pytest

from components.model.objectives import TEMPERATURE_RANGE
from components.training.config import LaunchConfig
from components.training.group import run_group
from tests.helpers.cold_training import DOWN, LR, UP
from tests.helpers.contrast_ranks import CONFIG

WAYS = ("plain", "0", "1", "2")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, launch = tmp_path_factory.mktemp("cold"), LaunchConfig(processes=2, threads=1)
    return run_group("tests.helpers.cold_training", ["--work-dir", str(folder)], launch, work_dir=folder).result


def test_a_temperature_at_its_floor_comes_back_at_once_under_every_zero_stage(result: dict[str, Any]) -> None:
    floor = TEMPERATURE_RANGE[0]
    fallen = [max(floor, CONFIG.temperature - LR * step) for step in range(DOWN + 1)]
    assert fallen[-2:] == [floor, floor], "the push is long enough to go below"
    expected = [*fallen, *(floor + LR * step for step in (1, 2))]
    for way in WAYS:
        assert result[way]["temperatures"] == pytest.approx(expected, abs=2e-3), way
    for stage in "012":
        assert floor <= result[stage]["exported"] <= TEMPERATURE_RANGE[1]
    assert result["0"]["temperatures"] == result["plain"]["temperatures"], "to the last bit"
    assert result["0"]["weights"] == result["plain"]["weights"]


def test_groups_learn_at_their_own_rates_and_what_is_frozen_does_not_move(result: dict[str, Any]) -> None:
    steps = DOWN + UP
    assert result["0-grouped"]["weights"] == result["plain-grouped"]["weights"], "to the last bit"
    for way in WAYS:
        together, apart = result[way]["moved"], result[f"{way}-grouped"]["moved"]
        assert apart["text"] == 0.0 < together["text"], way
        assert 0 < apart["vision"] <= 0.1 * LR * steps * 1.01 < together["vision"], way
        assert apart["fresh"] > 0.1 * LR * steps, way
        temperatures = result[f"{way}-grouped"]["temperatures"]
        assert temperatures == pytest.approx(result[way]["temperatures"], abs=2e-3), "what is fresh learns as before"


def test_a_step_that_is_not_finite_in_one_process_is_taken_in_none(tmp_path: Path) -> None:
    """Weights stay to the bit, all processes know, and moments are whole: the next step moves again."""
    launch = LaunchConfig(processes=2, threads=1)
    result = run_group("tests.helpers.vetoed_training", ["--work-dir", str(tmp_path)], launch, work_dir=tmp_path).result
    assert len(result) == 12
    for way, seen in result.items():
        assert seen == {"refused": [[False, True, False]] * 2, "moved": True, "kept": True, "goes on": True}, way
