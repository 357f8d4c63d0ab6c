"""The time zone of this machine, by the name under which its daylight-saving days are known."""

import os
import zoneinfo
from collections.abc import Iterable
from pathlib import Path

from components.common.errors import ConfigError

_ETC = Path("/etc")
_REMEDY = "set TZ to a name such as Europe/Berlin"


def local_timezone() -> str:
    """The IANA name of local time, e.g. `Europe/Berlin`: from TZ, else from the system's settings; UTC without any.

    Raises:
        ConfigError: local time is set, but not by a name: its daylight-saving days cannot be known.
    """
    given = os.environ.get("TZ", "").removeprefix(":")
    if given:
        return _from_variable(given)
    return _from_system(_ETC / "localtime", _ETC / "timezone")


def _from_variable(given: str) -> str:
    name = _name_in(given) if given.startswith("/") else given
    if name is None or not _is_zone(name):
        raise ConfigError(f"TZ={given!r} is not the name of a time zone, so a schedule cannot follow it; {_REMEDY}")
    return name


def _from_system(clock: Path, note: Path) -> str:
    """What `/etc/localtime` is a link to or a copy of; without that file the system's time is UTC."""
    if not clock.exists():
        return "UTC"
    if name := _name_in(str(clock.resolve())):
        return name
    noted = [note.read_text(encoding="utf-8", errors="replace").strip()] if note.is_file() else []
    name = _same_as(clock, [*noted, *sorted(zoneinfo.available_timezones())])
    if name is None:
        raise ConfigError(f"{clock} does not say which time zone it is, so a schedule cannot follow it; {_REMEDY}")
    return name


def _name_in(path: str) -> str | None:
    """`Europe/Berlin` of `/usr/share/zoneinfo/Europe/Berlin`."""
    name = path.partition("zoneinfo/")[2].removeprefix("posix/")
    return name if _is_zone(name) else None


def _same_as(clock: Path, names: Iterable[str]) -> str | None:
    """The first of the zones whose file this one is a copy of."""
    content = clock.read_bytes()
    files = ((name, Path(folder) / name) for name in filter(_is_zone, names) for folder in zoneinfo.TZPATH)
    return next((name for name, file in files if file.is_file() and file.read_bytes() == content), None)


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return bool(name)
