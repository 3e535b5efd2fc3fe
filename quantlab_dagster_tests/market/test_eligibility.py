from __future__ import annotations

import datetime as dt
import time

import pytest

from quantlab_dagster.errors import DayRefused
from quantlab_dagster.market.eligibility import check_eligible, last_eligible_day
from quantlab_dagster.work.clock import utc_now

DAY = dt.date(2026, 1, 8)


@pytest.mark.parametrize(
    ("now", "last"),
    [
        ("2026-01-09T02:29:59.999999+00:00", "2026-01-07"),
        ("2026-01-09T02:30:00+00:00", "2026-01-08"),
        ("2026-01-09T23:59:59+00:00", "2026-01-08"),
        ("2026-01-10T00:00:00+00:00", "2026-01-08"),
        ("2026-03-01T02:30:00+00:00", "2026-02-28"),
        # The same moment in other zones.
        ("2026-01-09T16:30:00+14:00", "2026-01-08"),
        ("2026-01-09T16:29:59+14:00", "2026-01-07"),
        ("2026-01-08T14:30:00-12:00", "2026-01-08"),
        ("2026-01-08T14:29:59-12:00", "2026-01-07"),
    ],
)
def test_a_day_becomes_eligible_to_the_second(now: str, last: str) -> None:
    assert last_eligible_day(dt.datetime.fromisoformat(now)) == dt.date.fromisoformat(last)


@pytest.mark.guards("local-time")
def test_the_clock_is_utc_whatever_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("UTC-14", "UTC+12"):  # POSIX signs: 14 hours ahead, 12 hours behind
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert utc_now().utcoffset() == dt.timedelta(0)
        assert abs(utc_now().timestamp() - time.time()) < 5
    monkeypatch.delenv("TZ")
    time.tzset()


def test_refusal_says_from_when_on() -> None:
    with pytest.raises(DayRefused, match=r"2026-01-08: is not complete.*from 2026-01-09 02:30 UTC on"):
        check_eligible(DAY, dt.datetime(2026, 1, 8, 12, tzinfo=dt.UTC))
    check_eligible(DAY, dt.datetime(2026, 1, 9, 2, 30, tzinfo=dt.UTC))
    with pytest.raises(DayRefused, match=r"9999-12-31: is not complete.*the last day of the calendar"):
        check_eligible(dt.date.max, utc_now())
