"""The event lake in Dagster: the asset of its hours, the job that compacts every cold one, and its schedule.

No `from __future__ import annotations` here: Dagster reads the annotations of these functions as objects.
"""

import datetime as dt
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from quantlab_dagster.defs.assets import AUDITED
from quantlab_dagster.defs.hour_metadata import describe_hour, describe_sweep
from quantlab_dagster.defs.meter import EVENTS, Meter, hour_counts
from quantlab_dagster.defs.names import EVENTS_ASSET, WAREHOUSE_GROUP, WAREHOUSE_JOB, hour_key
from quantlab_dagster.defs.progress import HourListeners, HourLogListener, extra_hour_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource
from quantlab_dagster.errors import AuditFailed, QuantlabError, SettingsError
from quantlab_dagster.hours.compact import EventPlace, HourOutcome, HourStatus, last_cold_hour
from quantlab_dagster.hours.pack import Rules
from quantlab_dagster.hours.scan import FEW_SMALL_FILES, NO_CORRUPT_FILES, NO_UNFINISHED_PLANS
from quantlab_dagster.hours.sweep import Sweep, recover, sweep
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.lake.events import Scope, hour_text, parse_hour
from quantlab_dagster.metrics import RunCounts
from quantlab_dagster.schedule import cron_schedules
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.wording import name_some

__all__ = ["SWEEP_OP", "SweepConfig", "event_place", "events_asset", "warehouse_job", "warehouse_schedule"]

SWEEP_OP = "compact_cold_hours"

_CHECKS = {
    AUDITED: "Every file of the latest run was read back and proved before anything was deleted: rows, order, content.",
    NO_CORRUPT_FILES: "No file of the event lake is left out of merging because it cannot be read or united.",
    NO_UNFINISHED_PLANS: "No replacement of files is left unfinished: no reader sees rows twice.",
    FEW_SMALL_FILES: "No cold hour has small files that could be merged.",
}
_MOST_REASONS = 5

_Events = Iterator[dg.AssetMaterialization | dg.AssetObservation]


class HoursConfig(dg.Config):
    """Options of a run over given hours."""

    apps: list[str] = Field(
        default=[], description="Only these apps, as in the path. Then the hour is not marked as materialised."
    )


class SweepConfig(HoursConfig):
    """Options of a run over the lake; the defaults are what the schedule wants."""

    first_hour: str | None = Field(default=None, description="Only from this hour on (UTC), as in 2026-01-15T10.")
    last_hour: str | None = Field(default=None, description="Only up to this hour.")
    most_hours: int = Field(
        default=5000,
        ge=1,
        description="Work on no more (app, hour)s than that, the latest first; the next run goes on with the rest.",
    )
    recover_only: bool = Field(default=False, description="Complete what a crash left, and merge nothing.")
    give_up: bool = Field(
        default=False,
        description="Give up plans whose output and inputs are both gone, after seeing that no rows are missing.",
    )


def event_place(settings: Settings, warehouse: LakeResource, limits: LimitsResource, clock: Clock) -> EventPlace:
    """Open the event lake for work.

    Raises:
        SettingsError: its URL or its credentials are not usable.
    """
    return EventPlace(
        lake=warehouse.store(),
        rules=Rules(int(settings.compaction_target_size), settings.compaction_min_files),
        memory_budget=limits.memory_budget,
        request_concurrency=limits.request_concurrency,
        scratch_base=Path(limits.scratch_dir) if limits.scratch_dir else None,
        clock=clock,
    )


