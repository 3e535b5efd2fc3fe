"""The unit of `ts_event`, guessed for pictures and messages only: nothing that is published depends on it."""

from __future__ import annotations

import datetime as dt

__all__ = ["minute_width", "ticks_per_second", "time_of"]

_TICKS = (1, 10**3, 10**6, 10**9)
_SLACK = dt.timedelta(days=2)


def ticks_per_second(low: int, high: int, day: dt.date) -> int | None:
    """How many ticks of `ts_event` make a second, if its range, or one end of it, lies near the day in a usual unit.

    One end is enough: a single row that lies far off must not hide what the others say. Ends that fit different units
    say nothing.

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
    near = {ticks for ticks in _TICKS for value in (low, high) if earliest <= value / ticks <= latest}
    return near.pop() if len(near) == 1 else None


def minute_width(low: int | None, high: int | None, day: dt.date) -> int | None:
    """One minute in ticks of `ts_event`; None without rows, or where no unit fits."""
    if low is None or high is None:
        return None
    ticks = ticks_per_second(low, high, day)
    return ticks * 60 if ticks else None


def time_of(value: int, ticks: int) -> dt.datetime:
    """The time (UTC) that a value of `ts_event` stands for, to the microsecond; the first or last one that there is."""
    seconds, rest = divmod(value, ticks)
    first, last = (dt.datetime.combine(day, dt.time(), dt.UTC) for day in (dt.date.min, dt.date.max))
    if not first.timestamp() <= seconds < last.timestamp():
        return first if seconds < 0 else last
    return dt.datetime.fromtimestamp(seconds, dt.UTC) + dt.timedelta(microseconds=rest * 10**6 // ticks)
