"""One run over the event lake: look, recover, compact what needs it, judge what is left."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject, StoreError
from quantlab_dagster.lake.store.objects import PROBE_DIRECTORY
from quantlab_dagster.lake.warehouse import AppHour, Scope, Told, find_apps, find_tables, is_compacted
from quantlab_dagster.warehouse.checks import findings
from quantlab_dagster.warehouse.compact import compact_hours
from quantlab_dagster.warehouse.look import look_at_slots, look_over, read_slots
from quantlab_dagster.warehouse.looking import (
    LookRecord,
    Seen,
    after_all,
    in_turn,
    is_recent,
    keep,
    look_at_changes,
    read_look,
    tables_of,
    with_tables,
    with_withheld,
    withheld_of,
)
from quantlab_dagster.warehouse.outcome import undone
from quantlab_dagster.warehouse.place import Requested
from quantlab_dagster.warehouse.servers import check_servers
from quantlab_dagster.warehouse.slot import read_slot, refuse_slots_of_another_layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.store.objects import Staged
    from quantlab_dagster.warehouse.look import HourLook
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


async def sweep(
    place: WarehousePlace, scope: Scope, listener: HourListener, *, most: int | None = None, full: bool = False
) -> Sweep:
    """Compact every cold partition of the scope that needs it; first complete what a crash left.

    Without a scope that is narrower it costs what changed: recent hours are looked at, and the next slice of the
    history; all of it where there is no record of an earlier look, or if asked to.

    Args:
        place: what the work needs.
        scope: which partitions.
        listener: told of progress.
        most: work on no more partitions than that; the rest waits for the next run, which goes on there.
        full: look at all of the history.

    Raises:
        ServerUnsafe: a server ignores a condition on which safety rests: nothing was done.
        SettingsError: another layout has left something unfinished here, or the slots are another lake's.
        StoreError: the lake cannot be listed. What goes wrong in one partition is in its outcome.
    """
    started, began, before = time.monotonic(), place.clock(), place.lake.requests.by_kind()
    await check_servers(place)
    known = await read_look(place)
    record = known[0]
    if record is None and scope != Scope():  # a narrow look does not come by all slots
        told = Told()
        await look_at_slots(place, Scope(), told)
        await refuse_slots_of_another_layout(place.slots, sorted(told.of_another_layout))
    wide = scope == Scope()
    whole = wide and (full or record is None or not record.suffices)
    if whole:
        lake = await look_over(place, scope)
        seen = Seen(lake, after_all(record, lake, place.clock()))
    elif wide:
        seen = await look_at_changes(place, record or LookRecord())
        lake = seen.lake
    else:
        lake = await look_over(place, scope, tables_of(record))
        seen = await look_at_changes(place, record or LookRecord(), history=False)
    turn, had = in_turn(place, lake.work, record if wide else None)
    chosen = (turn + had)[:most]
    work = [look.partition for look in chosen]
    left = max(0, len(turn) - len(work))
    historic = {partition.prefix for partition in work if not is_recent(place, partition)}
    kept: tuple[LookRecord | None, str | None] | None = known
    if historic or (work and record is None):
        # So that the next run finds them if this one dies, and whoever has another layout or lake knows of us.
        kept = await keep(place, record or LookRecord(), add=historic, known=known)
    outcomes = await compact_hours(place, work, listener)
    await discard_strays(place, scope)  # now that what they were made for is recovered
    # What is wrong is judged over the whole lake: a run over one hour must not hide what another one found.
    looks = {look.partition: look for look in (*seen.lake.looks, *lake.looks)}
    told = seen.lake.told
    told.add(lake.told)
    slots = await read_slots(place, {*(one.partition for one in outcomes), *_with_slots(looks.values())})
    now = record or LookRecord()
    if wide and left:
        now = now.model_copy(update={"stopped_at": _stopped_at(chosen, historic) or now.stopped_at})
    elif wide:
        now = seen.record.model_copy(update={"looked_at": began, "stopped_at": ""})
    untried = {look.partition.prefix for look in had} - {partition.prefix for partition in work}
    now = with_withheld(
        now,
        {path: why for path, why in withheld_of(record).items() if path in untried}
        | {item.partition.prefix: item.withheld for item in outcomes if item.withheld},
        {item.partition.prefix for item in outcomes},
    )
    now = with_tables(now, told.tables, record)
    found = findings(slots, looks.values(), place.clock(), outcomes, told, withheld_of(now))
    unfinished = {
        one.prefix for one, slot in slots.items() if isinstance(slot, MalformedObject) or slot.state != "idle"
    }
    unfinished |= {one.partition.prefix for one in undone(outcomes) if not one.withheld}
    done = historic | {look.partition.prefix for look in looks.values()} - untried
    with_bad_files = {one.prefix for one in slots} - unfinished
    if record is not None or not told.empty:  # a wrong URL is left as it was
        await keep(
            place,
            now,
            add=unfinished,
            also=with_bad_files,
            remove=done - unfinished,
            whole=whole and not left,
            known=kept,
        )
    return Sweep(
        tuple(sorted(outcomes, key=lambda outcome: outcome.partition)),
        lake.totals.hours,
        left,
        tuple(found),
        time.monotonic() - started,
        _since(place, before),
    )


def _stopped_at(chosen: Sequence[HourLook], historic: set[str]) -> str:
    """Where the next run goes on that looks at the same; empty if this one has not come to the history."""
    last = chosen[-1] if chosen else None
    prefix = last.partition.prefix if last is not None and not last.unfinished else ""
    return prefix if prefix in historic else ""


def _with_slots(looks: Iterable[HourLook]) -> list[AppHour]:
    return [look.partition for look in looks if look.slot is not None or (look.unreadable and not look.unlisted)]


async def recover(
    place: WarehousePlace, scope: Scope, listener: HourListener, requested: Requested | None = None
) -> Sweep:
    """Complete what was left unfinished, and merge nothing.

    Args:
        place: what the work needs.
        scope: which partitions.
        listener: told of progress.
        requested: what is asked for, beyond the usual.

    Raises:
        ServerUnsafe, StoreError: as `sweep`.
    """
    started, before = time.monotonic(), place.lake.requests.by_kind()
    await check_servers(place)
    requested = replace(requested or Requested(), recover_only=True)
    known, _ = await read_look(place)
    told = Told()
    told.tables |= tables_of(known)
    slots = await look_at_slots(place, place.cold(scope), told)
    unfinished = [
        partition
        for partition, slot in slots.items()
        if isinstance(slot, MalformedObject) or slot.state != "idle" or (requested.retry_corrupt and slot.corrupt)
    ]
    closed: set[str] = set()
    if unfinished:
        await find_apps(place.lake, place.layout)  # which refuses a lake that is a table
        closed = await find_tables(place.lake, {one.app for one in unfinished}, told, place.layout)
    ours = [one for one in unfinished if not one.prefix.startswith((*told.tables, *closed))]
    outcomes = await compact_hours(place, ours, listener, requested)
    await discard_strays(place, scope)
    slots_now = await look_at_slots(place, Scope(), told)
    found = findings(slots_now, (), place.clock(), told=told, withheld=withheld_of(known))
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
        if upload.key.startswith(f"{PROBE_DIRECTORY}/"):
            await _discard(place, upload)  # a run that is just trying the server out makes another
            continue
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
            discarded += await _discard(place, upload)
    return discarded


async def _discard(place: WarehousePlace, upload: Staged) -> bool:
    try:
        return await place.lake.discard(upload)
    except StoreError as error:
        logger.warning("an upload that a crash left cannot be discarded: %s", error)
        return False
