"""The job that compacts every cold hour of the event lake, and its schedule.

No `from __future__ import annotations` here: Dagster reads the annotations of these functions as objects.
"""

import datetime as dt
from collections.abc import Callable

import dagster as dg
from pydantic import Field

from quantlab_dagster.defs.checks import check_evaluation
from quantlab_dagster.defs.history import UNFINISHED
from quantlab_dagster.defs.launched import settings_guard
from quantlab_dagster.defs.liveness import end_dead_runs, say_which_process
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import (
    HOURLY_PRIORITY,
    HOURLY_SCHEDULE,
    NEVER_RETRIED,
    PRIORITY_TAG,
    WAREHOUSE_JOB,
    WAREHOUSE_POOL,
)
from quantlab_dagster.defs.progress import HourListeners, HourLogListener, extra_hour_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, warehouse_place
from quantlab_dagster.defs.running import schedule_status
from quantlab_dagster.defs.warehouse.hooking import after_run, describe_hook
from quantlab_dagster.defs.warehouse.metadata import describe_sweep
from quantlab_dagster.defs.warehouse.recording import Recorder, check_results, counted, raise_failures, say_servers
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.lake.warehouse import Scope, parse_hour
from quantlab_dagster.settings import Settings
from quantlab_dagster.warehouse.place import Requested
from quantlab_dagster.warehouse.sweep import Sweep, recover, sweep
from quantlab_dagster.work.clock import Clock, utc_now
from quantlab_dagster.work.schedule import Schedule

__all__ = ["SWEEP_OP", "SweepConfig", "check_schedule", "warehouse_job", "warehouse_schedule"]

SWEEP_OP = "compact_cold_hours"

_SKIPPED_FOR = dt.timedelta(hours=2)


class SweepConfig(dg.Config):
    """Options of a run over the lake; the defaults are what the schedule wants."""

    apps: list[str] = Field(
        default=[], description="Only these apps, as in the path. Then no hour is marked as materialised."
    )
    first_hour: str | None = Field(default=None, description="Only from this hour on (UTC), as in 2026-01-15T10.")
    last_hour: str | None = Field(default=None, description="Only up to this hour.")
    most_hours: int = Field(
        default=5000,
        ge=1,
        description="Work on no more (app, hour)s than that, the latest first; the next run goes on with the rest.",
    )
    full: bool = Field(
        default=False, description="Look at all of the history, not only at recent hours and the next slice of it."
    )
    recover_only: bool = Field(default=False, description="Complete what a crash left, and merge nothing.")
    retry_corrupt: bool = Field(
        default=False,
        description="With recover_only: forget which files cannot be merged; the next run tries them again.",
    )
    give_up: bool = Field(
        default=False,
        description="Give up plans whose output and inputs are both gone, after seeing that no rows are missing.",
    )


def warehouse_job(settings: Settings) -> dg.JobDefinition:
    """The job behind the schedule and the command line: every cold hour that needs it, in one run."""

    @dg.op(
        name=SWEEP_OP,
        description="Finds every cold hour that needs work, recovers, compacts, and records each as a materialisation.",
        tags={"dagster/kind": "polars"},
        pool=WAREHOUSE_POOL,
    )
    def compact_cold_hours(
        context: dg.OpExecutionContext,
        config: SweepConfig,
        warehouse: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> None:
        say_which_process(context)
        known = dt.datetime.combine(settings.start_date, dt.time(0), dt.UTC)
        recorder = Recorder(context, known, restricted=bool(config.apps) or config.recover_only)
        listener = HourListeners(HourLogListener(context.log), recorder, extra_hour_listener.get())

        async def work() -> Sweep:
            place = await say_servers(warehouse_place(settings, warehouse, limits, clock), context.log)
            scope = _scope(config)
            if config.recover_only:
                return await recover(
                    place, scope, listener, Requested(retry_corrupt=config.retry_corrupt, give_up=config.give_up)
                )
            return await sweep(place, scope, listener, most=config.most_hours, full=config.full)

        done = counted(work, meter, clock)
        if not config.recover_only:
            for check in check_results(done, meter, clock):
                context.log_event(check_evaluation(check))  # type: ignore[arg-type]  # the signature does not know it
        hooked = after_run(context, settings, warehouse.url, done.outcomes, meter)
        context.add_output_metadata(describe_sweep(done) | describe_hook(hooked))
        raise_failures(done)

    @dg.job(
        name=WAREHOUSE_JOB,
        description=(
            "Compacts every cold hour of the event lake that needs it: recent ones, the next slice of the history, and "
            "what was in trouble. In the launchpad nothing need be configured; `full: true` looks at all there is."
        ),
        executor_def=dg.in_process_executor,
    )
    def compact_warehouse() -> None:
        compact_cold_hours()

    return compact_warehouse


def warehouse_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Every hour, unless configured otherwise. While the event lake's settings are wrong, its ticks fail and say so."""
    refuse_changes = settings_guard("warehouse")

    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        check_schedule(settings)
        refuse_changes()
        if not settings.compaction_enabled:
            return dg.SkipReason("COMPACTION_ENABLED is false")
        for run in end_dead_runs(context.instance, utc_now(), log=lambda: context.log):
            context.log.warning(run.text)
        # Another one that was killed (the daemon's, or on another host) may stay "started" for hours, and leave what
        # only the next run completes. Two at once are safe: each hour has a slot.
        recent = context.scheduled_execution_time - _SKIPPED_FOR
        unfinished = dg.RunsFilter(job_name=WAREHOUSE_JOB, statuses=UNFINISHED, created_after=recent)
        if context.instance.get_runs(unfinished, limit=1):
            return dg.SkipReason("the run before this one has not ended; it or the next one does what there is to do")
        return dg.RunRequest(tags={PRIORITY_TAG: HOURLY_PRIORITY, **NEVER_RETRIED})

    try:
        return _schedule(settings, tick)
    except SettingsError:  # the ticks say what is wrong, and the other lake goes on
        return _schedule(settings.model_copy(update={"compaction_schedule": Schedule.parse("1h")}), tick)


def check_schedule(settings: Settings) -> None:
    """Refuse work on the event lake while its settings are wrong, its schedule among them.

    Raises:
        SettingsError: saying what is wrong.
    """
    settings.check_event_lake()
    _schedule(settings, lambda _: dg.SkipReason("only to see whether Dagster takes it"))


def _schedule(
    settings: Settings, tick: Callable[[dg.ScheduleEvaluationContext], dg.RunRequest | dg.SkipReason]
) -> dg.ScheduleDefinition:
    crons = settings.compaction_schedule.crons
    try:
        return dg.ScheduleDefinition(
            name=HOURLY_SCHEDULE,
            default_status=schedule_status(settings, HOURLY_SCHEDULE),
            cron_schedule=crons[0] if len(crons) == 1 else list(crons),
            execution_timezone="UTC",
            job_name=WAREHOUSE_JOB,
            execution_fn=tick,
            description="Compacts every cold hour of the event lake that needs it.",
        )
    except dg.DagsterInvalidDefinitionError as error:
        cause = f"{settings.compaction_schedule.text!r} is not a cron string that Dagster understands"
        raise SettingsError(
            "COMPACTION_SCHEDULE", cause, "Use a duration such as 1h, or a valid cron string"
        ) from error


def _scope(config: SweepConfig) -> Scope:
    return Scope(
        tuple(config.apps),
        parse_hour(config.first_hour) if config.first_hour else None,
        parse_hour(config.last_hour) if config.last_hour else None,
    )
