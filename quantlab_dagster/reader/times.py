"""Times as people say them, in the unit of `ts_event`; pure.

A lake may hold days in milliseconds and days in nanoseconds. The unit of one is told by the range of its meta.json and
the day of its path; of a bare number by its size, since the years 2001 to 2100 lie apart in all four units.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from quantlab_dagster.reader.errors import TimeUnitUnclear

__all__ = ["UNITS", "Bound", "Instant", "Unit", "bound_of", "span_of_days", "unit_of_ticks"]

Instant = dt.datetime | dt.date | str | int
"""A time: an aware datetime; a date, for its midnight (UTC); either as text, ISO 8601; or a number of `ts_event`."""

Unit = Literal["s", "ms", "us", "ns"]
"""As Polars names them."""

UNITS: dict[int, Unit] = {1: "s", 10**3: "ms", 10**6: "us", 10**9: "ns"}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_YEARS = (978_307_200, 4_102_444_800)  # 2001 and 2100, in seconds
_US = 10**6


@dataclass(frozen=True, slots=True)
class Bound:
    """The beginning or the end of a range of time.

    Attributes:
        microseconds: since 1970 (UTC).
        number: the value of `ts_event` itself, where that was given; then it is exact, and the microseconds are rounded
            down.
        ticks: of that number, in a second.
    """

    microseconds: int
    number: int | None = None
    ticks: int | None = None

    @property
    def day(self) -> dt.date:
        """The UTC day that it lies in."""
        return (_EPOCH + dt.timedelta(microseconds=self.microseconds)).date()

    def in_ticks(self, ticks: int) -> int:
        """The least value of `ts_event`, in a unit, that is not before this time."""
        if self.number is not None and self.ticks is not None:
            return -(-self.number * ticks // self.ticks)
        return -(-self.microseconds * ticks // _US)


def unit_of_ticks(ticks: int) -> Unit:
    """The name of a unit."""
    return UNITS[ticks]


def bound_of(instant: Instant, what: str) -> Bound:
    """A time as it was given.

    Args:
        instant: see `Instant`.
        what: which one it is, for messages.

    Raises:
        TimeUnitUnclear: it has no zone, or is none at all.
    """
    if isinstance(instant, bool):
        raise _unclear(what, instant, "is no time")
    if isinstance(instant, int):
        return _of_number(instant, what)
    if isinstance(instant, str):
        instant = _parsed(instant, what)
    if isinstance(instant, dt.datetime):
        if instant.tzinfo is None:
            raise _unclear(what, instant, "has no time zone")
        return Bound((instant - _EPOCH) // dt.timedelta(microseconds=1))
    if isinstance(instant, dt.date):
        return Bound((dt.datetime.combine(instant, dt.time(), dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1))
    raise _unclear(what, instant, "is no time")


def _of_number(number: int, what: str) -> Bound:
    for ticks in UNITS:
        if _YEARS[0] * ticks <= number < _YEARS[1] * ticks:
            return Bound(number * _US // ticks, number, ticks)
    raise _unclear(what, number, "is no ts_event between 2001 and 2100 in s, ms, us or ns")


def _parsed(text: str, what: str) -> dt.datetime | dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        pass
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        raise _unclear(what, text, "is no time of ISO 8601") from None


def _unclear(what: str, given: object, cause: str) -> TimeUnitUnclear:
    remedy = "Give a datetime with a time zone, a date, 2026-01-08T12:00:00Z or a value of ts_event"
    return TimeUnitUnclear(f"{what} {given!r}", cause, remedy)


def span_of_days(start: Bound | None, end: Bound | None) -> tuple[dt.date, dt.date]:
    """The first and the last day that a range [start, end) touches."""
    first = start.day if start else dt.date.min
    if end is None:
        return first, dt.date.max
    return first, Bound(end.in_ticks(_US) - 1).day
