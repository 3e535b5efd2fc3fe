"""Sets of days as few closed ranges: how the state remembers for which days a pair is settled. Pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import day_text, parse_day

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Ranges", "contains", "kept_where", "with_range"]

Ranges = tuple[tuple[str, str], ...]
"""Closed ranges of days as YYYYMMDD, ascending, none of them touching the next."""

_ONE_DAY = dt.timedelta(days=1)


def contains(ranges: Ranges, text: str) -> bool:
    """Whether a day (YYYYMMDD) is in the set."""
    return any(first <= text <= last for first, last in ranges)


def with_range(ranges: Ranges, first: dt.date, last: dt.date) -> Ranges:
    """The set with all days from `first` to `last` added; unchanged if `last` is before `first`."""
    if last < first:
        return ranges
    merged: list[tuple[dt.date, dt.date]] = []
    for low, high in sorted([*_dates(ranges), (first, last)]):
        if merged and low <= merged[-1][1] + _ONE_DAY:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple((day_text(low), day_text(high)) for low, high in merged)


def kept_where(ranges: Ranges, wanted: Callable[[dt.date], bool]) -> Ranges:
    """The days of the set for which a condition holds."""
    kept: Ranges = ()
    for low, high in _dates(ranges):
        day = low
        while day <= high:
            kept = with_range(kept, day, day) if wanted(day) else kept
            day += _ONE_DAY
    return kept


def _dates(ranges: Ranges) -> Iterable[tuple[dt.date, dt.date]]:
    return [(parse_day(first), parse_day(last)) for first, last in ranges]
