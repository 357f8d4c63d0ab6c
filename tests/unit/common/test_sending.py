"""Jobs for a server that may hang or be away: in order, never lost, and nobody waits for long."""

import logging
import threading
import time

import pytest

from components.common import sending
from components.common.sending import Sender


def sender() -> Sender:
    return Sender("the server", lambda error: isinstance(error, ConnectionError))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(sending, "_LOOK_SECONDS", 0.05)


def test_jobs_are_done_in_order_and_answers_come_back() -> None:
    line, done = sender(), list[int]()
    for number in range(100):
        line.tell("count", lambda number=number: done.append(number))  # type: ignore[misc]
    assert line.ask("read", lambda: len(done)) == 100
    assert done == list(range(100))


def test_what_is_put_off_comes_later_unless_there_is_a_hurry() -> None:
    line, done = sender(), list[str]()
    line.tell("late", lambda: done.append("late"), after=60)
    line.tell("now", lambda: done.append("now"))
    assert line.ask("read", lambda: list(done)) == ["now"]
    assert line.drain(10) == 0
    assert done == ["now", "late"]


def test_while_nobody_answers_jobs_wait_and_questions_do_not(caplog: pytest.LogCaptureFixture) -> None:
    line, up, done = sender(), threading.Event(), list[int]()

    def say(number: int) -> None:
        if not up.is_set():
            raise ConnectionError("no answer")
        done.append(number)

    with caplog.at_level(logging.INFO):
        for number in range(3):
            line.tell("say", lambda number=number: say(number))  # type: ignore[misc]
        assert line.ask("ask", lambda: 1) is None
        assert done == []
        up.set()
        assert line.drain(30) == 0
    assert done == [0, 1, 2]
    told = [record.getMessage() for record in caplog.records]
    assert sum("could not say: no answer; what is to be sent waits" in line for line in told) == 1
    assert any("the server answers again" in line for line in told)
    assert line.ask("ask", lambda: 1) == 1


def test_a_refusal_is_told_and_the_next_job_done(caplog: pytest.LogCaptureFixture) -> None:
    line, done = sender(), list[int]()

    def refuse() -> None:
        raise ValueError("not allowed\nfor many reasons")

    line.tell("say it", refuse)
    line.tell("go on", lambda: done.append(1))
    assert line.ask("ask", refuse) is None
    assert done == [1]
    assert "the server: could not say it: not allowed" in caplog.text


def test_a_hang_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PATIENCE", 0.2)
    line, free = sender(), threading.Event()
    line.tell("hang", free.wait)  # for ever, if it were waited for
    assert line.ask("ask", lambda: 1) is None
    assert line.ask("ask", lambda: 1) is None
    assert line.drain(0.2) == 1
    free.set()
    assert line.drain(10) == 0
    assert line.ask("ask", lambda: 1) == 1


def test_a_long_queue_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job is quick; together they take longer than anybody has patience for one."""
    monkeypatch.setattr(sending, "PATIENCE", 3.0)
    line = sender()
    for _ in range(80):
        line.tell("work", lambda: time.sleep(0.05))
    assert line.ask("ask", lambda: 1) == 1
    for _ in range(80):
        line.tell("work", lambda: time.sleep(0.05))
    assert line.drain(3.0) == 0


def test_of_too_much_the_oldest_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sending, "MOST_JOBS", 3)
    line, begun, free, done = sender(), threading.Event(), threading.Event(), list[int]()
    line.tell("hang", lambda: (begun.set(), free.wait()))
    assert begun.wait(60)
    for number in range(5):
        line.tell(f"count {number}", lambda number=number: done.append(number))  # type: ignore[misc]
    free.set()
    assert line.drain(10) == 0
    assert done == [2, 3, 4]
    assert "count 0 is left out" in caplog.text
