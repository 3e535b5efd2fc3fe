"""The unit of `ts_event`, guessed for pictures and messages only: nothing that is published depends on it."""

from __future__ import annotations

import datetime as dt

__all__ = ["minute_width", "ticks_per_second", "time_of"]

_TICKS = (1, 10**3, 10**6, 10**9)
_SLACK = dt.timedelta(days=2)


def ticks_per_second(low: int, high: int, day: dt.date) -> int | None:
    """How many ticks of `ts_event` make a second, if its range lies near the day in one of the usual units.

    Args:
        low: least value.
        high: greatest value.
        day: the UTC day of the directory.

    Returns:
        1, 10^3, 10^6 or 10^9; None if no unit fits.
    """
    midnight = dt.datetime.combine(day, dt.time(), dt.UTC)
    earliest = (midnight - _SLACK).timestamp()
    latest = (midnight + dt.timedelta(days=1) + _SLACK).timestamp()
    for ticks in _TICKS:
        if earliest <= low / ticks <= high / ticks <= latest:
            return ticks
    return None


def minute_width(low: int | None, high: int | None, day: dt.date) -> int | None:
    """One minute in ticks of `ts_event`; None without rows, or where no unit fits."""
    if low is None or high is None:
        return None
    ticks = ticks_per_second(low, high, day)
    return ticks * 60 if ticks else None


def time_of(value: int, ticks: int) -> dt.datetime:
    """The time (UTC) that a value of `ts_event` stands for, to the microsecond."""
    seconds, rest = divmod(value, ticks)
    return dt.datetime.fromtimestamp(seconds, dt.UTC) + dt.timedelta(microseconds=rest * 10**6 // ticks)
