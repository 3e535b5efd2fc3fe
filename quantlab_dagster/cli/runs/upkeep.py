"""Running the pruning of Dagster's history in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantlab_dagster.cli.runs.in_process import InProcess, step_failures
from quantlab_dagster.defs.names import PRUNING_JOB, PRUNING_OP

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantlab_dagster.settings import Settings

__all__ = ["prune_history"]


def prune_history(settings: Settings, tell: Callable[[str], None]) -> tuple[dict[str, int], list[str]]:
    """Prune what is older than the settings say.

    Args:
        settings: of the project.
        tell: shows people which runs were found dead.

    Returns:
        How many runs were deleted, emptied and kept, and logs of ticks deleted; and why it failed, if it did.
    """
    with InProcess(settings, PRUNING_JOB, tell) as runner:
        result = runner.execute({})
    counts: dict[str, Any] = {}
    for event in result.all_events:
        if event.is_successful_output and event.step_key == PRUNING_OP:
            counts = {name: value.value for name, value in event.step_output_data.metadata.items()}
    names = ("deleted", "emptied", "kept", "tick logs")
    return {name: int(counts.get(name, 0)) for name in names}, step_failures(result, {})
