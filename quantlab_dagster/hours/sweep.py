"""One run over the event lake: look, recover, compact what needs it, judge what is left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.hours.compact import HourOutcome, HourStatus, compact_hours
from quantlab_dagster.hours.scan import discard_strays, findings, look_at_slots, look_over
from quantlab_dagster.lake.events import Scope

if TYPE_CHECKING:
    from quantlab_dagster.hours.compact import EventPlace, HourListener
    from quantlab_dagster.work.finding import Finding

__all__ = ["Sweep", "recover", "sweep"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a run over the lake did.

    Attributes:
        outcomes: one for each partition that needed work, sorted.
        looked_at: cold partitions that were looked at.
        left: partitions that need work and wait for the next run.
        findings: what is wrong with the lake now.
        seconds: wall-clock time.
        requests: by kind.
    """

    outcomes: tuple[HourOutcome, ...]
    looked_at: int
    left: int
    findings: tuple[Finding, ...]
    seconds: float
    requests: dict[str, int]

    def having(self, status: HourStatus) -> list[HourOutcome]:
        """The partitions that ended so."""
        return [outcome for outcome in self.outcomes if outcome.status is status]


async def sweep(place: EventPlace, scope: Scope, listener: HourListener, *, most: int | None = None) -> Sweep:
    """Compact every cold partition of the scope that needs it; first complete what a crash left.

    Args:
        place: what the work needs.
        scope: which partitions.
        listener: told of progress.
        most: work on no more partitions than that; the rest waits for the next run.

    Raises:
        StoreError: the lake cannot be listed. What goes wrong in one partition is in its outcome.
    """
    started, before = time.monotonic(), place.lake.requests.by_kind()
    lake = await look_over(place, scope)
    work = [look.partition for look in lake.work]
    outcomes = await compact_hours(place, work[:most], listener)
    await discard_strays(place, scope)  # now that what they were made for is recovered
    # What is wrong is judged over the whole lake: a run over one hour must not hide what another one found.
    slots = await look_at_slots(place, Scope())
    everything = lake if scope == Scope() else await look_over(place, Scope())
    found = findings(slots, everything.looks, place.clock(), outcomes)
    seconds, left = time.monotonic() - started, len(work) - len(outcomes)
    return Sweep(
        tuple(sorted(outcomes, key=lambda outcome: outcome.partition)),
        lake.totals.hours,
        left,
        tuple(found),
        seconds,
        _since(place, before),
    )


async def recover(
    place: EventPlace, scope: Scope, listener: HourListener, *, give_up: bool = False, retry_corrupt: bool = False
) -> Sweep:
    """Complete what was left unfinished, and merge nothing.

    Args:
        place: what the work needs.
        scope: which partitions.
        listener: told of progress.
        give_up: give up plans whose output and inputs are both gone: an operator has seen that nothing is missing.
        retry_corrupt: forget which files are known not to be mergeable; the next run tries them again.
    """
    started, before = time.monotonic(), place.lake.requests.by_kind()
    slots = await look_at_slots(place, place.cold(scope))
    unfinished = [
        partition
        for partition, slot in slots.items()
        if isinstance(slot, MalformedObject) or slot.state != "idle" or (retry_corrupt and slot.corrupt)
    ]
    outcomes = await compact_hours(
        place, unfinished, listener, recover_only=True, give_up=give_up, retry_corrupt=retry_corrupt
    )
    await discard_strays(place, scope)
    found = findings(await look_at_slots(place, Scope()), (), place.clock())
    seconds = time.monotonic() - started
    return Sweep(tuple(outcomes), len(slots), 0, tuple(found), seconds, _since(place, before))


def _since(place: EventPlace, before: dict[str, int]) -> dict[str, int]:
    return {kind: number - before.get(kind, 0) for kind, number in place.lake.requests.by_kind().items()}
