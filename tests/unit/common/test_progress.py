import logging

import pytest

from components.common import progress
from components.common.progress import Progress, clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (59.4, "59 s"), (60, "1:00 min"), (185, "3:05 min"), (7384, "2:03:04 h")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_rate_and_time_left(time: _Clock) -> None:
    work = Progress(100, "images", "capfilt", bar=False)
    assert work.seconds_left is None
    time.now += 5
    work.advance(20, loss=1.23456)
    assert work.rate == pytest.approx(4.0)
    assert work.seconds_left == pytest.approx(20.0)
    assert work.line() == "capfilt: 20/100 (20%) images, 4.0/s, 20 s left, loss 1.235"


def test_resumed_work_does_not_count_into_the_rate(time: _Clock) -> None:
    work = Progress(100, "steps", "train", done=90, bar=False)
    time.now += 10
    work.advance(5)
    assert work.rate == pytest.approx(0.5)
    assert work.seconds_left == pytest.approx(10.0)


def test_old_speed_is_forgotten(time: _Clock) -> None:
    work = Progress(None, "steps", "train", bar=False)
    for _ in range(60):
        time.now += 1
        work.advance(100)
    for _ in range(60):
        time.now += 1
        work.advance(1)
    assert work.rate == pytest.approx(1.0)


def test_one_line_every_ten_seconds(time: _Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress(100, "steps", "train", bar=False) as work:
        for _ in range(35):
            time.now += 1
            work.advance()
    lines = [record.message for record in caplog.records]
    assert len(lines) == 4  # at 10, 20 and 30 seconds, and the totals
    assert lines[-1] == "train: 35 steps in 35 s (1.0/s)"


def test_bar_writes_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "steps", "train", bar=True) as work:
        work.advance(loss=0.5)
        work.advance()
    assert capsys.readouterr().out == ""
