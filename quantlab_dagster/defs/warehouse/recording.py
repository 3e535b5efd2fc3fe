"""What a run over hours leaves in Dagster: counts, an event per hour, checks, failures."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import dagster as dg

from quantlab_dagster.defs.checks import AUDITED, check_result
from quantlab_dagster.defs.meter import EVENTS, Meter, hour_counts
from quantlab_dagster.defs.names import EVENTS_ASSET, hour_key
from quantlab_dagster.defs.warehouse.metadata import describe_hour, describe_sweep
from quantlab_dagster.errors import AuditFailed, QuantlabError
from quantlab_dagster.metrics import RunCounts
from quantlab_dagster.warehouse.checks import gauges
from quantlab_dagster.warehouse.outcome import HourOutcome, HourStatus, undone
from quantlab_dagster.warehouse.servers import look_at_servers
from quantlab_dagster.work.stopping import run_interruptible
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from logging import Logger

    from quantlab_dagster.lake.warehouse import AppHour
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.warehouse.sweep import Sweep
    from quantlab_dagster.work.clock import Clock

__all__ = ["ERROR", "Recorder", "check_results", "counted", "raise_failures", "say_servers"]

ERROR = "error"
"""Of a run that failed as a whole: the class name of why."""

_MOST_REASONS = 5


async def say_servers(place: WarehousePlace, log: Logger) -> WarehousePlace:
    """Say in the run's log, once, which conditions the event lake's store honours. Returns the place."""
    log.info("%s honours %s", place.lake.url, await look_at_servers(place))
    return place


def counted(work: Callable[[], Coroutine[Any, Any, Sweep]], meter: Meter, clock: Clock) -> Sweep:
    """Run the work; count it, also where it fails as a whole."""
    started = time.monotonic()
    try:
        done = run_interruptible(work())
    except BaseException as error:
        target = EVENTS_ASSET.to_user_string()
        meter.count(RunCounts(EVENTS, target, succeeded=False, seconds=time.monotonic() - started), clock())
        if isinstance(error, QuantlabError):
            meter.cannot_judge(EVENTS)
            metadata = {ERROR: type(error).__name__}
            raise dg.Failure(description=str(error), metadata=metadata, allow_retries=False) from error
        raise  # interrupted, or a bug
    meter.count(hour_counts(done.outcomes, done.seconds, looked_at=done.looked_at - done.left), clock())
    return done


class Recorder:
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
        if undone(outcomes) or hour < self._first:  # Dagster knows no partition before the start date
            return
        event = dg.AssetObservation if self._restricted else dg.AssetMaterialization
        self._context.log_event(event(EVENTS_ASSET, partition=hour_key(hour), metadata=describe_hour(outcomes)))


def check_results(done: Sweep, meter: Meter, clock: Clock) -> Iterator[dg.AssetCheckResult]:
    """What a run proved, and what it found wrong with the lake, which the gauges say as well."""
    meter.judge(EVENTS, gauges(done.findings), clock())
    unproved = [item for item in done.outcomes if item.error == AuditFailed.__name__]
    files = sum(len(item.replacements) for item in done.outcomes)
    yield dg.AssetCheckResult(
        asset_key=EVENTS_ASSET,
        check_name=AUDITED,
        passed=not unproved,
        description=_reasons(unproved) or f"{files} files read back and proved",
    )
    yield from (check_result(EVENTS_ASSET, finding) for finding in done.findings)


def raise_failures(done: Sweep, *, busy_too: bool = False) -> None:
    """Fail the run if an hour failed.

    Args:
        done: what the run did.
        busy_too: whether an hour that another compactor has fails it as well, because the run was for that hour: one
            that succeeds and leaves an hour undone would end its backfill as failed, and say nothing of why.

    Raises:
        Failure: naming the first of them.
    """
    bad = undone(done.outcomes) if busy_too else done.having(HourStatus.FAILED)
    if bad:
        failed = all(item.status is HourStatus.FAILED for item in bad)
        raise dg.Failure(
            description=f"{len(bad)} of {len(done.outcomes)} hours {'failed' if failed else 'are not done'}: "
            f"{_reasons(bad)}",
            metadata=describe_sweep(done),
            allow_retries=False,
        )


def _reasons(outcomes: Sequence[HourOutcome]) -> str:
    return name_some([f"{item.partition.told}: {item.reason}" for item in outcomes], _MOST_REASONS)
