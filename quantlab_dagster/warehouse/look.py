"""Looking over the event lake: which partitions need work, what a crash left, what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject, UnaddressableKey
from quantlab_dagster.lake.warehouse import Scope, Told, Turn, find_hours, find_tables, is_compacted
from quantlab_dagster.warehouse.company import still_aside, without
from quantlab_dagster.warehouse.pack import pack, small_files
from quantlab_dagster.warehouse.slot import find_slots, read_slot, refuse_slots_of_another_layout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.lake.warehouse import AppHour
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.warehouse.slot import Corrupt, Slot

__all__ = ["HourLook", "LakeLook", "Totals", "look_at", "look_at_slots", "look_over", "read_slots", "without_tables"]


@dataclass(frozen=True, slots=True)
class HourLook:
    """What there is of a partition, and what is to be done.

    Attributes:
        partition: which.
        files: number of its event files.
        small: how many of them are small.
        new: how many of those to be merged were not merged before.
        merges: number of files that would become one, for each output.
        bytes_in: size of the files to be merged.
        corrupt: files known not to be mergeable, which are still there.
        waiting: files known to unite with no other, which are still there.
        slot: its slot, if that says more than "idle".
        unreadable: why its slot cannot be read, or its files cannot be listed; empty if they can.
        unfinished: what somebody left, or is at; empty if nothing.
        vanished: corrupt files on record that are no longer there.
        unlisted: whether its files cannot be listed, for a name among them that no request can hold.
    """

    partition: AppHour
    files: int
    small: int
    new: int
    merges: tuple[int, ...]
    bytes_in: int
    corrupt: tuple[Corrupt, ...] = ()
    slot: Slot | None = None
    unreadable: str = ""
    unfinished: str = ""
    vanished: int = 0
    unlisted: bool = False
    waiting: tuple[Corrupt, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether there is something to do, or to say."""
        return bool(self.needs_work or self.corrupt or self.waiting)

    @property
    def needs_work(self) -> bool:
        """Whether a run has something to do here, be it to say that it cannot."""
        return bool(self.merges or self.unreadable or self.unfinished or self.vanished)

    @property
    def reason(self) -> str:
        """What is to be done, for people."""
        if self.unreadable:
            return self.unreadable
        if self.unfinished:
            return self.unfinished
        corrupt = f", {len(self.corrupt)} corrupt" if self.corrupt else ""
        if self.merges:
            return f"{self.small} small files, {self.new} of them new{corrupt}"
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
        looks: at the partitions that need work or have files that stay, sorted. The others are not kept: a lake may
            have half a million of them.
        told: what is odd, unexplained, or belongs to others, for people: it is left out, with all that is below.
    """

    totals: Totals
    looks: tuple[HourLook, ...]
    told: Told

    @property
    def work(self) -> list[HourLook]:
        """Partitions that need work: first what is unfinished, then the latest hours, which are read the most."""
        needing = [look for look in self.looks if look.needs_work]
        return sorted(needing, key=lambda look: (not look.unfinished, -look.partition.hour.timestamp()))


async def look_over(
    place: WarehousePlace, scope: Scope, tables: Mapping[str, str] | None = None, turn: Turn | None = None
) -> LakeLook:
    """Look at every cold partition of the scope. Costs a listing for a thousand files, not one each.

    Args:
        place: the event lake.
        scope: which partitions.
        tables: prefixes that are known to belong to table formats, and which.
        turn: which directories beside the apps are looked into where the scope is not everything; else all of them.

    Raises:
        TableFormat: the lake is a table of a format that keeps account of its files.
        SettingsError: another layout has left something unfinished in partitions of this one.
        StoreError: a listing failed; it is never taken for an empty one.
    """
    everything = scope == Scope()
    scope, told = place.cold(scope), Told()
    told.tables |= tables or {}
    slots = await look_at_slots(place, scope, told)
    await refuse_slots_of_another_layout(place.slots, sorted(told.of_another_layout))
    totals = Totals()
    looks: list[HourLook] = []
    seen: set[AppHour] = set()

    def take(partition: AppHour, files: list[ObjectInfo] | UnaddressableKey) -> None:
        if partition in slots:
            seen.add(partition)
        look = look_at(place, partition, files, slots)
        if isinstance(files, UnaddressableKey):
            looks.append(look)
            return
        totals.hours += 1
        totals.apps.add(partition.app)
        totals.files += len(files)
        totals.small += look.small
        totals.size_bytes += sum(file.size_bytes for file in files)
        if look.is_kept:
            looks.append(look)

    await find_hours(place.lake, scope, take, told, place.layout, None if everything else turn or Turn())
    looks += [look_at(place, partition, [], slots) for partition in slots if partition not in seen]
    return LakeLook(totals, await without_tables(place, looks, told), told)


async def without_tables(
    place: WarehousePlace, looks: Iterable[HourLook], told: Told, sound: Collection[str] = ()
) -> tuple[HourLook, ...]:
    """Those of the looks that are ours, sorted: nothing is touched of what another format keeps account of.

    Args:
        place: the event lake.
        looks: at partitions.
        told: which tables are known; told of more.
        sound: apps of which it was seen just now that they are none.

    Raises:
        StoreError: a listing failed.
    """
    ours = [look for look in looks if not look.partition.prefix.startswith(tuple(told.tables))]
    apps = {look.partition.app for look in ours if look.needs_work}.difference(sound)
    closed = tuple(await find_tables(place.lake, apps, told, place.layout))
    return tuple(sorted((look for look in ours if not look.partition.prefix.startswith(closed)), key=_partition_of))


def _partition_of(look: HourLook) -> AppHour:
    return look.partition


async def look_at_slots(place: WarehousePlace, scope: Scope, told: Told) -> dict[AppHour, Slot | MalformedObject]:
    """The slots of the scope that say more than "idle", or why they cannot be read; what is odd is told."""
    slots = await find_slots(place.slots, place.layout, scope)
    for path in slots.odd:
        told.tell_odd(path)
    told.of_another_layout |= set(slots.of_another)
    return await read_slots(place, slots.items)


async def read_slots(place: WarehousePlace, partitions: Iterable[AppHour]) -> dict[AppHour, Slot | MalformedObject]:
    """The slots of these partitions that say more than "idle", or why they cannot be read."""
    found: dict[AppHour, Slot | MalformedObject] = {}
    for partition in partitions:
        try:
            slot, _ = await read_slot(place.slots, partition)
        except MalformedObject as error:
            found[partition] = error
            continue
        if slot.state != "idle" or slot.corrupt:
            found[partition] = slot
    return found


def look_at(
    place: WarehousePlace,
    partition: AppHour,
    files: Sequence[ObjectInfo] | UnaddressableKey,
    slots: dict[AppHour, Slot | MalformedObject],
) -> HourLook:
    """What there is of a partition, from its files (or why they cannot be listed) and the slots that say something."""
    if isinstance(files, UnaddressableKey):  # its work fails, and says the same
        return replace(look_at(place, partition, [], slots), unreadable=str(files), unlisted=True)
    slot = slots.get(partition)
    readable = None if isinstance(slot, MalformedObject) else slot
    known = readable.corrupt if readable else ()
    there = tuple(item for item in known if item.is_among(files))
    mergeable = without(files, still_aside(files, there, readable.company if readable else None))
    bins = pack(mergeable, place.rules)
    chosen = [file for found in bins for file in found]
    return HourLook(
        partition,
        files=len(files),
        small=len(small_files(mergeable, place.rules)),
        new=sum(not is_compacted(file.name) for file in chosen),
        merges=tuple(len(found) for found in bins),
        bytes_in=sum(file.size_bytes for file in chosen),
        corrupt=tuple(item for item in there if not item.waits),
        waiting=tuple(item for item in there if item.waits),
        slot=readable,
        unreadable=str(slot) if isinstance(slot, MalformedObject) else "",
        unfinished=_unfinished(place, readable) if readable else "",
        vanished=len(known) - len(there),
    )


def _unfinished(place: WarehousePlace, slot: Slot) -> str:
    if slot.plan is not None:
        return f"{slot.holder} left the replacement of {len(slot.plan.inputs)} files unfinished at {slot.since}"
    if slot.state == "claimed":
        silent = "was at work, and is silent" if slot.is_silent(place.clock()) else "is at work"
        return f"{slot.holder} {silent} since {slot.since}"
    return ""
