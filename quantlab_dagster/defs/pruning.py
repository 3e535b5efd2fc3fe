"""Dagster's history kept small: Dagster itself never deletes a run, its events, or the file that SQLite has for each.

What is older than some days goes, unless somebody still needs it (docs/adr/0024):

- *pages*: the last materialisation, observation and plan of each partition of each asset, and the last evaluation of
  each check. Their runs stay in the lists, with these events; their logs and steps go.
- *attempts*: catch-up counts the runs of a task since its last success (history.py), so those stay, whatever their age.
- *backfills* under way, and runs that have not ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.legacy_storage import LegacyEventLogStorage
from dagster._core.storage.tags import BACKFILL_ID_TAG

from quantlab_dagster.defs.history import CATCH_UP_TAG

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["PRUNED_TAG", "Pruned", "prune"]

PRUNED_TAG = "quantlab/pruned"
"""Of a run that lost its logs and steps: says so on its page, and that it need not be looked at again."""
_AT_ONCE = 500
_SHARD_SUFFIXES = ("", "-wal", "-shm", "-journal")
_events, _checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c

_OF_PARTITIONS = [
    dg.DagsterEventType.ASSET_MATERIALIZATION.value,
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
    dg.DagsterEventType.ASSET_OBSERVATION.value,
    dg.DagsterEventType.ASSET_FAILED_TO_MATERIALIZE.value,
]
"""Events by which the pages say what became of a partition."""
_OF_CHECKS = [
    dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
]
_OF_RUNS = [
    dg.DagsterEventType.RUN_START.value,
    dg.DagsterEventType.RUN_SUCCESS.value,
    dg.DagsterEventType.RUN_FAILURE.value,
    dg.DagsterEventType.RUN_CANCELED.value,
]
_EVALUATED = ["SUCCEEDED", "FAILED"]


@dataclass(slots=True)
class Pruned:
    """What became of the runs that are old enough.

    Attributes:
        deleted: runs that nobody needs any more.
        emptied: runs that stay in the lists with what the pages need of them, and lost their logs and steps.
        kept: runs that stay as they were, for what is counted or under way.
    """

    deleted: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def prune(instance: dg.DagsterInstance, before: dt.datetime, *, most: int = 5_000) -> Pruned:
    """Prune what ended before a moment.

    Safe at any time, beside runs and when several do it at once: what was deleted is not there the next time, and what
    is interrupted is found again.

    Args:
        instance: its storage must be one of SQL: SQLite, Postgres.
        before: the moment, UTC.
        most: delete and empty no more runs than that each, the oldest first; the next time goes on with the rest.

    Raises:
        dagster.Failure: the storage is none of SQL.
    """
    storage = _sql_storage(instance)
    old = _ended_before(instance, before)
    shown = _shown_runs(storage) & set(old)
    needed = _under_way(instance, old.values()) | _counted(instance, old.values(), shown)
    deletable = [run_id for run_id in old if run_id not in shown | needed]
    full = [run_id for run_id in old if run_id in shown - needed and PRUNED_TAG not in old[run_id].tags]
    done = Pruned(deletable[:most], full[:most], [run_id for run_id in old if run_id in needed])
    for run_id in (*done.deleted, *done.emptied):  # before the run says that it has none, or is gone
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        _delete_shard(storage, run_id)
    _empty(storage, done.emptied)
    for run_id in done.emptied:
        instance.add_run_tags(run_id, {PRUNED_TAG: "its logs and steps"})
    for run_id in done.deleted:
        with storage.index_connection() as connection:
            storage.delete_events_for_run(connection, run_id)
            connection.execute(sa.delete(AssetCheckExecutionsTable).where(_checks.run_id == run_id))
        instance.run_storage.delete_run(run_id)
    return done


def _ended_before(instance: dg.DagsterInstance, before: dt.datetime) -> dict[str, dg.DagsterRun]:
    """Runs that ended before a moment, the oldest first."""
    chosen = dg.RunsFilter(statuses=FINISHED_STATUSES, created_before=before)
    records = instance.get_run_records(chosen, ascending=True)
    ended = (record for record in records if record.end_time is None or record.end_time < before.timestamp())
    return {record.dagster_run.run_id: record.dagster_run for record in ended}


def _sql_storage(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage: Any = instance.event_log_storage
    if isinstance(storage, LegacyEventLogStorage):
        storage = storage._storage.event_log_storage  # noqa: SLF001  # the wrapper of `storage:` in dagster.yaml
    if not isinstance(storage, SqlEventLogStorage):
        raise dg.Failure(
            description=f"{type(storage).__name__} is no storage that this project can prune: "
            "switch the schedule prune_history off, and prune by that storage's own means",
            allow_retries=False,
        )
    return storage


def _shown_runs(storage: SqlEventLogStorage) -> set[str]:
    """Runs with an event that is the last of its kind and partition."""
    last = sa.select(sa.func.max(_events.id)).where(_events.dagster_event_type.in_(_OF_PARTITIONS))
    last = last.group_by(_events.asset_key, _events.partition, _events.dagster_event_type)
    with storage.index_connection() as connection:
        shown = set(connection.execute(sa.select(_events.run_id).where(_events.id.in_(last))).scalars())
        return shown | set(
            connection.execute(sa.select(_checks.run_id).where(_checks.id.in_(_last_evaluations()))).scalars()
        )


def _last_evaluations() -> sa.CompoundSelect[tuple[int]]:
    """Rows of what was said last of each check and partition, and of each check's last plan.

    A plan has its run's partition, and what is then said of a check that knows no partitions has none.
    """
    last = sa.select(sa.func.max(_checks.id)).group_by(_checks.asset_key, _checks.check_name)
    said = last.where(_checks.execution_status.in_(_EVALUATED)).group_by(_checks.partition)
    return sa.union(last, said)


def _under_way(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun]) -> set[str]:
    """Runs of backfills that have not ended."""
    statuses = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
    backfills = instance.get_backfills(filters=BulkActionsFilter(statuses=statuses))
    going = {backfill.backfill_id for backfill in backfills}
    return {run.run_id for run in runs if run.tags.get(BACKFILL_ID_TAG) in going}


def _counted(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun], shown: Collection[str]) -> set[str]:
    """Runs that catch-up counts, and those without which it would count others.

    A task's runs go from the oldest on, never one that is younger than one that stays: a failure that stays without the
    success after it would count as a failed attempt.
    """
    counted: set[str] = set()
    for task in {run.tags[CATCH_UP_TAG] for run in runs if CATCH_UP_TAG in run.tags}:
        ordered = instance.get_runs(dg.RunsFilter(tags={CATCH_UP_TAG: task}))  # the latest first
        ended_well = [number for number, run in enumerate(ordered) if run.status is dg.DagsterRunStatus.SUCCESS]
        series = ordered[: ended_well[0]] if ended_well else ordered
        stay = {run.run_id for run in series} | {run.run_id for run in ordered if run.run_id in shown}
        oldest = max((number for number, run in enumerate(ordered) if run.run_id in stay), default=-1)
        counted |= {run.run_id for run in ordered[: oldest + 1]} - set(shown)
        counted |= {run.run_id for run in series}
    return counted


def _empty(storage: SqlEventLogStorage, run_ids: Sequence[str]) -> None:
    """Leave of these runs what the pages need: how they began and ended, and what they say of partitions and checks."""
    event = _checks.evaluation_event_storage_id
    evaluated = sa.select(event).where(_checks.id.in_(_last_evaluations()) & event.is_not(None))
    for first in range(0, len(run_ids), _AT_ONCE):
        some = run_ids[first : first + _AT_ONCE]
        ours = _events.run_id.in_(some)
        others = _events.dagster_event_type.not_in([*_OF_PARTITIONS, *_OF_CHECKS, *_OF_RUNS])
        outdated = _events.dagster_event_type.in_(_OF_CHECKS) & _events.id.not_in(evaluated)
        with storage.index_connection() as connection:
            connection.execute(
                sa.delete(SqlEventLogStorageTable).where(
                    ours & (_events.dagster_event_type.is_(None) | others | outdated)
                )
            )
            connection.execute(
                sa.delete(AssetCheckExecutionsTable).where(
                    _checks.run_id.in_(some) & _checks.id.not_in(_last_evaluations())
                )
            )


def _delete_shard(storage: SqlEventLogStorage, run_id: str) -> None:
    """Delete the file that SQLite has for a run: 0.2 MB when empty, 1 MB of a day. Opened again, it is made anew."""
    if isinstance(storage, SqliteEventLogStorage):
        for suffix in _SHARD_SUFFIXES:
            Path(storage.path_for_shard(run_id) + suffix).unlink(missing_ok=True)
        storage._initialized_dbs.discard(run_id)  # noqa: SLF001  # else it would be taken for made
