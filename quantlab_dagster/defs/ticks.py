"""Schedules and sensors whose last tick failed: nothing else of Dagster's tells people of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster._core.scheduler.instigation import InstigatorStatus, TickStatus

from quantlab_dagster.alerts.news import Trouble

if TYPE_CHECKING:
    from collections.abc import Collection

    import dagster as dg
    from dagster_shared.error import SerializableErrorInfo

__all__ = ["failing_ticks", "tick_name"]

_ON = {InstigatorStatus.RUNNING, InstigatorStatus.DECLARED_IN_CODE}
_ENDED = [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE]


def tick_name(name: str) -> str:
    """What the trouble of a schedule or sensor is called."""
    return f"tick of {name}"


def failing_ticks(instance: dg.DagsterInstance, names: Collection[str], location: str | None) -> list[Trouble]:
    """Of the schedules and sensors that are on: those whose last tick failed, and why.

    Args:
        instance: that keeps the ticks.
        names: of the schedules and sensors.
        location: code location that they are of; None for all there are.
    """
    found = {}
    for state in instance.all_instigator_state(instigator_statuses=_ON):
        if state.name not in names or location not in (None, state.repository_selector.location_name):
            continue
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1, statuses=_ENDED)
        if ticks and ticks[0].status is TickStatus.FAILURE:
            found[state.name] = Trouble(tick_name(state.name), _why(ticks[0].error))
    return [found[name] for name in sorted(found)]


def _why(error: SerializableErrorInfo | None) -> str:
    """What went wrong in the end: Dagster wraps it into errors of its own."""
    if error is None:
        return "the tick has failed"
    while error.cause is not None:
        error = error.cause
    return error.message.strip().partition(f"{error.cls_name}: ")[2] or error.message.strip()
