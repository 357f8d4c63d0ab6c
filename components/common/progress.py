"""Progress with rate and time left: a bar on a terminal, a line every ten seconds elsewhere. Never on stdout."""

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0
_WINDOW_SECONDS = 30.0
_BAR = 30  # characters
_consoles: "list[Console]" = []
_going: "list[Progress]" = []
_drawn_elsewhere = 0


def stderr_console() -> "Console":
    """The one console of this process on stderr: bars and log lines share it and so do not tear one another."""
    if not _consoles:
        from rich.console import Console

        _consoles.append(Console(stderr=True))
    return _consoles[0]


def current() -> "Progress | None":
    """The piece of work of this process that began last and is not over."""
    return next(reversed(_going.copy()), None)


@contextlib.contextmanager
def bars_elsewhere() -> Iterator[None]:
    """No bars are drawn while the block runs: somebody else shows `current()`."""
    global _drawn_elsewhere
    _drawn_elsewhere += 1
    try:
        yield
    finally:
        _drawn_elsewhere -= 1


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
        drawn = sys.stderr.isatty() and not _drawn_elsewhere if bar is None else bar
        self._bar = _RichBar(self) if drawn else None
        _going.append(self)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def expect(self, total: int) -> None:
        """Say how many units there are in all, once somebody knows."""
        self.total = total

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
        if self._bar is None and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            logger.info("%s", self.line())

    def close(self) -> None:
        """Take the bar away and leave one line with the totals."""
        if self in _going:
            _going.remove(self)
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
        return ", ".join(filter(None, [f"{self.label}: {self.count()}", self.details()]))

    def count(self) -> str:
        """Count, share, rate, time left."""
        share = "" if not self.total else f"/{self.total:,} ({min(self.done / self.total, 1):.0%})"
        left = self.seconds_left
        eta = "" if left is None else f", {clock(left)} left"
        return f"{self.done:,}{share} {self.unit}, {_short(self.rate)}/s{eta}"

    def details(self) -> str:
        """What is shown beside: step, losses, counts."""
        return ", ".join(f"{name} {_value(value)}" for name, value in list(self._info.items()))


class _RichBar:
    """The terminal's side of a Progress."""

    def __init__(self, owner: Progress) -> None:
        from rich.live import Live

        self._live = Live(
            get_renderable=lambda: drawing(owner.label, owner),
            console=stderr_console(),
            transient=True,
            redirect_stdout=False,
        )
        self._live.start()

    def close(self) -> None:
        self._live.stop()


def drawing(headline: str, work: Progress | None) -> "RenderableType":
    """A headline, below it a bar with the count, and what is shown beside, each on one line of the terminal.

    There are three lines whatever is known: rich, which writes from two threads, miscounts where their number changes,
    and would wipe away a line above.
    """
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    one_line: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"}
    head = Text(headline, style="bold", **one_line)
    if work is None:
        return Group(head, Text(), Text())
    bar = ProgressBar(work.total, work.done, width=_BAR, pulse=work.total is None)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(bar, Text(work.count(), **one_line))
    return Group(head, grid, Text(work.details(), style="dim", **one_line))


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
