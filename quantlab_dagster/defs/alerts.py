"""Alerts: failed checks, ticks and runs are told to people. What is told is what Dagster shows, which is the judgement.

A failing check fails no run, so there are two sensors; where a tick fails nothing is judged, and no check fails. What
was told is in their cursors; a message that does not arrive fails the tick, which leaves the cursor as it was, so the
next tick tries again and nothing is lost.

No `from __future__ import annotations` here: Dagster reads the annotations of a sensor's function as objects.
"""

import datetime as dt
import json
from collections.abc import Collection, Sequence

import dagster as dg
from dagster._core.event_api import RunStatusChangeRecordsFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from quantlab_dagster.access import notifier_of
from quantlab_dagster.alerts.news import AGAIN_AFTER, Kind, Known, Message, News, Trouble, decide, dump, load
from quantlab_dagster.alerts.notify import Notifier
from quantlab_dagster.defs.history import PARTITION_TAG
from quantlab_dagster.defs.names import CHECK_ALERTS, RUN_ALERTS
from quantlab_dagster.defs.ticks import failing_ticks
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock

__all__ = ["Alerts", "check_alerts", "run_alerts"]

_OFF = "neither QUANTLAB_ALERT_URL nor QUANTLAB_ALERT_COMMAND is set"
_MOST_EVENTS = 50
_FORGOTTEN_AFTER = dt.timedelta(days=7)
_ENDED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


class Alerts:
    """Who is told, if anybody. A plain object: what it holds never shows in Dagster's pages.

    Args:
        notifier: tells people; None tells nobody.
    """

    def __init__(self, notifier: Notifier | None) -> None:
        self.notifier = notifier

    @classmethod
    def of(cls, settings: Settings) -> "Alerts":
        """As the settings say."""
        return cls(notifier_of(settings))

    def tell(self, news: Sequence[News]) -> None:
        """Tell all of it in one message, if there is any.

        Raises:
            NotifyFailed: it did not arrive.
        """
        if news and self.notifier is not None:
            self.notifier.tell(Message(tuple(news)))


def _status(settings: Settings) -> dg.DefaultSensorStatus:
    """On where somebody is to be told."""
    told = Alerts.of(settings).notifier is not None
    return dg.DefaultSensorStatus.RUNNING if told else dg.DefaultSensorStatus.STOPPED


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_alerts(
    settings: Settings, checks: Sequence[dg.AssetCheckKey], ticking: Collection[str]
) -> dg.SensorDefinition:
    """Tells of checks that fail, whoever evaluated them, and of schedules and sensors whose ticks do.

    Args:
        settings: of the project.
        checks: all of which is told.
        ticking: the schedules and sensors, by name.
    """

    @dg.sensor(
        name=CHECK_ALERTS,
        minimum_interval_seconds=60,
        default_status=_status(settings),
        description="Tells people of asset checks and of ticks that fail: at first, once a day, and when it is over.",
    )
    def tell_of_checks(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock], alerts: dg.ResourceParam[Alerts]
    ) -> dg.SensorResult | dg.SkipReason:
        if alerts.notifier is None:
            return dg.SkipReason(_OFF)
        known = _known(context, json.loads(context.cursor) if context.cursor else {})
        location = context.code_location_origin
        ticks = failing_ticks(context.instance, ticking, location.location_name if location is not None else None)
        news, after = decide(known, [*_failing(context.instance, checks), *ticks], clock())
        alerts.tell(news)
        return dg.SensorResult(cursor=json.dumps(dump(after)), skip_reason=_said(news, after))

    return tell_of_checks


def _failing(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]) -> list[Trouble]:
    storage = instance.event_log_storage
    shown = storage.get_latest_asset_check_execution_by_key(list(checks))
    found = []
    for key in sorted(shown, key=str):
        event = shown[key].evaluation
        if event is None:  # planned, or its step failed: what was said before stands
            records = storage.get_asset_check_execution_history(key, limit=1, status=_ENDED)
            event = records[0].evaluation if records else None
        if isinstance(event, dg.AssetCheckEvaluation) and not event.passed:
            what = f"{key.asset_key.to_user_string()} {key.name}"
            found.append(Trouble(what, event.description or "the check has failed"))
    return found


# ---- runs ------------------------------------------------------------------------------------------------------------


