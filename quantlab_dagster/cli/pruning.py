"""`quantlab prune`: what the schedule prune_history does, for machines without Dagster's daemon.

No `from __future__ import annotations`: Typer reads the annotations as objects.
"""

from quantlab_dagster.cli.options import Json, leave

__all__ = ["prune"]


def prune(as_json: Json = False) -> None:
    """Keep Dagster's history small: delete runs older than QUANTLAB_KEEP_RUNS_DAYS that nothing needs any more."""
    from quantlab_dagster.cli.documents import pruned_document
    from quantlab_dagster.cli.runs.upkeep import prune_history
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.settings import load_settings

    screen, settings = Screen(as_json=as_json), load_settings()
    counts, failures = prune_history(settings, screen.note)
    screen.say(
        f"of the runs that ended more than {settings.keep_runs_days} days ago {counts['deleted']} were deleted, "
        f"{counts['emptied']} lost their logs and steps, and {counts['kept']} are kept as they are; "
        f"{counts['tick logs']} logs of forgotten ticks were deleted"
    )
    for failure in failures:
        screen.error(failure)
    screen.document(pruned_document(counts, failures))
    leave(found=failures)
