"""How often a symbol's collector flushes: from the names of its parts, which say when. Pure."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import flushed_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["longest_gap", "usual_gap", "usual_limit"]

_DAY_SECONDS = 24 * 3600

_MOST_TIMES = 4
"""A symbol may be silent for so many times its usual longest gap: what speaks at random now and then does so."""

_MARGIN, _SPREADS = 1.25, 3
"""One whose days are alike, as a stream that speaks every eight hours, for less."""

_FEW_DAYS = 3


def longest_gap(names: Iterable[str], day: dt.date) -> int | None:
    """The longest time between two flushes of a day, in seconds; None if no name says when.

    The time over midnight counts as if every day were this one: from the last flush to the first. So a single part a
    day is a gap of a day, and a collector that began at noon has one of half a day.
    """
    begin = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
    found = sorted({seconds for name in names if (seconds := flushed_at(name)) is not None})
    moments = [seconds - begin for seconds in found if -_DAY_SECONDS < seconds - begin < 2 * _DAY_SECONDS]
    if not moments:
        return None
    over_midnight = max(0, moments[0] + _DAY_SECONDS - moments[-1])
    return max(over_midnight, *(after - before for before, after in pairwise(moments)), 0)


def usual_gap(gaps: Sequence[int]) -> int | None:
    """The usual longest gap, from the longest ones of some days: the second longest, or that of a single day.

    One day on which the collector was away for hours does not make its symbol's silence usual for a week. Both days of
    a quiet weekend are in a week, so the second longest is still of such a day.
    """
    if not gaps:
        return None
    return sorted(gaps)[-2] if len(gaps) > 1 else gaps[0]


def usual_limit(gaps: Sequence[int]) -> float | None:
    """How long a symbol may be silent by its own pace, in seconds; None if that is not known.

    Four times its usual longest gap; or, if less, a quarter above it and three times what the days differ by.
    """
    gap = usual_gap(gaps)
    if gap is None:
        return None
    most = float(_MOST_TIMES * gap)
    return most if len(gaps) < _FEW_DAYS else min(most, _MARGIN * gap + _SPREADS * (gap - min(gaps)))
