"""What a hook is told: the partitions whose files were replaced, and no half of them."""

from __future__ import annotations

import datetime as dt

from quantlab_dagster.lake.warehouse import AppHour
from quantlab_dagster.warehouse.hook import changed_directories, facts
from quantlab_dagster.warehouse.outcome import HourOutcome, HourStatus, Replacement

HOUR = dt.datetime(2026, 1, 15, 10, tzinfo=dt.UTC)
DONE = Replacement("compacted_x.parquet", 2, 2, 2, 2, 0.1)


def test_only_what_changed_is_told_also_where_it_failed_afterwards() -> None:
    outcomes = [
        HourOutcome(AppHour("b", HOUR), HourStatus.COMPACTED, replacements=(DONE, DONE)),
        HourOutcome(AppHour("a", HOUR), HourStatus.FAILED, replacements=(DONE,)),
        HourOutcome(AppHour("c", HOUR), HourStatus.FAILED),
        HourOutcome(AppHour("d", HOUR), HourStatus.UNTOUCHED),
    ]
    below = "year=2026/month=01/day=15/hour=10/"
    assert changed_directories(outcomes) == [f"app_id=a/{below}", f"app_id=b/{below}"]


def test_a_list_that_is_too_long_for_a_variable_is_not_told_by_half() -> None:
    assert facts("s3://x", ["a/", "b/"]) == {
        "COMPACTED_LAKE": "s3://x",
        "COMPACTED_COUNT": "2",
        "COMPACTED_PARTITIONS": "a/\nb/",
    }
    assert facts("s3://x", ["ö" * 100] * 400) == {"COMPACTED_LAKE": "s3://x", "COMPACTED_COUNT": "400"}