def run_alerts(settings: Settings) -> dg.SensorDefinition:
    """Tells of runs that fail: a job's partition once, however often it is tried again, and when it succeeds."""

    @dg.sensor(
        name=RUN_ALERTS,
        minimum_interval_seconds=60,
        default_status=_status(settings),
        description="Tells people of runs that fail: of a job's partition once, and when it succeeds at last.",
    )
    def tell_of_runs(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock], alerts: dg.ResourceParam[Alerts]
    ) -> dg.SensorResult | dg.SkipReason:
        if alerts.notifier is None:
            return dg.SkipReason(_OFF)
        cursor = json.loads(context.cursor) if context.cursor else {}
        if "after" not in cursor:  # what failed before anybody was to be told is no news
            return dg.SensorResult(cursor=json.dumps({"after": _latest_failure(context.instance), "told": {}}))
        now = clock()
        known = {what: one for what, one in _known(context, cursor.get("told")).items() if _is_recent(one, now)}
        last, news, after = _failed_since(context.instance, cursor["after"], known, now)
        over = [what for what, one in after.items() if _has_succeeded(context.instance, what, one)]
        news += [News(Kind.OVER, what, "", after[what].since) for what in over if after[what].told is not None]
        alerts.tell(news)
        kept = {what: one for what, one in after.items() if what not in over}
        return dg.SensorResult(cursor=json.dumps({"after": last, "told": dump(kept)}), skip_reason=_said(news, kept))

    return tell_of_runs


def _events(instance: dg.DagsterInstance, after: int | None, limit: int) -> Sequence[dg.EventLogRecord]:
    chosen = RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_FAILURE, after_storage_id=after)
    return instance.fetch_run_status_changes(chosen, limit=limit, ascending=after is not None).records


def _latest_failure(instance: dg.DagsterInstance) -> int:
    return next((event.storage_id for event in _events(instance, None, 1)), 0)


def _failed_since(
    instance: dg.DagsterInstance, after: int, known: dict[str, Known], now: dt.datetime
) -> tuple[int, list[News], dict[str, Known]]:
    """The last failure that was looked at, what is news, and what is to be remembered.

    `Known.since` is when it last failed: a success after that ends it.
    """
    news: dict[str, News] = {}
    found = dict(known)
    for event in _events(instance, after, _MOST_EVENTS):
        after = event.storage_id
        run = instance.get_run_by_id(event.run_id)
        if run is None or run.status is dg.DagsterRunStatus.CANCELED:
            continue  # whoever stopped it knows: Dagster says first that it failed
        what = _what(run)
        failed = dt.datetime.fromtimestamp(event.timestamp, dt.UTC)
        before = found.get(what)
        if before is not None and before.told is not None and now - before.told < AGAIN_AFTER:
            found[what] = Known(failed, before.told)
            continue
        kind = Kind.STILL if before is not None else Kind.NEW
        text = f"run {run.run_id[:8]}: {event.event_log_entry.user_message or 'failed'}"
        news[what] = News(kind, what, text, failed)
        found[what] = Known(failed, now)
    return after, list(news.values()), found


def _what(run: dg.DagsterRun) -> str:
    return " ".join(filter(None, ("run", run.job_name, run.tags.get(PARTITION_TAG))))


def _has_succeeded(instance: dg.DagsterInstance, what: str, known: Known) -> bool:
    _, job, *partition = what.split(" ", 2)
    tags = {PARTITION_TAG: partition[0]} if partition else {}
    chosen = dg.RunsFilter(job_name=job, tags=tags, statuses=[dg.DagsterRunStatus.SUCCESS])
    records = instance.get_run_records(chosen, limit=1)
    return any((record.end_time or 0) > known.since.timestamp() for record in records)


def _is_recent(known: Known, now: dt.datetime) -> bool:
    """Whether a failure is remembered: nobody may ever run that partition again."""
    return now - known.since < _FORGOTTEN_AFTER


def _known(context: dg.SensorEvaluationContext, document: object) -> dict[str, Known]:
    try:
        return load(document)
    except ValueError as error:
        context.log.warning("what was told is not known any more, and is told again: the cursor %s", error)
        return {}


def _said(news: Sequence[News], known: dict[str, Known]) -> str:
    return f"{len(known)} wrong; told of {len(news)}"
