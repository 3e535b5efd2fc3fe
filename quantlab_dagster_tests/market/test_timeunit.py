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


@pytest.mark.parametrize("ticks", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("stray", [0, -5, (1 << 63) - 1, -(1 << 63)])
def test_one_row_far_off_does_not_hide_the_unit(ticks: int, stray: int) -> None:
    noon = int(dt.datetime(2026, 1, 8, 12, tzinfo=dt.UTC).timestamp()) * ticks
    low, high = min(noon, stray), max(noon, stray)
    assert ticks_per_second(low, high, dt.date(2026, 1, 8)) == ticks
    assert time_of(low, ticks) < time_of(high, ticks)


def test_ends_of_different_units_have_none() -> None:
    noon = int(dt.datetime(2026, 1, 8, 12, tzinfo=dt.UTC).timestamp())
    assert ticks_per_second(noon * 10**3, noon * 10**6, dt.date(2026, 1, 8)) is None


def test_what_no_calendar_holds_is_its_first_or_last_day() -> None:
    assert time_of((1 << 63) - 1, 1) == dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
    assert time_of(-(1 << 63), 10**3) == dt.datetime(1, 1, 1, tzinfo=dt.UTC)
