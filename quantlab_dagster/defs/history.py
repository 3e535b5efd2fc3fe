"""What is asked of Dagster's history: which days are busy, and how often something was tried. Never what is missing."""

from __future__ import annotations

import datetime as dt

import dagster as dg

__all__ = ["CATCH_UP_TAG", "PARTITION_TAG", "UNFINISHED", "attempts_of", "busy_days"]

CATCH_UP_TAG = "quantlab/catch_up"
PARTITION_TAG = "dagster/partition"

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


def attempts_of(instance: dg.DagsterInstance, task: str) -> int:
    """How often catch-up has requested a task: the one thing that is asked of Dagster's history."""
    return instance.get_runs_count(dg.RunsFilter(tags={CATCH_UP_TAG: task}))
