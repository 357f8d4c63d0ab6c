"""Errors of a process group, raised again where they can be told."""

from pathlib import Path

import pytest

from components.common.errors import CapfiltError, DataError, DivergedError, PreemptedError, StorageError
from components.training.outcome import forget_outcome, read_outcome, write_failure, write_outcome
from components.training.relay import received


def fail(folder: Path, rank: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", str(rank))
    write_failure(folder, error)


def raised(folder: Path) -> BaseException:
    outcome = read_outcome(folder)
    assert outcome is not None
    with pytest.raises(CapfiltError) as caught:
        outcome.raise_if_failed()
    return caught.value


def test_an_error_comes_back_as_its_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(tmp_path, 0, StorageError("no room", retryable=True), monkeypatch)
    error = raised(tmp_path)
    assert type(error) is StorageError
    assert error.retryable
    assert str(error) == "no room"


def test_the_cause_goes_before_the_crashes_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(tmp_path, 0, RuntimeError("connection closed by peer"), monkeypatch)
    fail(tmp_path, 1, DivergedError("the loss is nan"), monkeypatch)
    assert type(raised(tmp_path)) is DivergedError
    forget_outcome(tmp_path)
    assert read_outcome(tmp_path) is None


def test_a_failure_of_one_process_is_no_preemption_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(tmp_path, 0, PreemptedError("asked to stop"), monkeypatch)
    assert type(raised(tmp_path)) is PreemptedError
    fail(tmp_path, 1, DataError("shard 3 is cut"), monkeypatch)
    assert type(raised(tmp_path)) is DataError


def test_an_unexpected_error_says_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        (tmp_path / "absent").stat()
    except FileNotFoundError as error:
        fail(tmp_path, 0, error, monkeypatch)
    assert "FileNotFoundError" in str(raised(tmp_path))
    assert "test_outcome.py:" in str(raised(tmp_path))
    assert "training.log" in str(raised(tmp_path))


def test_a_finished_group_has_a_result(tmp_path: Path) -> None:
    write_outcome(tmp_path, {"steps": 3})
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    outcome.raise_if_failed()
    assert outcome.result == {"steps": 3}


def test_only_marked_lines_are_points_of_the_curve() -> None:
    assert received('::capfilt {"step": 4}\n') == {"step": 4}
    for line in ("step 4\n", "::capfilt {torn", "::capfilt 4\n", '{"step": 4}'):
        assert received(line) is None
