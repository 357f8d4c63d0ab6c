"""What commands show to people: tables as wide as the terminal (80 columns where there is none), and what to do next.

Imported in the commands, for rich is not needed by `--help`.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from components.common.programs import command_line
from components.common.progress import clock

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def rendered(*parts: RenderableType) -> str:
    """Tables and lines one below the other, as they are printed; lines are not broken, so that they can be copied."""
    console = Console(highlight=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, (str, Text)), markup=False)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


def table(
    columns: Iterable[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = (), title: str = ""
) -> Table:
    """A table with a heading per column.

    Args:
        columns: headings.
        rows: cells, as they are or as their text.
        right: headings of the columns that are flush right.
        title: a line above it.
    """
    made = Table(title=title or None, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    numbers = set(right)
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def facts(known: Mapping[str, object]) -> Text:
    """Names and values, a line each; what is None or empty is left out. Values are not broken."""
    shown = {name: value for name, value in known.items() if value not in (None, "")}
    width = max(map(len, shown), default=0)
    lines = [Text.assemble((f"{name:<{width}}  ", "dim"), str(value)) for name, value in shown.items()]
    return Text("\n").join(lines)


def next_step(*commands: tuple[str, ...] | str) -> Text:
    """What to do next: commands by their words, as they can be typed where the user stands, or a sentence."""
    lines = [one if isinstance(one, str) else command_line(*one) for one in commands]
    head = [Text.assemble(("next: " if at == 0 else "      ", "bold"), line) for at, line in enumerate(lines)]
    return Text("\n").join(head)


def ago(moment: float, now: float | None = None) -> str:
    """How long ago a time is, seconds since 1970; a clock that is ahead makes no negative ages."""
    return f"{clock(max((time.time() if now is None else now) - moment, 0.0))} ago"


def local_time(moment: float | datetime) -> str:
    """A time as the user's own clock has it."""
    known = datetime.fromtimestamp(moment) if isinstance(moment, float) else moment.astimezone()
    return f"{known:%Y-%m-%d %H:%M:%S}"


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:,.0f} {_UNITS[unit]}" if unit == 0 else f"{count:,.1f} {_UNITS[unit]}"


def short(value: Any) -> str:
    """A setting's value as it is written in a config."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
