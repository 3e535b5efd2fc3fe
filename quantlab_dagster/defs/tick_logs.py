"""Logs of ticks that are gone: Dagster deletes ticks (`retention` in dagster.yaml), and leaves their logs for ever.

A tick that logs anything makes a file, and catch-up ticks 2,880 times a day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.legacy_storage import LegacyScheduleStorage
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.schedules.sql_schedule_storage import SqlScheduleStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["prune_tick_logs"]


def prune_tick_logs(instance: dg.DagsterInstance) -> int:
    """Delete the logs of ticks that Dagster has deleted; returns how many.

    Safe at any time, beside ticks and when several do it at once. A store that cannot list its logs (as one that keeps
    none) is left alone.

    Raises:
        dagster.Failure: the storage of ticks is none of SQL.
    """
    # Listed before the ticks are: one that begins meanwhile has its tick before its log.
    logs = [log for prefix in _prefixes(instance) for log in _logs_below(instance, prefix)]
    ticks = _ticks(instance)
    gone = [log for log in logs if log[-1] not in ticks]
    for log in gone:
        instance.compute_log_manager.delete_logs(log_key=log)
    return len(gone)


def _prefixes(instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """Where schedules and sensors log: Dagster names no code location in it, so two of them may share one."""
    origins = [state.origin for state in instance.all_instigator_state()]
    return {(origin.repository_origin.repository_name, origin.instigator_name) for origin in origins}


def _ticks(instance: dg.DagsterInstance) -> set[str]:
    """Ids of all ticks: there are tens of thousands, which would take long to be read as a whole."""
    storage: Any = instance.schedule_storage
    if isinstance(storage, LegacyScheduleStorage):
        storage = storage._storage.schedule_storage  # noqa: SLF001  # the wrapper of `storage:` in dagster.yaml
    if not isinstance(storage, SqlScheduleStorage):
        raise dg.Failure(
            description=f"{type(storage).__name__} is no storage of which this project can see the ticks: "
            "delete the logs of old ticks by that storage's own means",
            allow_retries=False,
        )
    with storage.connect() as connection:
        return {str(number) for number in connection.execute(sa.select(JobTickTable.c.id)).scalars()}


def _logs_below(instance: dg.DagsterInstance, prefix: tuple[str, str]) -> Sequence[Sequence[str]]:
    try:
        return instance.compute_log_manager.get_log_keys_for_log_key_prefix(prefix, ComputeIOType.STDERR)
    except (FileNotFoundError, NotImplementedError):
        return []
