"""COMPACTION_SCHEDULE becomes cron strings that tick as often as it says, evenly."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from quantlab_dagster.work.schedule import cron_schedules


@pytest.mark.parametrize(
    ("text", "crons"),
    [
        ("1h0m0s", ("0 * * * *",)),
        ("3600s", ("0 * * * *",)),
        ("15m0s", ("*/15 * * * *",)),
        ("1h", ("0 * * * *",)),
        ("60m", ("0 * * * *",)),
        ("15m", ("*/15 * * * *",)),
        ("1m", ("*/1 * * * *",)),
        ("30min", ("*/30 * * * *",)),
        ("6h", ("0 */6 * * *",)),
        ("1d", ("0 0 * * *",)),
        ("24h", ("0 0 * * *",)),
        ("90m", ("0 0,3,6,9,12,15,18,21 * * *", "30 1,4,7,10,13,16,19,22 * * *")),
        ("1h30m", ("0 0,3,6,9,12,15,18,21 * * *", "30 1,4,7,10,13,16,19,22 * * *")),
        ("1.5h", ("0 0,3,6,9,12,15,18,21 * * *", "30 1,4,7,10,13,16,19,22 * * *")),
        ("30m1h", ("0 0,3,6,9,12,15,18,21 * * *", "30 1,4,7,10,13,16,19,22 * * *")),
        ("3600000ms", ("0 * * * *",)),
        ("+.5h", ("*/30 * * * *",)),
        ("0.1h", ("*/6 * * * *",)),
        ("1.h", ("0 * * * *",)),
        ("59m59.999s1000us", ("0 * * * *",)),
        ("59m59.999s1000\u00b5s", ("0 * * * *",)),
        ("59m59.999s1000\u03bcs", ("0 * * * *",)),
        ("3600000000000ns", ("0 * * * *",)),
        (" 5  *  * * * ", ("5 * * * *",)),
        ("10 2 * * MON-FRI", ("10 2 * * MON-FRI",)),
    ],
)
def test_what_is_understood(text: str, crons: tuple[str, ...]) -> None:
    assert cron_schedules(text) == crons


@pytest.mark.parametrize(
    "text",
    ["", "  ", "h", "1", "0h", "0s", "7m", "5h", "2d", "25h", "2.5h", ".h", "1,5h", "1.5.h", "-1h", "1h 30m", "hourly"],
)
def test_what_is_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither"):
        cron_schedules(text)


@pytest.mark.parametrize("text", ["@hourly", "* * * *", "* * * * * *", "a b c d e f", "0 0 $ * *"])
def test_cron_strings_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither a duration such as 1h nor a cron string of five fields"):
        cron_schedules(text)


@pytest.mark.parametrize("minutes", [n for n in range(1, 24 * 60 + 1) if (24 * 60) % n == 0])
def test_durations_tick_evenly(minutes: int) -> None:
    midnight = dt.datetime(2026, 1, 15, tzinfo=dt.UTC)
    ticks = schedule_execution_time_iterator(
        midnight.timestamp(), list(cron_schedules(f"{minutes}m")), "UTC", ascending=True
    )
    expected = [midnight + dt.timedelta(minutes=minutes * n) for n in range(24 * 60 // minutes + 2)]
    assert list(itertools.islice(ticks, len(expected))) == expected


def test_seconds_are_refused_with_the_reason() -> None:
    for text in ("30s", "1h0m30s", "90s", "1500ms", "0.01h", "1h1ns"):
        with pytest.raises(ValueError, match="has seconds"):
            cron_schedules(text)