def events_asset(settings: Settings, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The hours of the event lake, all apps together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # the backfill policy is beta, and worth it
        declaration = dg.asset(
            key=EVENTS_ASSET,
            partitions_def=partitions,
            group_name=WAREHOUSE_GROUP,
            kinds={"polars", "parquet"},
            output_required=False,
            # Hours take seconds, and starting a run takes as long: a backfill over many is one run.
            backfill_policy=dg.BackfillPolicy.single_run(),
            check_specs=[
                dg.AssetCheckSpec(name, asset=EVENTS_ASSET, description=description)
                for name, description in _CHECKS.items()
            ],
            description=(
                "Cold hours of analytics events, compacted in place: small files become files of the target's size, "
                "proved to hold exactly their rows; only then are they deleted."
            ),
        )

    @declaration
    def events(
        context: dg.AssetExecutionContext,
        config: HoursConfig,
        warehouse: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> Iterator[Any]:
        hours = sorted(parse_hour(key) for key in context.partition_keys)
        scope = Scope(tuple(config.apps), hours[0], hours[-1])
        listener = HourListeners(HourLogListener(context.log), extra_hour_listener.get())

        def work() -> Coroutine[Any, Any, Sweep]:
            return sweep(event_place(settings, warehouse, limits, clock), scope, listener)

        if hours[-1] > last_cold_hour(clock()):
            text = f"{hour_text(hours[-1])} is not over yet. It can be compacted from the next full hour (UTC) on"
            raise dg.Failure(description=text, allow_retries=False)
        done = _counted(work, meter, clock)
        for event in _partition_events(done, hours, restricted=bool(config.apps)):
            context.log_event(event)
        yield from _check_results(done)
        _raise_failures(done)

    return events


def warehouse_job(settings: Settings) -> dg.JobDefinition:
    """The job behind the schedule and the command line: every cold hour that needs it, in one run."""

    @dg.op(
        name=SWEEP_OP,
        description="Finds every cold hour that needs work, recovers, compacts, and records each as a materialisation.",
        tags={"dagster/kind": "polars"},
    )
    def compact_cold_hours(
        context: dg.OpExecutionContext,
        config: SweepConfig,
        warehouse: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> None:
        listener = HourListeners(HourLogListener(context.log), extra_hour_listener.get())

        def work() -> Coroutine[Any, Any, Sweep]:
            place = event_place(settings, warehouse, limits, clock)
            scope = _scope(config)
            if config.recover_only:
                return recover(place, scope, listener, give_up=config.give_up)
            return sweep(place, scope, listener, most=config.most_hours)

        done = _counted(work, meter, clock)
        known = dt.datetime.combine(settings.start_date, dt.time(0), dt.UTC)
        hours = sorted({item.partition.hour for item in done.outcomes if item.partition.hour >= known})
        for event in _partition_events(done, hours, restricted=bool(config.apps) or config.recover_only):
            context.log_event(event)
        if not config.recover_only:
            for check in _check_results(done):
                context.log_event(_evaluation(check))  # type: ignore[arg-type]  # the signature does not know it
        context.add_output_metadata(describe_sweep(done))
        _raise_failures(done)

    @dg.job(
        name=WAREHOUSE_JOB,
        description="Compacts every cold hour of the event lake that needs it.",
        executor_def=dg.in_process_executor,
    )
    def compact_warehouse() -> None:
        compact_cold_hours()

    return compact_warehouse


def warehouse_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Every hour, unless configured otherwise.

    Raises:
        SettingsError: Dagster does not take the cron string.
    """

    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if not settings.compaction_enabled:
            return dg.SkipReason("COMPACTION_ENABLED is false")
        unfinished = dg.RunsFilter(job_name=WAREHOUSE_JOB, statuses=_UNFINISHED)
        if context.instance.get_runs(unfinished, limit=1):
            return dg.SkipReason("the run before this one has not ended; it or the next one does what there is to do")
        return dg.RunRequest()

    crons = cron_schedules(settings.compaction_schedule)
    try:
        return dg.ScheduleDefinition(
            name="warehouse_compaction",
            cron_schedule=crons[0] if len(crons) == 1 else list(crons),
            execution_timezone="UTC",
            job_name=WAREHOUSE_JOB,
            execution_fn=tick,
            description="Compacts every cold hour of the event lake that needs it.",
        )
    except dg.DagsterInvalidDefinitionError as error:
        cause = f"{settings.compaction_schedule!r} is not a cron string that Dagster understands"
        raise SettingsError(
            "COMPACTION_SCHEDULE", cause, "Use a duration such as 1h, or a valid cron string"
        ) from error


_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def _scope(config: SweepConfig) -> Scope:
    return Scope(
        tuple(config.apps),
        parse_hour(config.first_hour) if config.first_hour else None,
        parse_hour(config.last_hour) if config.last_hour else None,
    )


def _counted(work: Callable[[], Coroutine[Any, Any, Sweep]], meter: Meter, clock: Clock) -> Sweep:
    """Run the work; count it, also where it fails as a whole."""
    started = time.monotonic()
    try:
        done = run_interruptible(work())
    except QuantlabError as error:
        target = EVENTS_ASSET.to_user_string()
        meter.count(RunCounts(EVENTS, target, succeeded=False, seconds=time.monotonic() - started), clock())
        raise dg.Failure(description=str(error), allow_retries=False) from error
    meter.count(hour_counts(done.outcomes, done.seconds, looked_at=done.looked_at), clock())
    return done


def _partition_events(done: Sweep, hours: Sequence[dt.datetime], *, restricted: bool) -> _Events:
    """An event for each hour; none for one that another compactor has, or that failed: it is not done."""
    for hour in hours:
        outcomes = [item for item in done.outcomes if item.partition.hour == hour]
        if any(item.status in (HourStatus.FAILED, HourStatus.BUSY) for item in outcomes):
            continue
        metadata = describe_hour(outcomes)
        if restricted:
            yield dg.AssetObservation(EVENTS_ASSET, partition=hour_key(hour), metadata=metadata)
        else:
            yield dg.AssetMaterialization(EVENTS_ASSET, partition=hour_key(hour), metadata=metadata)


def _check_results(done: Sweep) -> Iterator[dg.AssetCheckResult]:
    unproved = [item for item in done.outcomes if item.error == AuditFailed.__name__]
    files = sum(len(item.replacements) for item in done.outcomes)
    yield dg.AssetCheckResult(
        asset_key=EVENTS_ASSET,
        check_name=AUDITED,
        passed=not unproved,
        description=_reasons(unproved) or f"{files} files read back and proved",
    )
    for finding in done.findings:
        yield dg.AssetCheckResult(
            asset_key=EVENTS_ASSET,
            check_name=finding.name,
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=finding.text,
        )


def _evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    assert result.check_name is not None  # given above
    return dg.AssetCheckEvaluation(
        asset_key=EVENTS_ASSET,
        check_name=result.check_name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata={},
    )


def _raise_failures(done: Sweep) -> None:
    failed = done.having(HourStatus.FAILED)
    if failed:
        raise dg.Failure(
            description=f"{len(failed)} of {len(done.outcomes)} hours failed: {_reasons(failed)}",
            metadata=describe_sweep(done),
            allow_retries=False,
        )


def _reasons(outcomes: Sequence[HourOutcome]) -> str:
    return name_some([f"{item.partition}: {item.reason}" for item in outcomes], _MOST_REASONS)
