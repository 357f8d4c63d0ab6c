"""The schedule in local time, also on the days on which clocks are changed."""

import asyncio
from datetime import date, datetime, time
from zoneinfo import ZoneInfo

import pytest

from components.common.errors import ConfigError
from flows.serving import make_schedule

NEW_YORK = "America/New_York"


def dates(cron: str, zone: str, start: datetime, count: int) -> list[datetime]:
    """When Prefect's scheduler starts runs: with its own class, from the schedule that we hand over."""
    from prefect.server.schemas.schedules import CronSchedule

    given = make_schedule(cron, zone)
    schedule = CronSchedule(cron=given.cron, timezone=given.timezone)
    found = asyncio.run(schedule.get_dates(n=count, start=start))
    return [one.astimezone(ZoneInfo(zone)) for one in found]


@pytest.mark.parametrize(
    "first",
    [date(2026, 3, 6), date(2026, 10, 30), date(2026, 6, 1)],
    ids=["clocks set forward on the 8th", "clocks set back on the 1st", "summer"],
)
def test_every_day_at_four_is_four_oclock_local_time(first: date) -> None:
    found = dates("0 4 * * *", NEW_YORK, datetime.combine(first, time(0), ZoneInfo(NEW_YORK)), 5)
    assert [one.time() for one in found] == [time(4)] * 5
    assert [(one.date() - first).days for one in found] == [0, 1, 2, 3, 4]


def test_an_hour_that_does_not_exist_or_comes_twice_gives_one_run_a_day() -> None:
    zone = ZoneInfo(NEW_YORK)
    for first in (date(2026, 3, 7), date(2026, 10, 31)):
        for cron in ("30 2 * * *", "30 1 * * *"):
            found = dates(cron, NEW_YORK, datetime.combine(first, time(0), zone), 3)
            assert [(one.date() - first).days for one in found] == [0, 1, 2], (cron, found)


def test_no_cron_no_schedule() -> None:
    assert make_schedule(None, "UTC") is None


@pytest.mark.parametrize("cron", ["61 2 * * *", "daily", "", "* * * *", "0 2 R * *"])
def test_a_wrong_cron_is_refused_in_one_line(cron: str) -> None:
    with pytest.raises(ConfigError, match="is no cron expression") as refused:
        make_schedule(cron, "UTC")
    assert "\n" not in str(refused.value)
