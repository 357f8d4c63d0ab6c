"""Averages over windows, the curve's file, and the alarms."""

import logging
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.model.objectives import ITM_PRIOR_LOSS
from components.training.watch import Alarms, History, Window


def outputs(*values: float) -> list[dict[str, Tensor]]:
    return [{"loss": torch.tensor(value), "loss_itm": torch.tensor(value / 2)} for value in values]


def test_a_window_averages_micro_batches_and_steps_and_starts_anew() -> None:
    window = Window(torch.device("cpu"))
    window.add(1, outputs(1.0, 3.0), torch.tensor(2.0), ["a", "b"])
    window.add(2, outputs(5.0, 7.0), torch.tensor(4.0), ["c", "d"])
    metrics = window.flush()
    assert metrics["train/loss"] == 4.0
    assert metrics["train/loss_itm"] == 2.0
    assert metrics["train/grad_norm"] == 3.0
    assert metrics["train/samples_per_second"] > 0
    window.add(3, outputs(9.0), torch.tensor(0.0), ["e"])
    assert window.flush()["train/loss"] == 9.0


def test_a_loss_that_is_not_finite_is_told_with_step_and_pairs() -> None:
    window = Window(torch.device("cpu"))
    window.add(7, outputs(1.0), torch.tensor(1.0), ["fine"])
    window.add(8, outputs(math.nan), torch.tensor(math.nan), [f"web/{number}" for number in range(12)])
    window.add(9, outputs(math.inf), torch.tensor(1.0), ["later"])
    told = window.diverged()
    assert re.match(r"the loss is nan at step 8 \(pairs web/0, .*web/7 and 4 more\); lower optim.lr", told)


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_told_where_the_loss_is(norm: float) -> None:
    window = Window(torch.device("cpu"))
    window.add(1, outputs(1.0), torch.tensor(0.0), ["a"])
    window.add(2, outputs(1.0), torch.tensor(norm), ["b"])
    assert re.match(r"the gradient's norm is (nan|inf) at step 2 \(pairs b\), though the loss", window.diverged())


def test_the_curve_is_cut_back_to_a_checkpoint_and_loses_a_torn_line(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.cut_after(0)
    for step in range(1, 9):
        history.append(step, {"train/loss": float(step)})
    with history.path.open("a") as file:
        file.write('{"step": 9, "train/lo')
    assert history.smoothed() == {"train/loss": 6.0}
    history.cut_after(3)
    assert [line["step"] for line in history.lines()] == [1, 2, 3]
    history.append(4, {"train/loss": 0.0})
    assert len(history.path.read_text().splitlines()) == 4


def test_alarms_speak_once_and_only_of_curves_that_stay(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(itc_classes=64 + 2048, patience=100)
    guess = math.log(64 + 2048)
    with caplog.at_level(logging.WARNING):
        for step in range(20, 401, 20):
            alarms(step, {"train/loss_itm": ITM_PRIOR_LOSS + 0.001, "train/loss_itc": guess if step % 60 else 3.0})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "stuck at 0.6375" in said[0]
    assert "the batch is too small" in said[0]


def test_alarm_of_contrastive_loss_at_chance(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(itc_classes=100, patience=40)
    with caplog.at_level(logging.WARNING):
        for step in (20, 40, 60, 80):
            alarms(step, {"train/loss_itc": math.log(100) - 0.01})
    assert len(caplog.records) == 1
    assert "guessing among batch + queue (4.605)" in caplog.records[0].getMessage()


def test_alarm_of_wrong_pairs_that_cannot_be_drawn(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(itc_classes=0, patience=200)
    with caplog.at_level(logging.WARNING):
        for step, share in ((20, 1.0), (40, 0.6), (60, 0.25), (80, 0.2)):
            alarms(step, {"train/itm_negatives": share})
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("step 60: only 25% of the wrong pairs")
