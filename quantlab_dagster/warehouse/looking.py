"""Looking at what may have changed: recent hours each run, history in slices, and what was in trouble. Keeps a record.

Nothing depends on the record but when something is seen: without one, or with one of another layout, all is looked at.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import AwareDatetime

from quantlab_dagster.errors import Conflict, MalformedObject, UnaddressableKey
from quantlab_dagster.lake.record import Record
from quantlab_dagster.lake.warehouse import SLOTS, AppHour, Scope, Told, find_apps, list_hour, walk_app
from quantlab_dagster.warehouse.look import LakeLook, look_at, look_at_slots, look_over
from quantlab_dagster.warehouse.slot import read_slot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.warehouse.look import HourLook
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.warehouse.slot import Slot

__all__ = ["LOOK_KEY", "LookRecord", "Seen", "after_all", "is_recent", "keep", "look_at_changes", "read_look"]

logger = logging.getLogger(__name__)

LOOK_KEY = f"{SLOTS}_look.json"

RECENT = dt.timedelta(hours=48)
"""Hours that ended so long ago at most are looked at in every run."""

_PAGES = 8
"""Requests that a run spends on listing history."""
_MOST_AGAIN = 200
_MOST_TOLD = 20
_ATTEMPTS = 5
_STALE = dt.timedelta(hours=6)


class LookRecord(Record):
    """`_compaction/_look.json`: how far the history has been looked at.

    Attributes:
        template: of the layout; a record of another one says nothing.
        app: whose history comes next; of the first one if empty.
        after: the last key that was seen of it.
        seen_whole_at: when all of the history had been looked at; None if it never was.
        again: directories of partitions of the history that were in trouble, or that somebody is at work on.
        unexplained: examples of what the layout does not explain: of this round, and of the one before.
    """

    remedy: ClassVar[str] = "It only says what was looked at: delete it, and the next run looks at everything"

    schema_version: Literal[1] = 1
    template: str = ""
    app: str = ""
    after: str = ""
    seen_whole_at: AwareDatetime | None = None
    again: tuple[str, ...] = ()
    unexplained: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run has looked at.

    Attributes:
        lake: what was found.
        record: what is to be kept once the work is done.
    """

    lake: LakeLook
    record: LookRecord


async def read_look(place: WarehousePlace) -> tuple[LookRecord | None, str | None]:
    """The record and its ETag; None if there is none that says something of this layout."""
    found = await place.slots.get_if_exists(LOOK_KEY)
    if found is None:
        return None, None
    content, info = found
    try:
        record = LookRecord.read(content, place.slots.name(LOOK_KEY))
    except MalformedObject as error:
        logger.warning("%s; everything is looked at", error)
        return None, info.etag
    return (record if record.template == place.layout.template else None), info.etag


def is_recent(place: WarehousePlace, partition: AppHour) -> bool:
    """Whether every run looks at it."""
    return partition.last_hour >= place.last_cold_hour() - RECENT


async def look_at_changes(place: WarehousePlace, record: LookRecord, *, history: bool = True) -> Seen:
    """Look at recent hours, at the next slice of the history if asked to, and again at what was in trouble.

    Raises:
        StoreError: a listing failed; it is never taken for an empty one.
    """
    recent = await look_over(place, Scope((), place.last_cold_hour() - RECENT))
    told, looks = recent.told, {look.partition: look for look in recent.looks}
    if history:
        found, record = await _slice(place, record, told)
        looks = found | looks
    for directory in record.again:
        partition = AppHour.of_directory(directory, place.layout)
        if partition is not None and partition not in looks and not is_recent(place, partition):
            looks[partition] = await _look_again(place, partition)
    for keys in record.unexplained:
        for key in keys:
            told.tell_unexplained(key)
    ours = [look for one, look in looks.items() if not one.prefix.startswith(tuple(told.tables))]
    return Seen(LakeLook(recent.totals, tuple(sorted(ours, key=lambda look: look.partition)), told), record)


