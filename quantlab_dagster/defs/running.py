"""Whether a schedule or sensor runs from the start: one setting says it of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from quantlab_dagster.settings import Settings

__all__ = ["schedule_status", "sensor_status"]


def schedule_status(settings: Settings, name: str) -> dg.DefaultScheduleStatus:
    """What a schedule is while nobody has switched it in the UI."""
    on = settings.runs_by_itself(name)
    return dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED


def sensor_status(settings: Settings, name: str) -> dg.DefaultSensorStatus:
    """What a sensor is while nobody has switched it in the UI."""
    on = settings.runs_by_itself(name)
    return dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED
