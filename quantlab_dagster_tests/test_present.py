"""Tests that count days from the present one do not meet the moment when another day becomes eligible."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster_tests.conftest import pytest_collection_modifyitems, waiting_time


@pytest.mark.parametrize(
    ("time", "minutes"), [("02:10", 0), ("02:16", 14), ("02:29", 1), ("02:31", 0), ("00:00", 0), ("14:25", 0)]
)
def test_it_is_waited_for_if_it_is_near(time: str, minutes: int) -> None:
    now = dt.datetime.fromisoformat(f"2026-11-29T{time}:00+00:00")
    waiting = waiting_time(now)
    assert waiting // dt.timedelta(minutes=1) == minutes
    later = [now + waiting + dt.timedelta(minutes=number) for number in range(15)]
    assert len({last_eligible_day(one) for one in later}) == 1


def test_what_counts_from_the_present_day_comes_first() -> None:
    items: Any = [
        SimpleNamespace(name=name, get_closest_marker=lambda _, name=name: "p" in name or None) for name in "apbpc"
    ]
    pytest_collection_modifyitems(items)
    assert [item.name for item in items] == ["p", "p", "a", "b", "c"]
