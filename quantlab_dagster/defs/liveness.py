"""Runs that died without a word: recognised, and ended in Dagster's history.

The command line executes its runs itself, so nobody would ever end one that was killed, and its day would read as busy
for ever. Those that Dagster launched are looked after by the code server that started them; if that was killed with
them (a restart of the service, out of memory), they read as started until `max_runtime_seconds` have passed. So both
say in tags which process it is: the command line when it makes a run, the other ones when a step begins.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.defs.history import DIED_TAG, PARTITION_TAG, UNFINISHED
from quantlab_dagster.defs.names import NEVER_RETRIED
from quantlab_dagster.work.processes import Machine, Process, has_ended, process_of, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "SILENT_FOR",
    "EndedRun",
    "command_line_tags",
    "end_dead_runs",
    "process_in",
    "say_which_process",
    "why_dead",
]

SILENT_FOR = dt.timedelta(hours=6)
"""A run whose process cannot be looked at (it is another host's, or its tags are an older version's) is dead after so
long without an event. No run may take longer than that: `run_monitoring.max_runtime_seconds` in dagster.yaml."""

_STARTED_BY = {"quantlab/started_by": "command line"}
# Dagster's pages hide tags that begin so; people have no use for them, and they would fill the list of runs.
_HOST, _PID, _PID_STARTED = ".dagster/quantlab_host", ".dagster/quantlab_pid", ".dagster/quantlab_pid_started"
_PROCESS_OF = ".dagster/quantlab_process_of"
"""The id of the run that the tags were written for: Dagster copies tags to a run that is executed again."""

_MAY_HAVE_DIED = [status for status in UNFINISHED if status is not dg.DagsterRunStatus.QUEUED]
"""No process has what is queued, and it may be thousands of runs."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that was found dead, and was ended.

    Attributes:
        run_id: of the run.
        what: its job, and its day if it has one.
        why: how it is known to be dead.
    """

    run_id: str
    what: str
    why: str

    @property
    def text(self) -> str:
        """One line for people."""
        return f"ended run {self.run_id[:8]} ({self.what}), which died without a word: {self.why}"


# ---- tags ------------------------------------------------------------------------------------------------------------


def command_line_tags(run_id: str) -> dict[str, str]:
    """Tags of a run that this process executes."""
    return {**_STARTED_BY, **NEVER_RETRIED, _PROCESS_OF: run_id, **_tags_of(process_of(os.getpid()))}


def say_which_process(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Tag the run of a step with the process that executes all of it, if that can be known here.

    A run of the command line has said so already. Without tags, if they cannot be written, the run goes on.
    """
    run = context.run
    if run.tags.get(_PROCESS_OF) == run.run_id or run.remote_job_origin is None:
        return
    pid = _pid_of_run(context.job_def.executor_def.name)
    if pid is None:
        return
    try:
        tags = {_PROCESS_OF: run.run_id, **_tags_of(process_of(pid))}
        context.instance.add_run_tags(run.run_id, tags)
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own, and the work does not need the tags
        context.log.warning("cannot say which process this is (%s); if it is killed, it reads as running", error)


def _pid_of_run(executor: str) -> int | None:
    """The process that executes a run of which this one executes a step; None if it may be another machine's.

    To name a worker in its place would be wrong: the run outlives it, and its step is done by another one.
    """
    return {"in_process": os.getpid, "multiprocess": os.getppid}.get(executor, lambda: None)()


def _tags_of(process: Process) -> dict[str, str]:
    machine = process.machine
    where = {_HOST: f"{machine.name}/{machine.boot}/{machine.pids}", _PID: str(process.pid)}
    return {**where, _PID_STARTED: process.started}


def process_in(tags: Mapping[str, str]) -> Process | None:
    """The process that executes a run; None if its tags do not say, as those of older versions."""
    host, pid = tags.get(_HOST, "").split("/"), tags.get(_PID, "")
    if len(host) != len(("name", "boot", "pids")) or not pid.isdecimal() or int(pid) < 1:
        return None
    return Process(Machine(*host), int(pid), tags.get(_PID_STARTED, ""))


