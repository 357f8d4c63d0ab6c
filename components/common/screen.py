"""One quiet screen while a run goes: a headline, and below it the work in hand. On a terminal alone; never on stdout.

What a run tells in passing (a stage begins, a training is ready) is on the screen and not printed beside it; warnings
are, and a line for every stage that is done.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from components.common import progress

_SHOWN_HERE = (
    "components.common.progress",
    "components.inference.settling",
    "components.regeneration.calibration",
    "components.regeneration.run",
    "components.training.launch",
    "flows.stages",
)
"""Loggers whose news are seen on the screen, or are of no use to whoever looks at one."""
_open: "list[_Screen]" = []


@contextlib.contextmanager
def quiet_screen(headline: str, *, shown: bool | None = None) -> Iterator[None]:
    """Show a screen while the block runs; by default where stderr is a terminal.

    Args:
        headline: the first line, until somebody says what to follow.
        shown: False: leave the terminal to the log.
    """
    if not (sys.stderr.isatty() if shown is None else shown) or _open:
        yield
        return
    one = _Screen(headline)
    _open.append(one)
    try:
        with one.shown():
            yield
    finally:
        _open.clear()


@contextlib.contextmanager
def following(headline: Callable[[], str]) -> Iterator[None]:
    """The open screen, if there is one, has this as its headline while the block runs."""
    before = [one.headline for one in _open]
    for one in _open:
        one.headline = headline
    try:
        yield
    finally:
        for one, former in zip(_open, before, strict=False):
            one.headline = former


def last_words(words: str) -> bool:
    """Say something from a signal's handler, and once more when the screen is gone; False where there is none."""
    for one in _open:
        one.last = words
    return bool(_open)


def line(what: str, how: str) -> None:
    """A line that stays above the screen; nothing where there is none."""
    for one in _open:
        one.line(what, how)


class _Screen:
    """The lines at the foot of a terminal."""

    def __init__(self, headline: str) -> None:
        self.headline: Callable[[], str] = lambda: headline
        self.last = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw it, and keep off the log what it shows."""
        from rich.live import Live

        handlers = list(logging.getLogger().handlers)
        for handler in handlers:
            handler.addFilter(_is_news)
        console = progress.stderr_console()
        live = Live(
            get_renderable=lambda: progress.drawing(self.last or self.headline(), progress.current()),
            console=console,
            transient=True,
            redirect_stdout=False,
        )
        try:
            with progress.bars_elsewhere(), live:
                yield
        finally:
            for handler in handlers:
                handler.removeFilter(_is_news)
            if self.last:
                console.print(self.last, soft_wrap=True, markup=False, highlight=False)

    def line(self, what: str, how: str) -> None:
        """A finished piece of work and how long it took."""
        from rich.text import Text

        progress.stderr_console().print(Text.assemble(("✓ ", "green"), f"{what:<28}", (how, "dim")))


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log line says something that the screen does not."""
    return record.levelno > logging.INFO or record.name not in _SHOWN_HERE
