"""What is asked of Dagster's history: which days are busy, and how often something was tried. Never what is missing."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from quantlab_dagster.market.catchup import Tries

__all__ = ["CATCH_UP_TAG", "DIED_TAG", "PARTITION_TAG", "UNFINISHED", "busy_days", "tries_of"]

CATCH_UP_TAG = "quantlab/catch_up"
DIED_TAG = "quantlab/died"
"""Of a run whose process died: a failed attempt, which says nothing of the store, so the next one need not wait."""
PARTITION_TAG = "dagster/partition"
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
        made=len(records) if len(records) < _MOST_RECORDS else instance.get_runs_count(chosen),
        failed=series.count(dg.DagsterRunStatus.FAILURE),
        last_ended=max(_ended(record) for record in records),
        last_failed=statuses[0] is dg.DagsterRunStatus.FAILURE,
        last_died=DIED_TAG in records[0].dagster_run.tags,
    )


def _ended(record: dg.RunRecord) -> dt.datetime:
    """When a run ended. One that failed before it started has no end, but has been written last then."""
    if record.end_time is not None:
        return dt.datetime.fromtimestamp(record.end_time, dt.UTC)
    return record.update_timestamp.astimezone(dt.UTC)
