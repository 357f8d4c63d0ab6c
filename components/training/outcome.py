"""How a process group tells its launcher what became of it: small JSON files in the working folder.

An exit code cannot carry a message, and torchrun reports the group's failure as its own.
"""

import json
import os
import traceback
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.common import errors
from components.common.errors import CapfiltError, PreemptedError
from components.common.redact import redact

_FINISHED = "outcome.json"
_FAILURES = "failure-*.json"
ROOT = Path(__file__).resolve().parents[2]
"""Folder of our packages."""


class Outcome(BaseModel):
    """The end of a training group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["finished", "preempted", "failed"]
    kind: str = Field(default="", description="class of the error, e.g. `DivergedError`")
    message: str = Field(default="", description="what, where, and how to mend it")
    retryable: bool = Field(default=False, description="whether trying again can heal it (StorageError)")
    result: dict[str, Any] = Field(default_factory=dict, description="what the module left behind")

    @property
    def is_crash(self) -> bool:
        """Whether a process failed of something nobody foresaw, such as the loss of another process."""
        return self.status == "failed" and not self.kind

    def raise_if_failed(self) -> None:
        """Raise the group's error in this process, as the class it was."""
        if self.status == "preempted":
            raise PreemptedError(self.message)
        if self.status == "failed":
            known = getattr(errors, self.kind, CapfiltError)
            if known is errors.StorageError:
                raise errors.StorageError(self.message, retryable=self.retryable)
            raise known(self.message)


def write_outcome(work_dir: Path, result: dict[str, Any]) -> None:
    """Called by rank 0 when all is done."""
    _write(work_dir / _FINISHED, Outcome(status="finished", result=result))


def write_failure(work_dir: Path, error: BaseException) -> None:
    """Called by every process that fails; the launcher sorts out whose error was the cause."""
    status: Literal["preempted", "failed"] = "preempted" if isinstance(error, PreemptedError) else "failed"
    message = str(error)
    if not isinstance(error, CapfiltError):
        message = f"{type(error).__name__}: {message or 'no message'}{_place(error)}; see training.log in {work_dir}"
    retryable = getattr(error, "retryable", False)
    kind = type(error).__name__ if isinstance(error, CapfiltError) else ""
    outcome = Outcome(status=status, kind=kind, message=redact(message), retryable=retryable)
    _write(work_dir / f"failure-{os.environ.get('RANK', '0')}.json", outcome)


def _place(error: BaseException) -> str:
    """Where in our own code an error came up, ` (file.py:12)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if Path(frame.filename).is_relative_to(ROOT) and "site-packages" not in frame.filename
    ]
    return "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in (own or frames)[-1:])


def read_outcome(work_dir: Path) -> Outcome | None:
    """The group's outcome, None if it left none. A known error goes before the crashes it caused in other processes."""
    finished = work_dir / _FINISHED
    if finished.is_file():
        return Outcome.model_validate_json(finished.read_text())
    files = sorted(work_dir.glob(_FAILURES), key=lambda path: path.stat().st_mtime_ns)
    failures = [Outcome.model_validate_json(path.read_text()) for path in files]
    order = {"failed": 0, "preempted": 1, "finished": 2}
    failures.sort(key=lambda outcome: (not outcome.kind, order[outcome.status]))
    return failures[0] if failures else None


def forget_outcome(work_dir: Path) -> None:
    """Remove what an earlier group left."""
    for path in [work_dir / _FINISHED, *work_dir.glob(_FAILURES)]:
        path.unlink(missing_ok=True)


def _write(path: Path, outcome: Outcome) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(outcome.model_dump(mode="json")))
    partial.replace(path)
