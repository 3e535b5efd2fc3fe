"""Times as people say them, in the unit of `ts_event`; pure.

A lake may hold days in milliseconds and days in nanoseconds. The unit of one is told by the range of its meta.json and
the day of its path; of a bare number by its size, since the years 2001 to 2100 lie apart in all four units.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from quantlab_dagster.reader.errors import TimeUnitUnclear

__all__ = ["UNITS", "Bound", "Instant", "Unit", "bound_of", "span_of_days", "unit_of_ticks"]

Instant = dt.datetime | dt.date | str | int
"""A time: an aware datetime; a date, for its midnight (UTC); either as text, ISO 8601; or a number of `ts_event`.

Integers of NumPy are numbers, too; a Timestamp of pandas and a text keep their nanoseconds.
"""

Unit = Literal["s", "ms", "us", "ns"]
"""As Polars names them."""

UNITS: dict[int, Unit] = {1: "s", 10**3: "ms", 10**6: "us", 10**9: "ns"}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_YEARS = (978_307_200, 4_102_444_800)  # 2001 and 2100, in seconds
_NS = 10**9
_FRACTION = re.compile(r"(?P<begin>[^.,]*[.,]\d{6})(?P<nanoseconds>\d{1,3})(?P<rest>\d*)(?P<zone>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Bound:
    """The beginning or the end of a range of time.

    Attributes:
        nanoseconds: since 1970 (UTC).
        number: the value of `ts_event` itself, where that was given: for days in no usual unit.
    """

    nanoseconds: int
    number: int | None = None

    @property
    def day(self) -> dt.date:
        """The UTC day that it lies in."""
        return (_EPOCH + dt.timedelta(microseconds=self.nanoseconds // 1000)).date()

    def in_ticks(self, ticks: int) -> int:
        """The least value of `ts_event`, in a unit, that is not before this time."""
        return -(-self.nanoseconds * ticks // _NS)


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
    if isinstance(instant, Integral):
        return _of_number(int(instant), what)
    given, nanoseconds = instant, getattr(instant, "nanosecond", 0)  # those of a pandas.Timestamp
    if isinstance(instant, str):
        instant, nanoseconds = _parsed(instant, what)
    if isinstance(instant, dt.datetime):
        if instant.tzinfo is None:
            raise _unclear(what, given, "has no time zone")
    elif isinstance(instant, dt.date):
        instant = dt.datetime.combine(instant, dt.time(), dt.UTC)
    else:
        raise _unclear(what, given, "is no time")
    return Bound((instant - _EPOCH) // dt.timedelta(microseconds=1) * 1000 + nanoseconds)


def _of_number(number: int, what: str) -> Bound:
    for ticks in UNITS:
        if _YEARS[0] * ticks <= number < _YEARS[1] * ticks:
            return Bound(number * (_NS // ticks), number)
    raise _unclear(what, number, "is no ts_event between 2001 and 2100 in s, ms, us or ns")


def _parsed(text: str, what: str) -> tuple[dt.datetime | dt.date, int]:
    """A time to the microsecond, and the nanoseconds behind it."""
    try:
        return dt.date.fromisoformat(text), 0
    except ValueError:
        pass
    match = _FRACTION.fullmatch(text)
    if match and match["rest"].strip("0"):
        raise _unclear(what, text, "is finer than a nanosecond")
    try:
        found = dt.datetime.fromisoformat(match["begin"] + match["zone"] if match else text)
    except ValueError:
        raise _unclear(what, text, "is no time of ISO 8601") from None
    return found, int(match["nanoseconds"].ljust(3, "0")) if match else 0


def _unclear(what: str, given: object, cause: str) -> TimeUnitUnclear:
    remedy = "Give a datetime with a time zone, a date, 2026-01-08T12:00:00Z or a value of ts_event"
    return TimeUnitUnclear(f"{what} {given!r}", cause, remedy)


def span_of_days(start: Bound | None, end: Bound | None) -> tuple[dt.date, dt.date]:
    """The first and the last day that a range [start, end) touches."""
    first = start.day if start else dt.date.min
    if end is None:
        return first, dt.date.max
    return first, Bound(end.nanoseconds - 1).day
