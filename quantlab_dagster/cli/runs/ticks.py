"""When a schedule ticks, as Dagster's daemon reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster._utils.schedules import schedule_execution_time_iterator

if TYPE_CHECKING:
    import datetime as dt

    from quantlab_dagster.work.schedule import Schedule

__all__ = ["next_tick"]


def next_tick(schedule: Schedule, now: dt.datetime) -> dt.datetime:
    """The first tick after a moment (UTC)."""
    ticks = schedule_execution_time_iterator(now.timestamp(), list(schedule.crons), "UTC")
    return next(tick for tick in ticks if tick > now)
