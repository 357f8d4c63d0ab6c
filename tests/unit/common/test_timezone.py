"""Local time is known by its name, or the schedule is refused."""

import zoneinfo
from pathlib import Path

import pytest

from components.common import timezone
from components.common.errors import ConfigError
from components.common.timezone import local_timezone


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(timezone, "_ETC", tmp_path)
    monkeypatch.delenv("TZ", raising=False)
    return tmp_path


def zone_file(name: str) -> Path:
    found = [Path(folder) / name for folder in zoneinfo.TZPATH if (Path(folder) / name).is_file()]
    if not found:
        pytest.skip("this machine has no zoneinfo files")
    return found[0]


@pytest.mark.parametrize("value", ["America/New_York", ":America/New_York", "/usr/share/zoneinfo/America/New_York"])
def test_the_variable_names_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", value)
    assert local_timezone() == "America/New_York"


@pytest.mark.parametrize("value", ["CET-1CEST,M3.5.0,M10.5.0/3", "Nowhere/City", "../../etc/passwd", "/tmp/zone"])
def test_a_variable_without_a_name_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", value)
    with pytest.raises(ConfigError, match="set TZ to a name"):
        local_timezone()


def test_a_machine_without_a_setting_is_on_utc(etc: Path) -> None:
    assert local_timezone() == "UTC"


def test_a_link_names_it(etc: Path) -> None:
    (etc / "localtime").symlink_to(zone_file("Europe/Berlin"))
    assert zoneinfo.ZoneInfo(local_timezone()).key == "Europe/Berlin"


def test_a_copy_is_known_by_its_content_and_the_note_beside_it(etc: Path) -> None:
    (etc / "localtime").write_bytes(zone_file("Europe/Berlin").read_bytes())
    found = zone_file(local_timezone())
    assert found.read_bytes() == zone_file("Europe/Berlin").read_bytes()
    (etc / "timezone").write_text("Europe/Berlin\n")
    assert local_timezone() == "Europe/Berlin"


def test_a_file_of_no_zone_is_refused(etc: Path) -> None:
    (etc / "localtime").write_bytes(b"TZif2 of my own")
    with pytest.raises(ConfigError, match="does not say which time zone"):
        local_timezone()
