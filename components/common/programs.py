"""Names of programs as they can be typed here."""

import re
import shlex
import shutil
import sys
from pathlib import Path

_NAMED = re.compile(r"`capfilt (?=[a-z])")


def program(name: str) -> str:
    """What to type for a program installed with this one: its name, or its path where the name would not be found."""
    path = Path(sys.executable).parent / name
    if shutil.which(name) is not None or not path.is_file():
        return name
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def typeable(text: str) -> str:
    """A message in which commands stand as `capfilt …`, with what is to be typed for that name here."""
    return _NAMED.sub(lambda _: f"`{shlex.quote(program('capfilt'))} ", text)


def command_line(*words: str) -> str:
    """A command of ours as it can be typed where the user stands: `.venv/bin/capfilt dataset show runs/x`."""
    return shlex.join([program("capfilt"), *words])
