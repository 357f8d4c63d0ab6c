"""Marks of people on captions, right or wrong: lines of a file that only grows; what they say of kept and dropped ones.

A line is `{"dataset", "shard", "key", "source", "text", "kept", "right", "time"}`; the last one about a caption counts,
and one whose `right` is null takes a mark back.
"""

import json
import math
import threading
from datetime import datetime, timezone
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from components.common.errors import DataError
from components.common.storage import folder_errors

_LEVEL = 0.95
_FIELDS = {"dataset", "shard", "key", "source", "text", "kept", "right"}


class Caption(NamedTuple):
    """What a mark is about."""

    dataset: str
    shard: str
    key: str
    source: str
    text: str


class Share(NamedTuple):
    """How many of those marked were right, and the range in which that share lies (Wilson 1927, 95 %)."""

    right: int
    marked: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share."""
        return self.right / self.marked


class Marks:
    """A file of marks.

    Args:
        path: the file; made with the first mark.

    Raises:
        DataError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._marks: dict[Caption, tuple[bool, bool]] = {}  # kept, right
        for number, line in enumerate(_lines(path), 1):
            self._take(self._parsed(line, number))

    def _parsed(self, line: str, number: int) -> dict[str, Any]:
        try:
            mark = json.loads(line)
        except ValueError:
            mark = None
        if not isinstance(mark, dict) or not mark.keys() >= _FIELDS:
            raise DataError(f"{self.path}:{number}: this is no mark; name another file with --marks, or mend the line")
        return mark

    def _take(self, mark: dict[str, Any]) -> None:
        caption = Caption(*(mark[name] for name in Caption._fields))
        if mark["right"] is None:
            self._marks.pop(caption, None)
        else:
            self._marks[caption] = mark["kept"], mark["right"]

    def set(self, caption: Caption, *, kept: bool, right: bool | None) -> None:
        """Write a mark down, or take it back.

        Args:
            caption: what it is about.
            kept: whether the dataset keeps it.
            right: whether it fits its image; None takes a mark back.

        Raises:
            StorageError: the file cannot be written.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        mark = {**caption._asdict(), "kept": kept, "right": right, "time": now}
        with self._turn, folder_errors("write", self.path):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(mark, ensure_ascii=False) + "\n")
            self._take(mark)

    def get(self, caption: Caption) -> bool | None:
        """Whether a caption was marked right; None if it was not marked."""
        return self._marks.get(caption, (False, None))[1]

    def share(self, dataset: str, *, kept: bool) -> Share | None:
        """How many of the marked captions that the dataset keeps, or does not keep, are right; None without any."""
        with self._turn:
            marks = [mark for caption, mark in self._marks.items() if caption.dataset == dataset]
        found = [right for was, right in marks if was == kept]
        return Share(sum(found), len(found), *wilson(sum(found), len(found))) if found else None


def _lines(path: Path) -> list[str]:
    with folder_errors("read", path):
        return [line for line in path.read_text("utf-8").split("\n") if line] if path.exists() else []


def wilson(successes: int, trials: int, level: float = _LEVEL) -> tuple[float, float]:
    """The interval of a share by E. B. Wilson, "Probable inference, the law of succession" (1927), eq. 4."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / trials / 4)
    return max(0.0, centre - half), min(1.0, centre + half)