async def _slice(place: WarehousePlace, record: LookRecord, told: Told) -> tuple[dict[AppHour, HourLook], LookRecord]:
    """The next pages of the history, app after app, with their slots; and the record of it."""
    apps = [app for app in (await find_apps(place.lake, place.layout)).items if app >= record.app]
    after = record.after if apps and apps[0] == record.app else ""
    looks: dict[AppHour, HourLook] = {}
    pages, own = _PAGES, Told()
    while apps and pages > 0:
        found: list[tuple[AppHour, list[ObjectInfo] | UnaddressableKey]] = []

        def take(partition: AppHour, files: list[ObjectInfo] | UnaddressableKey, found: Any = found) -> None:
            found.append((partition, files))

        scope = place.cold(Scope((apps[0],)))
        walked = await walk_app(place.lake, apps[0], scope, take, own, place.layout, after, pages)
        looks |= await _looks_of(place, apps[0], found, after, whole=walked.ended, told=told)
        pages -= walked.pages
        apps, after = (apps[1:], "") if walked.ended else (apps, walked.seen)
        if not walked.ended:
            break
    told.odd |= own.odd
    told.tables |= own.tables
    this, before = record.unexplained
    this = tuple(sorted({*this, *own.unexplained.values()}))[:_MOST_TOLD]
    update: dict[str, Any] = {"app": "", "after": "", "seen_whole_at": place.clock(), "unexplained": ((), this)}
    if apps:
        update = {"app": apps[0], "after": after, "unexplained": (this, before)}
    return looks, record.model_copy(update=update)


async def _looks_of(
    place: WarehousePlace,
    app: str,
    found: list[tuple[AppHour, list[ObjectInfo] | UnaddressableKey]],
    after: str,
    *,
    whole: bool,
    told: Told,
) -> dict[AppHour, HourLook]:
    begun = AppHour.of_key(after, place.layout) if after else None
    hours = [one.hour for one, _ in found] + ([begun.hour] if begun else [])
    first = min(hours) if hours and after else None
    last = max(one.last_hour for one, _ in found) if found and not whole else None
    slots = await look_at_slots(place, place.cold(Scope((app,), first, last)), told)
    looks = {one: look_at(place, one, files, slots) for one, files in found}
    looks |= {one: look_at(place, one, [], slots) for one in slots if one not in looks and found}
    return {one: look for one, look in looks.items() if look.needs_work or look.corrupt}


async def _look_again(place: WarehousePlace, partition: AppHour) -> HourLook:
    slots: dict[AppHour, Slot | MalformedObject] = {}
    try:
        slots[partition], _ = await read_slot(place.slots, partition)
    except MalformedObject as error:
        slots[partition] = error
    try:
        return look_at(place, partition, await list_hour(place.lake, partition), slots)
    except UnaddressableKey as error:
        return look_at(place, partition, error, slots)


async def keep(
    place: WarehousePlace,
    record: LookRecord,
    *,
    add: Iterable[str],
    remove: Iterable[str] = (),
    known: tuple[LookRecord | None, str | None] | None = None,
) -> None:
    """Write the record; what others added meanwhile stays. Without a change of weight nothing is written.

    Args:
        place: of the work.
        record: to be written.
        add: directories to be looked at again.
        remove: directories that need not be.
        known: the record and its ETag as they were read just now; None to read them.
    """
    add, remove = set(add), set(remove)
    for _ in range(_ATTEMPTS):
        (now, etag), known = known or await read_look(place), None
        again = (set(now.again if now else ()) | add) - remove
        wanted = record.model_copy(
            update={"template": place.layout.template, "again": tuple(sorted(again))[:_MOST_AGAIN]}
        )
        if now is not None and _alike(now, wanted):
            return
        try:
            await place.slots.compare_and_swap(LOOK_KEY, wanted.dump(), etag)
        except Conflict:
            continue
        return
    logger.warning("%s could not be written: others were faster each time", place.slots.name(LOOK_KEY))


def _alike(one: LookRecord, other: LookRecord) -> bool:
    """Whether they differ by a few hours at most in when the history was seen."""
    if one.seen_whole_at is None or other.seen_whole_at is None:
        return one == other
    same = one.model_copy(update={"seen_whole_at": other.seen_whole_at}) == other
    return same and abs(other.seen_whole_at - one.seen_whole_at) < _STALE


def after_all(record: LookRecord | None, lake: LakeLook, now: dt.datetime) -> LookRecord:
    """The record after a look at everything."""
    told = tuple(sorted(lake.told.unexplained.values()))[:_MOST_TOLD]
    return LookRecord(seen_whole_at=now, again=record.again if record else (), unexplained=((), told))
