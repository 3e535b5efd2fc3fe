"""One run over the event lake: look, recover, compact what needs it, judge what is left."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject, StoreError
from quantlab_dagster.lake.warehouse import AppHour, Scope, Told, is_compacted
from quantlab_dagster.warehouse.checks import findings
from quantlab_dagster.warehouse.compact import compact_hours
from quantlab_dagster.warehouse.look import look_at_slots, look_over
from quantlab_dagster.warehouse.place import Requested
from quantlab_dagster.warehouse.slot import read_slot

if TYPE_CHECKING:
    from quantlab_dagster.warehouse.outcome import HourListener, HourOutcome, HourStatus
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.work.finding import Finding

__all__ = ["Sweep", "discard_strays", "recover", "sweep"]

logger = logging.getLogger(__name__)


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


async def sweep(place: WarehousePlace, scope: Scope, listener: HourListener, *, most: int | None = None) -> Sweep:
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
    everything = lake if scope == Scope() else await look_over(place, Scope())
    slots = await look_at_slots(place, Scope(), everything.told)
    found = findings(slots, everything.looks, place.clock(), outcomes, everything.told)
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
    place: WarehousePlace, scope: Scope, listener: HourListener, requested: Requested | None = None
) -> Sweep:
    """Complete what was left unfinished, and merge nothing.

    Args:
        place: what the work needs.
        scope: which partitions.
        listener: told of progress.
        requested: what is asked for, beyond the usual.
    """
    started, before = time.monotonic(), place.lake.requests.by_kind()
    requested = replace(requested or Requested(), recover_only=True)
    told = Told()
    slots = await look_at_slots(place, place.cold(scope), told)
    unfinished = [
        partition
        for partition, slot in slots.items()
        if isinstance(slot, MalformedObject) or slot.state != "idle" or (requested.retry_corrupt and slot.corrupt)
    ]
    outcomes = await compact_hours(place, unfinished, listener, requested)
    await discard_strays(place, scope)
    slots_now = await look_at_slots(place, Scope(), told)
    found = findings(slots_now, (), place.clock(), told=told)
    seconds = time.monotonic() - started
    return Sweep(tuple(outcomes), len(slots), 0, tuple(found), seconds, _since(place, before))


def _since(place: WarehousePlace, before: dict[str, int]) -> dict[str, int]:
    return {kind: number - before.get(kind, 0) for kind, number in place.lake.requests.by_kind().items()}


async def discard_strays(place: WarehousePlace, scope: Scope) -> int:
    """Discard uploads of compactors that crashed before their plan: nobody sees them, but they take space.

    Returns:
        How many.
    """
    try:
        uploads = await place.lake.staged_below("")
    except StoreError as error:
        logger.warning("uploads that a crash left cannot be looked for: %s", error)
        return 0
    discarded = 0
    for upload in uploads:
        partition = AppHour.of_key(upload.key, place.layout)
        if partition is None or partition not in scope or not is_compacted(upload.key.rpartition("/")[2]):
            continue  # not ours
        try:
            # Read after the listing: whoever made the upload had claimed the slot before.
            slot, _ = await read_slot(place.slots, partition)
        except MalformedObject:
            continue
        planned = slot.plan is not None and slot.plan.upload_id == upload.upload_id
        # Not even if the claim is silent: whoever holds it may wake, and write a plan. It is discarded when the slot is
        # idle again, or has another one's plan.
        if not planned and slot.state != "claimed":
            try:
                discarded += await place.lake.discard(upload)
            except StoreError as error:
                logger.warning("an upload that a crash left cannot be discarded: %s", error)
    return discarded
