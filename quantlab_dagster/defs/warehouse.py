"""The event lake in Dagster: the asset of its hours, the job that compacts every cold one, and its schedule.

No `from __future__ import annotations` here: Dagster reads the annotations of these functions as objects.
"""

import datetime as dt
import time
import warnings
from collections import Counter
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
from quantlab_dagster.lake.events import AppHour, Scope, hour_text, parse_hour
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
    FEW_SMALL_FILES: "No hour that ended two hours ago or earlier has small files that could be merged.",
}
_MOST_REASONS = 5


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
    retry_corrupt: bool = Field(
        default=False,
        description="With recover_only: forget which files cannot be merged; the next run tries them again.",
    )
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
                "proved to hold exactly their rows; only then are they deleted. "
                "The schedule `warehouse_compaction` does so with every hour that needs it."
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
        recorder = _Recorder(context, hours[0], restricted=bool(config.apps))
        listener = HourListeners(HourLogListener(context.log), recorder, extra_hour_listener.get())

        def work() -> Coroutine[Any, Any, Sweep]:
            return sweep(event_place(settings, warehouse, limits, clock), scope, listener)

        if hours[-1] > last_cold_hour(clock()):
            text = f"{hour_text(hours[-1])} is not over yet. It can be compacted from the next full hour (UTC) on"
            raise dg.Failure(description=text, allow_retries=False)
        done = _counted(work, meter, clock)
        for hour in hours:
            recorder.record_if_nothing_was_to_do(hour)
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
        known = dt.datetime.combine(settings.start_date, dt.time(0), dt.UTC)
        recorder = _Recorder(context, known, restricted=bool(config.apps) or config.recover_only)
        listener = HourListeners(HourLogListener(context.log), recorder, extra_hour_listener.get())

        def work() -> Coroutine[Any, Any, Sweep]:
            place = event_place(settings, warehouse, limits, clock)
            scope = _scope(config)
            if config.recover_only:
                return recover(place, scope, listener, give_up=config.give_up, retry_corrupt=config.retry_corrupt)
            return sweep(place, scope, listener, most=config.most_hours)

        done = _counted(work, meter, clock)
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
        # One that was killed may stay "started" for hours, and leave what only the next run completes. Two at once are
        # safe: each hour has a slot.
        recent = context.scheduled_execution_time - _SKIPPED_FOR
        unfinished = dg.RunsFilter(job_name=WAREHOUSE_JOB, statuses=_UNFINISHED, created_after=recent)
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


_SKIPPED_FOR = dt.timedelta(hours=2)
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
    except BaseException as error:
        target = EVENTS_ASSET.to_user_string()
        meter.count(RunCounts(EVENTS, target, succeeded=False, seconds=time.monotonic() - started), clock())
        if isinstance(error, QuantlabError):
            raise dg.Failure(description=str(error), allow_retries=False) from error
        raise  # interrupted, or a bug
    meter.count(hour_counts(done.outcomes, done.seconds, looked_at=done.looked_at - done.left), clock())
    return done


class _Recorder:
    """Records each hour as soon as its apps are done: what an interrupted run has done must not go unrecorded.

    No event for an hour that another compactor has, or that failed: it is not done.
    """

    def __init__(
        self, context: dg.OpExecutionContext | dg.AssetExecutionContext, first: dt.datetime, *, restricted: bool
    ) -> None:
        self._context = context
        self._first = first
        self._restricted = restricted
        self._waiting: Counter[dt.datetime] = Counter()
        self._outcomes: dict[dt.datetime, list[HourOutcome]] = {}
        self._seen: set[dt.datetime] = set()

    def found(self, partitions: Sequence[AppHour]) -> None:
        """Know how many apps each hour has."""
        self._waiting.update(partition.hour for partition in partitions)
        self._seen.update(self._waiting)

    def finished(self, outcome: HourOutcome) -> None:
        """Record the hour if this was the last of its apps."""
        hour = outcome.partition.hour
        self._waiting[hour] -= 1
        self._outcomes.setdefault(hour, []).append(outcome)
        if not self._waiting[hour]:
            self._record(hour, self._outcomes.pop(hour))

    def record_if_nothing_was_to_do(self, hour: dt.datetime) -> None:
        """Record an hour that was asked for, and needed no work."""
        if hour not in self._seen:
            self._record(hour, [])

    def _record(self, hour: dt.datetime, outcomes: Sequence[HourOutcome]) -> None:
        undone = any(item.status in (HourStatus.FAILED, HourStatus.BUSY) for item in outcomes)
        if undone or hour < self._first:  # Dagster knows no partition before the start date
            return
        event = dg.AssetObservation if self._restricted else dg.AssetMaterialization
        self._context.log_event(event(EVENTS_ASSET, partition=hour_key(hour), metadata=describe_hour(outcomes)))


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
