"""The unit of `ts_event` is guessed from the day, or not at all."""

from __future__ import annotations

import datetime as dt

import pytest

from quantlab_dagster.market.timeunit import ticks_per_second, time_of


@pytest.mark.parametrize("ticks", [1, 10**3, 10**6, 10**9])
def test_the_unit_is_guessed_from_the_day(ticks: int) -> None:
    midnight = int(dt.datetime(2026, 1, 8, tzinfo=dt.UTC).timestamp())
    low, high = (midnight - 5) * ticks, (midnight + 86_400 + 5) * ticks
    assert ticks_per_second(low, high, dt.date(2026, 1, 8)) == ticks
    assert time_of(low, ticks) == dt.datetime(2026, 1, 7, 23, 59, 55, tzinfo=dt.UTC)


def test_a_range_far_from_the_day_has_no_known_unit() -> None:
    assert ticks_per_second(0, 10, dt.date(2026, 1, 8)) is None
    assert ticks_per_second(-(1 << 63), (1 << 63) - 1, dt.date(2026, 1, 8)) is None
