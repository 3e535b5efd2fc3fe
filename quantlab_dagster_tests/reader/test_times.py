"""Times as people say them, in the unit of the day."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab_dagster.reader import TimeUnitUnclear
from quantlab_dagster.reader.times import bound_of, span_of_days

NOON = dt.datetime(2026, 1, 8, 12, tzinfo=dt.UTC)
SECONDS = 1_767_873_600


@pytest.mark.parametrize(
    "given_",
    [
        NOON,
        NOON.astimezone(dt.timezone(dt.timedelta(hours=5))),
        "2026-01-08T12:00:00Z",
        "2026-01-08T13:00:00+01:00",
        SECONDS,
        SECONDS * 10**3,
        SECONDS * 10**6,
        SECONDS * 10**9,
    ],
)
@pytest.mark.parametrize("ticks", [1, 10**3, 10**6, 10**9])
def test_one_time_in_every_spelling_and_unit(given_: dt.datetime | str | int, ticks: int) -> None:
    assert bound_of(given_, "start").in_ticks(ticks) == SECONDS * ticks


@pytest.mark.parametrize("given_", [dt.date(2026, 1, 8), "2026-01-08", "20260108"])
def test_a_date_is_its_midnight(given_: dt.date | str) -> None:
    assert bound_of(given_, "start").in_ticks(1) == SECONDS - 12 * 3600


@pytest.mark.parametrize(
    ("given_", "cause"),
    [
        (dt.datetime(2026, 1, 8), "has no time zone"),  # noqa: DTZ001
        ("2026-01-08T12:00:00", "has no time zone"),
        ("yesterday", "is no time of ISO 8601"),
        (17, "is no ts_event between 2001 and 2100"),
        (-SECONDS, "is no ts_event between 2001 and 2100"),
        (True, "is no time"),
        (1.5, "is no time"),
        (float(SECONDS), "is no time"),
        (np.bool_(True), "is no time"),
        ("2026-01-08T12:00:00.0000000001Z", "is finer than a nanosecond"),
        ("2026-01-08T12:00:00.000000001", "has no time zone"),
        ("2026-01-08T12:00:00.000000001x", "is no time of ISO 8601"),
    ],
)
def test_what_is_no_time_is_refused(given_: object, cause: str) -> None:
    with pytest.raises(TimeUnitUnclear, match=cause):
        bound_of(given_, "start")  # type: ignore[arg-type]


class Timestamp(dt.datetime):
    """As that of pandas: a datetime that knows its nanoseconds."""

    nanosecond = 500


@pytest.mark.parametrize(
    ("given_", "nanoseconds"),
    [
        ("2026-01-08T12:00:00.000001500Z", 1_500),
        ("2026-01-08T13:00:00,000001500+01:00", 1_500),
        ("2026-01-08T12:00:00.0000015Z", 1_500),
        ("2026-01-08T12:00:00.0000015000000Z", 1_500),
        ("2026-01-08T12:00:00.000001Z", 1_000),
        ("2026-01-08T12:00:00.5Z", 500_000_000),
        (Timestamp(2026, 1, 8, 12, 0, 0, 1, dt.UTC), 1_500),
        (SECONDS * 10**9 + 1_500, 1_500),
        (np.int64(SECONDS * 10**9 + 1_500), 1_500),
    ],
)
def test_nanoseconds_are_kept(given_: dt.datetime | str | int, nanoseconds: int) -> None:
    bound = bound_of(given_, "start")
    assert bound.in_ticks(10**9) == SECONDS * 10**9 + nanoseconds
    assert bound.in_ticks(10**6) == SECONDS * 10**6 + -(-nanoseconds // 1000)


@given(st.integers(SECONDS * 10**9, SECONDS * 10**9 + 10**7), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_a_bound_is_the_least_value_that_is_not_before_it(nanoseconds: int, ticks: int) -> None:
    value = bound_of(nanoseconds, "start").in_ticks(ticks)
    assert (value - 1) * 10**9 < nanoseconds * ticks <= value * 10**9


def test_a_range_that_ends_at_midnight_does_not_touch_the_day_that_begins() -> None:
    start, end = bound_of("2026-01-08", "start"), bound_of("2026-01-10", "end")
    assert span_of_days(start, end) == (dt.date(2026, 1, 8), dt.date(2026, 1, 9))
    assert span_of_days(None, None) == (dt.date.min, dt.date.max)


def test_a_range_that_ends_a_nanosecond_after_midnight_touches_it() -> None:
    midnight = (SECONDS + 12 * 3600) * 10**9
    start = bound_of("2026-01-08", "start")
    assert span_of_days(start, bound_of(midnight, "end")) == (dt.date(2026, 1, 8), dt.date(2026, 1, 8))
    assert span_of_days(start, bound_of(midnight + 1, "end")) == (dt.date(2026, 1, 8), dt.date(2026, 1, 9))
