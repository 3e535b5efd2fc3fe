"""How often a symbol's collector flushes: from the names of its parts, which say when. Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import flushed_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Gap", "days_alike", "gap_within", "longest_gap", "quick_limit", "usual_gap", "usual_limit"]

_DAY_SECONDS = 24 * 3600

_MOST_TIMES = 4
"""A symbol may be silent for so many times its usual longest gap: what speaks at random now and then does so."""

_MARGIN, _SPREADS = 1.25, 6
"""One whose days are alike, as a stream that speaks every eight hours, for less."""

_FEW_DAYS = 3

_FEW_TIMES = 2
"""A single weekend is believed up to so many times the usual gap of all days: it may have been the collector."""

_SATURDAY = 5

_ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest time between two flushes of a day.

    Attributes:
        day: which.
        seconds: with the time over midnight, as if every day were this one.
        within: without what lies before the first flush: nobody may have been there to flush.
    """

    day: dt.date
    seconds: int
    within: int


def longest_gap(names: Iterable[str], day: dt.date) -> int | None:
    """The longest time between two flushes of a day, in seconds; None if no name says when.

    The time over midnight counts as if every day were this one: from the last flush to the first. So a single part a
    day is a gap of a day, and a collector that began at noon has one of half a day.
    """
    moments = _moments(names, day)
    if not moments:
        return None
    return max(0, moments[0] + _DAY_SECONDS - moments[-1], _longest_between(moments))


def gap_within(names: Iterable[str], day: dt.date) -> int | None:
    """The same without the time before the first flush, but with that from the last one to the end of the day."""
    moments = _moments(names, day)
    if not moments:
        return None
    return max(0, _DAY_SECONDS - moments[-1], _longest_between(moments))


def _moments(names: Iterable[str], day: dt.date) -> list[int]:
    """When parts were flushed, in seconds of the day, ascending; not what is far from it."""
    begin = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
    found = sorted({seconds for name in names if (seconds := flushed_at(name)) is not None})
    return [seconds - begin for seconds in found if -_DAY_SECONDS < seconds - begin < 2 * _DAY_SECONDS]


def _longest_between(moments: Sequence[int]) -> int:
    return max((after - before for before, after in pairwise(moments)), default=0)


def usual_gap(gaps: Sequence[int]) -> int | None:
    """The usual longest gap, from the longest ones of some days: their median, of an even number the lower one.

    So days on which the collector was away do not make its symbol's silence usual while they are fewer than half.
    """
    return sorted(gaps)[(len(gaps) - 1) // 2] if gaps else None


def usual_limit(gaps: Sequence[int]) -> float | None:
    """How long a symbol may be silent by its own pace, in seconds; None if that is not known.

    Four times its usual longest gap; or, if less, a quarter above it and six times what it is above the least.
    """
    gap = usual_gap(gaps)
    if gap is None:
        return None
    most = float(_MOST_TIMES * gap)
    return most if len(gaps) < _FEW_DAYS else min(most, _MARGIN * gap + _SPREADS * (gap - min(gaps)))


def quick_limit(gaps: Sequence[int]) -> float | None:
    """How long all of a pair may be silent, in seconds: four times the lower quartile; None if that is not known."""
    return float(_MOST_TIMES * sorted(gaps)[len(gaps) // 4]) if gaps else None


def days_alike(gaps: Sequence[Gap], today: dt.date) -> list[list[int]]:
    """The longest gaps that tell how long a symbol may be silent today: of all days, and of weekends after one began.

    Of fewer than three days only what lies after the first flush counts. Of a single weekend not any length does: it
    may have been the collector.
    """
    if len(gaps) < _FEW_DAYS:
        return [[gap.within for gap in gaps]]
    every = [gap.seconds for gap in gaps]
    weekends = [gap.seconds for gap in gaps if _is_weekend(gap.day)]
    usual = usual_gap(every) or 0
    if not (_is_weekend(today) or _is_weekend(today - _ONE_DAY)) or (usual_gap(weekends) or 0) <= _MARGIN * usual:
        return [every]
    if len(weekends) < _FEW_DAYS:
        weekends = [min(seconds, _FEW_TIMES * usual) for seconds in weekends]
    return [every, weekends]


def _is_weekend(day: dt.date) -> bool:
    return day.weekday() >= _SATURDAY
