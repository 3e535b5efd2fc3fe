"""Which days may be compacted: those whose collectors have surely flushed. All in UTC, whatever the machine's zone."""

from __future__ import annotations

import datetime as dt

from quantlab_dagster.errors import DayRefused

__all__ = ["DAY_SETTLES_AT", "check_eligible", "eligible_from", "expected_day", "last_eligible_day", "yesterday"]

DAY_SETTLES_AT = dt.time(2, 30)
"""A day becomes eligible at this time (UTC) of the next day."""

_EXPECTED_BY = dt.time(4, 0)
"""And should be settled by this one."""


def eligible_from(day: dt.date) -> dt.datetime:
    """The moment from which a day may be compacted."""
    return dt.datetime.combine(day + dt.timedelta(days=1), DAY_SETTLES_AT, dt.UTC)


def yesterday(now: dt.datetime) -> dt.date:
    """The UTC day before that of `now` (aware), eligible or not."""
    return now.astimezone(dt.UTC).date() - dt.timedelta(days=1)


def last_eligible_day(now: dt.datetime) -> dt.date:
    """The latest day that may be compacted at `now` (aware)."""
    return yesterday(now - dt.timedelta(hours=DAY_SETTLES_AT.hour, minutes=DAY_SETTLES_AT.minute))


def expected_day(now: dt.datetime) -> dt.date:
    """The latest day that should be settled at `now` (aware): yesterday from 04:00 UTC on."""
    return yesterday(now - dt.timedelta(hours=_EXPECTED_BY.hour, minutes=_EXPECTED_BY.minute))


def check_eligible(day: dt.date, now: dt.datetime) -> None:
    """Refuse a day that is still being written.

    Raises:
        DayRefused: saying from when on it is eligible.
    """
    if day > last_eligible_day(now):
        try:
            remedy = f"It can be compacted from {eligible_from(day):%Y-%m-%d %H:%M} UTC on"
        except OverflowError:
            remedy = "It is the last day of the calendar"
        raise DayRefused(f"{day:%Y-%m-%d}", "is not complete: collectors may still write to it", remedy)
