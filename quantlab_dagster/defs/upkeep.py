"""The job that keeps Dagster's history small, and its schedule.

No `from __future__ import annotations` here: Dagster reads the annotations of these functions as objects.
"""

import datetime as dt

import dagster as dg

from quantlab_dagster.defs.names import NEVER_RETRIED, PRUNING_JOB, PRUNING_OP
from quantlab_dagster.defs.pruning import prune
from quantlab_dagster.defs.running import schedule_status
from quantlab_dagster.defs.tick_logs import prune_tick_logs
from quantlab_dagster.settings import PRUNING, Settings
from quantlab_dagster.work.clock import Clock

__all__ = ["pruning_job", "pruning_schedule"]


def _described(settings: Settings) -> str:
    return (
        f"Keeps Dagster's history small: of runs that ended more than {settings.keep_runs_days} days ago "
        "(QUANTLAB_KEEP_RUNS_DAYS) stays what its pages and catch-up's count of attempts need."
    )


def pruning_job(settings: Settings) -> dg.JobDefinition:
    """Prunes what is older than the settings say."""

    @dg.op(
        name=PRUNING_OP,
        description=(
            "Deletes old runs that no page, check or count of attempts needs, the logs of the others, and those of "
            "ticks that are gone."
        ),
    )
    def prune_runs(context: dg.OpExecutionContext, clock: dg.ResourceParam[Clock]) -> None:
        before = clock() - dt.timedelta(days=settings.keep_runs_days)
        done = prune(context.instance, before)
        tick_logs = prune_tick_logs(context.instance)
        context.log.info("%d runs deleted, %d emptied, %d kept", len(done.deleted), len(done.emptied), len(done.kept))
        context.log.info("%d logs of ticks deleted", tick_logs)
        context.add_output_metadata(
            {
                "ended before": f"{before:%Y-%m-%d %H:%M} UTC",
                "deleted": len(done.deleted),
                "emptied": len(done.emptied),
                "kept": len(done.kept),
                "tick logs": tick_logs,
            }
        )

    @dg.job(
        name=PRUNING_JOB,
        description=_described(settings),
        executor_def=dg.in_process_executor,
    )
    def prune_history() -> None:
        prune_runs()

    return prune_history


def pruning_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Every day, when little else runs."""
    return dg.ScheduleDefinition(
        name=PRUNING,
        job_name=PRUNING_JOB,
        cron_schedule="40 5 * * *",
        execution_timezone="UTC",
        default_status=schedule_status(settings, PRUNING),
        tags=NEVER_RETRIED,
        description=_described(settings),
    )