# ---- the judgement ---------------------------------------------------------------------------------------------------


def why_dead(
    process: Process | None, here: Machine, silent: Callable[[], dt.timedelta], ended: Callable[[Process], bool | None]
) -> str | None:
    """Why a run is dead; None if it lives, or may live.

    Args:
        process: that executes it, if known.
        here: where we are.
        silent: time since its last event, asked for where nothing else tells. Below zero if its clock is ahead of ours.
        ended: whether a process of this machine has ended, None if that cannot be told; asked for no other one.
    """
    if process:
        there = process.machine
        # The name does not matter: the boot id is of this kernel alone, and names change with networks.
        if there.boot == here.boot and there.pids == here.pids and (there.boot or there.name == here.name):
            gone = ended(process)
            if gone is not None:
                return f"its process {process.pid} on {there.name} is gone" if gone else None
        elif there.name == here.name and there.boot and here.boot and there.boot != here.boot:
            return f"{there.name} was started again since"
    # A time that far in the future is no sign of life either: one wrong clock would keep a day busy for years.
    if abs(silent()) > SILENT_FOR:
        where = f" (process {process.pid} on {process.machine.name})" if process else ""
        return f"no sign of life for more than {SILENT_FOR.total_seconds() / 3600:g} hours{where}"
    return None


# ---- Dagster's history -----------------------------------------------------------------------------------------------


def end_dead_runs(
    instance: dg.DagsterInstance, now: dt.datetime, *, log: Callable[[], logging.Logger] = lambda: _LOG
) -> list[EndedRun]:
    """End every run whose process is known and dead, so that its day is tried again.

    Safe at any time, and when several do it at once: at worst the run's log has two events that say the same. An error
    of the storage is logged, and the next call tries again.

    Args:
        instance: its history.
        now: UTC.
        log: gives the log once there is something to say: that of a tick makes a file when it is first asked for.
    """
    try:
        records = instance.get_run_records(dg.RunsFilter(statuses=_MAY_HAVE_DIED))
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own, and others' runs are not our work
        log().warning("cannot see which runs have died: %s", error)
        return []
    ended = (_end_if_dead(instance, record, now, log) for record in records if _says_which(record.dagster_run))
    return [run for run in ended if run]


def _says_which(run: dg.DagsterRun) -> bool:
    """Whether its tags are of the process that executes it. One that is executed again has the first one's tags."""
    if run.remote_job_origin is None:  # of the command line, before it had one
        return _STARTED_BY.items() <= run.tags.items()
    return run.tags.get(_PROCESS_OF) == run.run_id


def _end_if_dead(
    instance: dg.DagsterInstance, record: dg.RunRecord, now: dt.datetime, log: Callable[[], logging.Logger]
) -> EndedRun | None:
    run = record.dagster_run
    try:
        why = why_dead(process_in(run.tags), this_machine(), lambda: now - _last_seen(instance, record), has_ended)
        if not why or not _end(instance, run.run_id, why):
            return None
    except Exception as error:  # noqa: BLE001 - as above
        log().warning(
            "cannot see whether run %s has died, or cannot end it (%s); if it has, delete it in the UI",
            run.run_id,
            error,
        )
        return None
    return EndedRun(run.run_id, " ".join(filter(None, (run.job_name, run.tags.get(PARTITION_TAG)))), why)


def _last_seen(instance: dg.DagsterInstance, record: dg.RunRecord) -> dt.datetime:
    last = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False).records
    written = max([record.update_timestamp.timestamp(), *(event.timestamp for event in last)])
    return dt.datetime.fromtimestamp(written, dt.UTC)


def _end(instance: dg.DagsterInstance, run_id: str, why: str) -> bool:
    """Whether it was ended by us."""
    # Read again: it may have ended well since it was listed, right before its process did.
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return False
    message = f"The process of this run died without a word: {why}."
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message)
    else:
        instance.report_run_failed(run, message)
    instance.add_run_tags(run_id, {DIED_TAG: "yes"})
    return True
