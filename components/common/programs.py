"""Names of programs as they can be typed here."""

import shutil
import sys
from pathlib import Path


def program(name: str) -> str:
    """What to type for a program installed with this one: its name, or its path where the name would not be found."""
    path = Path(sys.executable).parent / name
    if shutil.which(name) is not None or not path.is_file():
        return name
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
