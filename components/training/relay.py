"""The training's curve on its way to the launcher: one marked JSON line of standard output per point.

The launcher owns the tracker and the progress bar, so a training process imports neither, and starts sooner.
"""

import contextlib
import json
import sys
from typing import Any

_MARK = "::capfilt "


def send(**values: Any) -> None:
    """Tell the launcher; one write, so that lines of several processes do not mix."""
    with contextlib.suppress(BrokenPipeError):  # the launcher is gone; a process that was asked to stop saves first
        sys.stdout.write(f"{_MARK}{json.dumps(values)}\n")
        sys.stdout.flush()


def received(line: str) -> dict[str, Any] | None:
    """What a line of the group's output tells, None if it is an ordinary one."""
    if not line.startswith(_MARK):
        return None
    try:
        values = json.loads(line[len(_MARK) :])
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
