"""Looking over the event lake: which partitions need work, what a crash left, what is wrong."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.errors import AccessDenied, MalformedObject
from quantlab_dagster.hours.compact import HourStatus
from quantlab_dagster.hours.pack import Bin, pack, small_files
from quantlab_dagster.hours.slot import find_slots, read_slot
from quantlab_dagster.lake.events import ONE_HOUR, AppHour, find_hours, is_compacted
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.hours.compact import EventPlace, HourOutcome
    from quantlab_dagster.hours.slot import Corrupt, Slot
    from quantlab_dagster.lake.events import Scope
    from quantlab_dagster.lake.store import ObjectInfo

__all__ = [
    "FEW_SMALL_FILES",
    "NO_CORRUPT_FILES",
    "NO_UNFINISHED_PLANS",
    "HourLook",
    "LakeLook",
    "Totals",
    "discard_strays",
    "findings",
    "look_at_slots",
    "look_over",
]

logger = logging.getLogger(__name__)

NO_CORRUPT_FILES = "no_corrupt_files"
NO_UNFINISHED_PLANS = "no_unfinished_plans"
FEW_SMALL_FILES = "no_hours_of_small_files"

_DUE_AFTER = dt.timedelta(hours=2)
"""So long after its end an hour that could be merged, and is not, is late."""


@dataclass(frozen=True, slots=True)
class HourLook:
    """What there is of a partition, and what is to be done.

    Attributes:
        partition: which.
        files: its event files, in key order.
        small: how many of them are small.
        bins: which would be merged into one file each.
        slot: its slot, if that says more than "idle".
        unreadable: why its slot cannot be read; empty if it can.
        unfinished: what somebody left, or is at; empty if nothing.
        vanished: corrupt files on record that are no longer there.
    """

    partition: AppHour
    files: tuple[ObjectInfo, ...]
    small: int
    bins: tuple[Bin, ...]
    slot: Slot | None = None
    unreadable: str = ""
    unfinished: str = ""
    vanished: int = 0

    @property
    def corrupt(self) -> tuple[Corrupt, ...]:
        """Files known not to be mergeable, which are still there."""
        files = list(self.files)
        return tuple(item for item in self.slot.corrupt if item.is_among(files)) if self.slot else ()

    @property
    def needs_work(self) -> bool:
        """Whether a run has something to do here, be it to say that it cannot."""
        return bool(self.bins or self.unreadable or self.unfinished or self.vanished)

    @property
    def reason(self) -> str:
        """What is to be done, for people."""
        if self.unreadable:
            return self.unreadable
        if self.unfinished:
            return self.unfinished
        corrupt = f", {len(self.corrupt)} corrupt" if self.corrupt else ""
        if self.bins:
            new = sum(not is_compacted(file.name) for chosen in self.bins for file in chosen)
            return f"{self.small} small files, {new} of them new{corrupt}"
        return "a corrupt file has gone" if self.vanished else f"nothing to merge{corrupt}"


@dataclass(slots=True)
class Totals:
    """What there is in the cold partitions of a scope.

    Attributes:
        hours: partitions with files.
        apps: with such partitions.
        files: event files.
        small: of them, small ones.
        size_bytes: of them all.
    """

    hours: int = 0
    apps: set[str] = field(default_factory=set)
    files: int = 0
    small: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LakeLook:
    """What a look over the lake found.

    Attributes:
        totals: over all cold partitions of the scope.
        looks: at the partitions that need work or have corrupt files, sorted. The others are not kept: a lake may
            have half a million of them.
    """

    totals: Totals
    looks: tuple[HourLook, ...]

    @property
    def work(self) -> list[HourLook]:
        """Partitions that need work: first what is unfinished, then the latest hours, which are read the most."""
        needing = [look for look in self.looks if look.needs_work]
        return sorted(needing, key=lambda look: (not look.unfinished, -look.partition.hour.timestamp()))


async def look_over(place: EventPlace, scope: Scope) -> LakeLook:
    """Look at every cold partition of the scope. Costs a listing a day, not one a file.

    Raises:
        StoreError: a listing failed; it is never taken for an empty one.
    """
    scope = place.cold(scope)
    slots = await look_at_slots(place, scope)
    totals = Totals()
    looks: list[HourLook] = []
    seen: set[AppHour] = set()
    async for partition, files in find_hours(place.lake, scope):
        look = _look(place, partition, files, slots)
        totals.hours += 1
        totals.apps.add(partition.app)
        totals.files += len(files)
        totals.small += look.small
        totals.size_bytes += sum(file.size_bytes for file in files)
        if look.needs_work or look.corrupt:
            looks.append(look)
        if partition in slots:
            seen.add(partition)
    looks += [_look(place, partition, [], slots) for partition in slots if partition not in seen]
    return LakeLook(totals, tuple(sorted(looks, key=lambda look: look.partition)))


async def look_at_slots(place: EventPlace, scope: Scope) -> dict[AppHour, Slot | MalformedObject]:
    """The slots of the scope that say more than "idle", or why they cannot be read."""
    found: dict[AppHour, Slot | MalformedObject] = {}
    for partition in await find_slots(place.lake, scope):
        try:
            found[partition], _ = await read_slot(place.lake, partition)
        except MalformedObject as error:
            found[partition] = error
    return found


def _look(
    place: EventPlace,
    partition: AppHour,
    files: Sequence[ObjectInfo],
    slots: dict[AppHour, Slot | MalformedObject],
) -> HourLook:
    slot = slots.get(partition)
    known = () if slot is None or isinstance(slot, MalformedObject) else slot.corrupt
    bad = {(item.name, item.etag) for item in known}
    mergeable = [file for file in files if (file.name, file.etag) not in bad]
    look = HourLook(
        partition,
        tuple(files),
        len(small_files(mergeable, place.rules)),
        tuple(pack(mergeable, place.rules)),
    )
    if slot is None:
        return look
    if isinstance(slot, MalformedObject):
        return HourLook(look.partition, look.files, look.small, look.bins, unreadable=str(slot))
    gone = sum(not item.is_among(list(files)) for item in known)
    return HourLook(
        look.partition,
        look.files,
        look.small,
        look.bins,
        slot,
        unfinished=_unfinished(place, slot),
        vanished=gone,
    )


def _unfinished(place: EventPlace, slot: Slot) -> str:
    if slot.plan is not None:
        return f"{slot.holder} left the replacement of {len(slot.plan.inputs)} files unfinished at {slot.since}"
    if slot.state == "claimed":
        silent = "was at work, and is silent" if slot.is_silent(place.clock()) else "is at work"
        return f"{slot.holder} {silent} since {slot.since}"
    return ""


async def discard_strays(place: EventPlace, scope: Scope) -> int:
    """Discard uploads of compactors that crashed before their plan: nobody sees them, but they take space.

    Returns:
        How many.
    """
    try:
        uploads = await place.lake.staged_below("")
    except AccessDenied as error:
        logger.warning("uploads that a crash left cannot be looked for: %s", error)
        return 0
    discarded = 0
    for upload in uploads:
        partition = AppHour.of_key(upload.key)
        if partition is None or partition not in scope or not is_compacted(upload.key.rpartition("/")[2]):
            continue  # not ours
        try:
            # Read after the listing: whoever made the upload had claimed the slot before.
            slot, _ = await read_slot(place.lake, partition)
        except MalformedObject:
            continue
        planned = slot.plan is not None and slot.plan.upload_id == upload.upload_id
        at_work = slot.state == "claimed" and not slot.is_silent(place.clock())
        if not planned and not at_work:
            discarded += await place.lake.discard(upload)
    return discarded


def findings(
    slots: dict[AppHour, Slot | MalformedObject],
    looks: Iterable[HourLook],
    now: dt.datetime,
    outcomes: Iterable[HourOutcome] = (),
) -> list[Finding]:
    """What is wrong with the lake.

    Args:
        slots: as read just now.
        looks: at the partitions.
        now: the present time.
        outcomes: of the work done since then, if any.
    """
    outcomes = list(outcomes)
    done = {item.partition for item in outcomes if item.status in (HourStatus.COMPACTED, HourStatus.UNTOUCHED)}
    late = [look for look in looks if look.bins and look.partition.hour + ONE_HOUR + _DUE_AFTER <= now]
    small = [f"{look.partition} ({look.small})" for look in late if look.partition not in done]
    readable = {partition: slot for partition, slot in slots.items() if not isinstance(slot, MalformedObject)}
    corrupt = [
        f"{partition.key(item.name)} ({item.reason})" for partition, slot in readable.items() for item in slot.corrupt
    ]
    open_plans = [f"{partition}" for partition, slot in readable.items() if slot.plan is not None]
    open_plans += [f"{partition} (unreadable slot)" for partition in slots if partition not in readable]
    return [
        Finding(
            NO_CORRUPT_FILES,
            not corrupt,
            f"cannot be merged, and stay as they are: {name_some(corrupt)}" if corrupt else "no file is left out",
        ),
        Finding(
            NO_UNFINISHED_PLANS,
            not open_plans,
            f"to be completed: {name_some(sorted(open_plans))}" if open_plans else "no replacement is unfinished",
        ),
        Finding(
            FEW_SMALL_FILES,
            not small,
            f"could have been merged for {_DUE_AFTER.seconds // 3600} hours: {name_some(small)}"
            if small
            else "no hour waits for its small files to be merged",
        ),
    ]
