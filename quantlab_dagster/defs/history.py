"""What is asked of Dagster's history: which days are busy, and how often something was tried. Never what is missing."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.defs.names import SENSOR
from quantlab_dagster.market.catchup import Tries

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CATCH_UP_TAG",
    "DIED_TAG",
    "PARTITION_TAG",
    "RUN_KEY_TAG",
    "SENSOR_TAG",
    "UNFINISHED",
    "busy_days",
    "tries_of",
]

CATCH_UP_TAG = "quantlab/catch_up"
DIED_TAG = "quantlab/died"
"""Of a run whose process died: a failed attempt, which says nothing of the store, so the next one need not wait."""
PARTITION_TAG = "dagster/partition"
RUN_KEY_TAG = "dagster/run_key"
SENSOR_TAG = "dagster/sensor_name"
_MOST_RECORDS = 200
_SUCCESS = dg.DagsterRunStatus.SUCCESS

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of runs that are queued or running."""


def busy_days(instance: dg.DagsterInstance) -> set[dt.date]:
    """Days with a run that is queued or running, whoever started it."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    days = (run.tags.get(PARTITION_TAG) for run in runs)
    return {dt.date.fromisoformat(day) for day in days if day and len(day) == len("2026-01-08")}


def tries_of(instance: dg.DagsterInstance, task: str) -> Tries:
    """What became of catch-up's runs of a task: since the last that succeeded, how many failed; and the last one."""
    chosen = dg.RunsFilter(tags={CATCH_UP_TAG: task})
    records = instance.get_run_records(chosen, limit=_MOST_RECORDS)  # the latest first
    if not records:
        return Tries()
    statuses = [record.dagster_run.status for record in records]
    series = statuses[: statuses.index(_SUCCESS)] if _SUCCESS in statuses else statuses
    return Tries(
        last_number=_last_number(instance, task, records),
        failed=series.count(dg.DagsterRunStatus.FAILURE),
        last_ended=max(_ended(record) for record in records),
        last_failed=statuses[0] is dg.DagsterRunStatus.FAILURE,
        last_died=DIED_TAG in records[0].dagster_run.tags,
    )


def _last_number(instance: dg.DagsterInstance, task: str, records: Sequence[dg.RunRecord]) -> int:
    """The largest number in a run key of the task. Those of the command line have none."""
    numbers = [_number(record, task) for record in records]
    if not any(numbers) and len(records) == _MOST_RECORDS:  # it grows, so it is that of the sensor's latest
        chosen = dg.RunsFilter(tags={CATCH_UP_TAG: task, SENSOR_TAG: SENSOR})
        numbers = [_number(record, task) for record in instance.get_run_records(chosen, limit=_MOST_RECORDS)]
    return max(numbers, default=0)


def _number(record: dg.RunRecord, task: str) -> int:
    number = record.dagster_run.tags.get(RUN_KEY_TAG, "").removeprefix(f"{task}:")
    return int(number) if number.isdecimal() else 0


def _ended(record: dg.RunRecord) -> dt.datetime:
    """When a run ended. One that failed before it started has no end, but has been written last then."""
    if record.end_time is not None:
        return dt.datetime.fromtimestamp(record.end_time, dt.UTC)
    return record.update_timestamp.astimezone(dt.UTC)
