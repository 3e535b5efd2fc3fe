"""What runs unattended: the schedule for yesterday, and the sensor that catches up on everything else.

No `from __future__ import annotations` here: Dagster reads the annotations of a sensor's function as objects.
"""

from collections.abc import Sequence

import dagster as dg

from quantlab_dagster.access import catch_up_rules
from quantlab_dagster.defs.checks import changed_evaluations
from quantlab_dagster.defs.history import CATCH_UP_TAG, busy_days, tries_of
from quantlab_dagster.defs.launched import settings_guard
from quantlab_dagster.defs.liveness import end_dead_runs
from quantlab_dagster.defs.market.checks import findings_by_asset
from quantlab_dagster.defs.meter import MARKET_DATA, Meter
from quantlab_dagster.defs.names import (
    CALENDAR_ASSET,
    CATCH_UP_PRIORITY,
    DAILY_PRIORITY,
    DAILY_SCHEDULE,
    JOB,
    NEVER_RETRIED,
    PRIORITY_TAG,
    QUALITY_ASSET,
    SENSOR,
    STATE_ASSET,
    compact_key,
)
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.defs.running import schedule_status, sensor_status
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.catchup import (
    CatchUp,
    decide_late_days,
    decide_open_days,
    look_around,
    read_or_begin,
)
from quantlab_dagster.market.eligibility import yesterday
from quantlab_dagster.market.judging import judge_seen
from quantlab_dagster.market.late import SCAN_SECONDS
from quantlab_dagster.market.state import State
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible
from quantlab_dagster.work.wording import name_some

__all__ = ["catch_up_sensor", "daily_schedule"]


def daily_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """At 02:30 UTC: yesterday."""
    refuse_changes = settings_guard("raw", "compact")

    @dg.schedule(
        name=DAILY_SCHEDULE,
        default_status=schedule_status(settings, DAILY_SCHEDULE),
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        job_name=JOB,
        description="Compacts yesterday (UTC), as soon as collectors have surely flushed.",
    )
    def daily_compaction(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        refuse_changes()
        day = yesterday(context.scheduled_execution_time)
        return dg.RunRequest(partition_key=f"{day:%Y-%m-%d}", tags={PRIORITY_TAG: DAILY_PRIORITY})

    return daily_compaction


def catch_up_sensor(settings: Settings, pairs: Sequence[Pair]) -> dg.SensorDefinition:
    """Asks for every open day between the watermark and yesterday, and for days with late parts."""
    refuse_changes = settings_guard("raw", "compact")

    @dg.sensor(
        name=SENSOR,
        default_status=sensor_status(settings, SENSOR),
        job_name=JOB,
        minimum_interval_seconds=30,
        description=(
            f"Runs days that are not settled, oldest first, and days that have late parts: at most "
            f"{settings.catch_up_runs} runs a tick. A day that fails is tried {settings.catch_up_attempts} times, with "
            "waits between; then an operator must look."
        ),
    )
    def catch_up(
        context: dg.SensorEvaluationContext,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> dg.SensorResult:
        try:
            refuse_changes()
        except QuantlabError:
            meter.cannot_judge(MARKET_DATA)
            raise
        for run in end_dead_runs(context.instance, clock(), log=lambda: context.log):
            context.log.warning(run.text)
        place = market_place(raw_lake, compact_lake, limits, clock)
        busy = busy_days(context.instance)
        try:
            state = run_interruptible(read_or_begin(place, pairs, busy=busy))
        except QuantlabError:
            meter.cannot_judge(MARKET_DATA)
            raise
        rules = catch_up_rules(settings, pairs, clock(), busy=busy, tries=lambda task: tries_of(context.instance, task))
        # Before anything is looked for: that may take its time, or fail, and open days must not wait for it.
        open_days = decide_open_days(state, rules)
        seen = run_interruptible(look_around(place, pairs, state, settings.late_look_back_days, seconds=SCAN_SECONDS))
        decided = decide_late_days(seen.state, rules, open_days)
        for day in decided.exhausted:
            context.log.error("%s failed %d times and is not tried again by itself", day, settings.catch_up_attempts)
        for text in decided.skipped:
            context.log.info(text)
        judgement = judge_seen(seen, rules, usual_days=settings.usual_days)
        meter.judge(MARKET_DATA, judgement.gauges, clock())
        if seen.error is not None:
            if not decided.requests:
                raise seen.error  # nothing else worked
            context.log.warning("late parts could not be looked for: %s", seen.error)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=request.key,
                    partition_key=f"{request.day:%Y-%m-%d}",
                    asset_selection=[
                        QUALITY_ASSET,
                        *(compact_key(pair) for pair in request.pairs),
                        STATE_ASSET,
                        CALENDAR_ASSET,
                    ],
                    tags={
                        CATCH_UP_TAG: request.task,
                        "quantlab/attempt": str(request.attempt),
                        PRIORITY_TAG: CATCH_UP_PRIORITY,
                        **NEVER_RETRIED,
                    },
                )
                for request in decided.requests
            ],
            skip_reason=None if decided.requests else _skip_text(seen.state, decided),
            cursor=_settled(seen.state),
            asset_events=changed_evaluations(context.instance, findings_by_asset(judgement)),
        )

    return catch_up


def _settled(state: State) -> str:
    """The cursor, which nothing reads but people: the only text of ours that Dagster's list of ticks shows."""
    return f"settled {state.last_compacted_date or 'none'}"


def _skip_text(state: State, decided: CatchUp) -> str:
    if decided.skipped:  # Dagster shows it in one line that does not wrap; the tick's log has all of them
        return name_some(decided.skipped, 1)
    return f"nothing to catch up: everything up to {state.last_compacted_date or 'yesterday'} is settled"
