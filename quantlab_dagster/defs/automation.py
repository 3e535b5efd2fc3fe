"""What runs unattended: the schedule for yesterday, and the sensor that catches up on everything else.

No `from __future__ import annotations` here: Dagster reads the annotations of a sensor's function as objects.
"""

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import dagster as dg

from quantlab_dagster.days.catchup import CatchUp, decide_catch_up
from quantlab_dagster.days.compact import Workplace
from quantlab_dagster.days.eligibility import last_eligible_day
from quantlab_dagster.days.health import findings
from quantlab_dagster.days.late import scan_slice
from quantlab_dagster.days.rollup import unclaimed_pairs
from quantlab_dagster.days.state import State, StateStore, begin
from quantlab_dagster.defs.names import JOB, STATE_ASSET, compact_key
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, workplace
from quantlab_dagster.defs.rollup import check_evaluations
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.lake.layout import Pair
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.finding import Finding

__all__ = ["CATCH_UP_TAG", "attempts_of", "busy_days", "catch_up_sensor", "daily_schedule", "prepare_catch_up"]

CATCH_UP_TAG = "quantlab/catch_up"
_PARTITION_TAG = "dagster/partition"
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def daily_schedule() -> dg.ScheduleDefinition:
    """At 02:30 UTC: yesterday."""

    @dg.schedule(
        name="daily_compaction",
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        job_name=JOB,
        description="Compacts yesterday (UTC), as soon as collectors have surely flushed.",
    )
    def daily_compaction(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = context.scheduled_execution_time.astimezone(dt.UTC).date() - dt.timedelta(days=1)
        return dg.RunRequest(partition_key=f"{day:%Y-%m-%d}")

    return daily_compaction


def catch_up_sensor(settings: Settings, pairs: Sequence[Pair]) -> dg.SensorDefinition:
    """Asks for every open day between the watermark and yesterday, and for days with late parts."""

    @dg.sensor(
        name="catch_up",
        job_name=JOB,
        minimum_interval_seconds=30,
        description="Runs days that are not settled, oldest first, and days that have late parts.",
    )
    def catch_up(
        context: dg.SensorEvaluationContext,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
    ) -> dg.SensorResult:
        place = workplace(raw_lake, compact_lake, limits, clock)
        state, found = run_interruptible(prepare_catch_up(place, pairs, settings.late_look_back_days))
        decided = decide_catch_up(
            state,
            pairs,
            last_eligible_day(clock()),
            busy=busy_days(context.instance),
            attempts=lambda task: attempts_of(context.instance, task),
            most_runs=settings.catch_up_runs,
            most_attempts=settings.catch_up_attempts,
        )
        for day in decided.exhausted:
            context.log.error("%s failed %d times and is not tried again by itself", day, settings.catch_up_attempts)
        for text in decided.skipped:
            context.log.info(text)
        shown = json.dumps([[finding.name, finding.passed, finding.text] for finding in found])
        events: list[Any] = check_evaluations(found) if shown != context.cursor else []
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=request.key,
                    partition_key=f"{request.day:%Y-%m-%d}",
                    asset_selection=[*(compact_key(pair) for pair in request.pairs), STATE_ASSET],
                    tags={CATCH_UP_TAG: request.task, "quantlab/attempt": str(request.attempt)},
                )
                for request in decided.requests
            ],
            skip_reason=None if decided.requests else _skip_text(state, decided),
            asset_events=events,
            cursor=shown,
        )

    return catch_up


async def prepare_catch_up(place: Workplace, pairs: Sequence[Pair], look_back_days: int) -> tuple[State, list[Finding]]:
    """Read the state (or begin it: only yesterday), look for late parts in a slice, and judge the lake's health."""
    store = StateStore(place.compact)
    now = place.clock()
    state = await store.read()
    if state is None or state.catch_up_from is None:
        yesterday = now.astimezone(dt.UTC).date() - dt.timedelta(days=1)
        state = await store.update(lambda before: begin(before, yesterday, now))
    state = await scan_slice(place, store, state, pairs, look_back_days=look_back_days)
    return state, findings(state, await unclaimed_pairs(place, pairs), now)


def busy_days(instance: dg.DagsterInstance) -> set[dt.date]:
    """Days with a run that is queued or running, whoever started it."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
    days = (run.tags.get(_PARTITION_TAG) for run in runs)
    return {dt.date.fromisoformat(day) for day in days if day and len(day) == len("2026-01-08")}


def attempts_of(instance: dg.DagsterInstance, task: str) -> int:
    """How often catch-up has requested a task: the one thing that is asked of Dagster's history."""
    return instance.get_runs_count(dg.RunsFilter(tags={CATCH_UP_TAG: task}))


def _skip_text(state: State, decided: CatchUp) -> str:
    if decided.skipped:
        return "; ".join(decided.skipped)
    return f"nothing to catch up: everything up to {state.last_compacted_date or 'yesterday'} is settled"
