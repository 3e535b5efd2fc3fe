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
from dagster._core.definitions.assets.job.asset_job import is_reserved_asset_job_name
from dagster._core.event_api import RunStatusChangeRecordsFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from quantlab_dagster.access import notifier_of
from quantlab_dagster.alerts.news import AGAIN_AFTER, Kind, Known, Message, News, Trouble, decide, dump, load
from quantlab_dagster.alerts.notify import Notifier
from quantlab_dagster.defs.history import PARTITION_TAG
from quantlab_dagster.defs.names import CHECK_ALERTS, RUN_ALERTS
from quantlab_dagster.defs.ticks import failing_ticks, tick_name
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.wording import name_some

__all__ = ["Alerts", "check_alerts", "run_alerts"]

_OFF = "neither QUANTLAB_ALERT_URL nor QUANTLAB_ALERT_COMMAND is set"
_MOST_EVENTS = 50
_FORGOTTEN_AFTER = dt.timedelta(days=7)
_RANGE_TAGS = (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
_TO, _OF = "...", " of "
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
        looked = {*map(_name, checks), *map(tick_name, ticking)}
        news, after = decide(known, [*_failing(context.instance, checks), *ticks], clock(), looked=looked)
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
            found.append(Trouble(_name(key), event.description or "the check has failed"))
    return found


def _name(key: dg.AssetCheckKey) -> str:
    return f"{key.asset_key.to_user_string()} {key.name}"


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
        owed = _owed_still(context.instance, known, _owed(cursor.get("owed"), known))
        last, news, after = _failed_since(context.instance, cursor["after"], known, owed, now)
        owed = _owed_still(context.instance, after, owed)
        over = [what for what in after if what not in owed]
        news += [News(Kind.OVER, what, "", after[what].since) for what in over if after[what].told is not None]
        alerts.tell(news)
        kept = {what: one for what, one in after.items() if what in owed}
        document = {"after": last, "told": dump(kept), "owed": {what: sorted(of) for what, of in owed.items()}}
        return dg.SensorResult(cursor=json.dumps(document), skip_reason=_said(news, kept))

    return tell_of_runs


def _events(instance: dg.DagsterInstance, after: int | None, limit: int) -> Sequence[dg.EventLogRecord]:
    chosen = RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_FAILURE, after_storage_id=after)
    return instance.fetch_run_status_changes(chosen, limit=limit, ascending=after is not None).records


def _latest_failure(instance: dg.DagsterInstance) -> int:
    return next((event.storage_id for event in _events(instance, None, 1)), 0)


def _failed_since(
    instance: dg.DagsterInstance, after: int, known: dict[str, Known], owed: dict[str, frozenset[str]], now: dt.datetime
) -> tuple[int, list[News], dict[str, Known]]:
    """The last failure that was looked at, what is news, and what is to be remembered.

    `Known.since` is when it last failed: a success after that ends it. What failed is added to what is owed.
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
        owed[what] = owed.get(what, frozenset()) | _failed_of(instance, run)
        if before is not None and before.told is not None and now - before.told < AGAIN_AFTER:
            found[what] = Known(failed, before.told)
            continue
        kind = Kind.STILL if before is not None else Kind.NEW
        text = f"run {run.run_id[:8]}: {event.event_log_entry.user_message or 'failed'}"
        news[what] = News(kind, what, text, failed)
        found[what] = Known(failed, now)
    return after, list(news.values()), found


def _what(run: dg.DagsterRun) -> str:
    """Its job and partition; of a run of whatever was chosen in the pages, whose job all of these share, of what."""
    start, end = (run.tags.get(tag) for tag in _RANGE_TAGS)
    partition = run.tags.get(PARTITION_TAG) or (start and end and f"{start}{_TO}{end}")
    what = " ".join(filter(None, ("run", run.job_name, partition)))
    chosen = sorted(_named(run)) if is_reserved_asset_job_name(run.job_name) else []
    return f"{what}{_OF}{name_some(chosen, 3)}" if chosen else what


def _named(run: dg.DagsterRun) -> frozenset[str]:
    """The assets that somebody chose for a run; where there are none, the checks."""
    return frozenset(key.to_user_string() for key in run.asset_selection or run.asset_check_selection or ())


def _of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> frozenset[str]:
    """The assets, or checks, that a run was of; empty where it was of none, or nobody knows."""
    named = _named(run)
    if named and run.step_keys_to_execute is None:
        return named
    return _assets_in(instance, run, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED) or named


def _failed_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> frozenset[str]:
    """What of it a run that failed left undone."""
    of = _of(instance, run)
    return of - _assets_in(instance, run, dg.DagsterEventType.ASSET_MATERIALIZATION) or of


def _assets_in(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType) -> frozenset[str]:
    keys = (record.asset_key for record in instance.get_records_for_run(run.run_id, of_type=kind).records)
    return frozenset(key.to_user_string() for key in keys if key is not None)


def _owed_still(
    instance: dg.DagsterInstance, known: dict[str, Known], owed: dict[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """What of each failure no success since has covered. One of which all was is left out; so is a job of no assets."""
    still = {}
    for what, one in known.items():
        left, succeeded = owed.get(what, frozenset()), False
        for run in _succeeded(instance, what, one):
            succeeded = True
            left -= _of(instance, run) or left
        if left or not succeeded:
            still[what] = left
    return still


def _succeeded(instance: dg.DagsterInstance, what: str, known: Known) -> list[dg.DagsterRun]:
    """The runs of its job and partition that succeeded after it failed."""
    _, job, *partition = what.partition(_OF)[0].split(" ", 2)
    tags: dict[str, str | Sequence[str]] = {}
    if partition:
        start, to, end = partition[0].partition(_TO)
        tags = dict(zip(_RANGE_TAGS, (start, end), strict=True)) if to else {PARTITION_TAG: start}
    chosen = dg.RunsFilter(job_name=job, tags=tags, statuses=[dg.DagsterRunStatus.SUCCESS], updated_after=known.since)
    records = instance.get_run_records(chosen, limit=_MOST_EVENTS)
    return [record.dagster_run for record in records if (record.end_time or 0) > known.since.timestamp()]


def _owed(document: object, known: Collection[str]) -> dict[str, frozenset[str]]:
    """As it was remembered; of what an earlier version remembered nothing is known, and any success ends it."""
    found = document if isinstance(document, dict) else {}
    return {what: frozenset(map(str, found.get(what) or ())) for what in known}


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
