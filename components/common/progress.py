"""Progress with rate and time left: a bar on a terminal, a line every ten seconds elsewhere. Never on stdout."""

import logging
import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0
_WINDOW_SECONDS = 30.0
_consoles: "list[Console]" = []


def stderr_console() -> "Console":
    """The one console of this process on stderr: bars and log lines share it and so do not tear one another."""
    if not _consoles:
        from rich.console import Console

        _consoles.append(Console(stderr=True))
    return _consoles[0]


class Progress:
    """How far a piece of work is, how fast it goes and when it ends.

    Args:
        total: units in all; None where nobody knows.
        unit: what is counted, e.g. `images`.
        label: what is being done, e.g. `round-1/capfilt`.
        done: units finished before this start (a resumed stage); they do not count into the rate.
        bar: draw a bar; by default where stderr is a terminal.
    """

    def __init__(
        self, total: int | None, unit: str, label: str = "", *, done: int = 0, bar: bool | None = None
    ) -> None:
        self.total, self.unit, self.label, self.done = total, unit, label, done
        self._info: dict[str, object] = {}
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), done)])
        self._last_line = time.monotonic()
        self._start = (time.monotonic(), done)
        self._bar = _RichBar(self) if (sys.stderr.isatty() if bar is None else bar) else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, n: int = 1, **info: object) -> None:
        """Count `n` more units; `info` (loss, counts …) is shown beside the rate."""
        self.update(self.done + n, **info)

    def update(self, done: int, **info: object) -> None:
        """Say how many units are finished in all."""
        now = time.monotonic()
        self.done = done
        self._info.update(info)
        self._recent.append((now, done))
        while len(self._recent) > 2 and now - self._recent[1][0] > _WINDOW_SECONDS:
            self._recent.popleft()
        if self._bar is not None:
            self._bar.refresh()
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            logger.info("%s", self.line())

    def close(self) -> None:
        """Take the bar away and leave one line with the totals."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self.done > self._start[1]:
            seconds = max(time.monotonic() - self._start[0], 1e-9)
            rate = (self.done - self._start[1]) / seconds
            logger.info("%s: %s %s in %s (%s/s)", self.label, f"{self.done:,}", self.unit, clock(seconds), _short(rate))

    @property
    def rate(self) -> float:
        """Units per second over the last half minute."""
        (t0, n0), (t1, n1) = self._recent[0], self._recent[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None where total or rate is unknown."""
        if self.total is None or self.rate <= 0:
            return None
        return max(self.total - self.done, 0) / self.rate

    def line(self) -> str:
        """One line of text: label, count, share, rate, time left, info."""
        share = "" if not self.total else f"/{self.total:,} ({min(self.done / self.total, 1):.0%})"
        left = self.seconds_left
        eta = "" if left is None else f", {clock(left)} left"
        extra = "".join(f", {name} {_value(value)}" for name, value in self._info.items())
        return f"{self.label}: {self.done:,}{share} {self.unit}, {_short(self.rate)}/s{eta}{extra}"


class _RichBar:
    """The terminal's side of a Progress."""

    def __init__(self, owner: Progress) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._owner = owner
        columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[text]}"))
        self._rich: RichProgress = RichProgress(*columns, console=stderr_console(), transient=True)
        self._task = self._rich.add_task(owner.label, total=owner.total, completed=owner.done, text="")
        self._rich.start()

    def refresh(self) -> None:
        text = self._owner.line().removeprefix(f"{self._owner.label}: ")
        self._rich.update(self._task, completed=self._owner.done, text=text)

    def close(self) -> None:
        self._rich.stop()


def clock(seconds: float) -> str:
    """`7 s`, `3:05 min`, `2:03:04 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
