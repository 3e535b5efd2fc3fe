"""Looking at what may have changed: recent hours each run, history in slices, and what was in trouble. Keeps a record.

Nothing depends on the record but when something is seen: without one, or with one of another layout, all is looked at.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import AwareDatetime

from quantlab_dagster.errors import AccessDenied, Conflict, MalformedObject, SettingsError, UnaddressableKey
from quantlab_dagster.lake.record import Record
from quantlab_dagster.lake.warehouse import SLOTS, AppHour, Scope, Told, Turn, Walked, find_apps, list_hour, walk_app
from quantlab_dagster.warehouse.look import LakeLook, look_at, look_at_slots, look_over, without_tables
from quantlab_dagster.warehouse.place import last_cold_hour
from quantlab_dagster.warehouse.slot import read_slot

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.warehouse.look import HourLook
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.warehouse.slot import Slot

__all__ = [
    "LOOK_KEY",
    "LookRecord",
    "Seen",
    "after_all",
    "in_turn",
    "is_recent",
    "keep",
    "look_at_changes",
    "read_look",
    "tables_of",
    "with_tables",
    "with_withheld",
    "withheld_of",
]

logger = logging.getLogger(__name__)

LOOK_KEY = f"{SLOTS}_look.json"

RECENT = dt.timedelta(hours=48)
"""Hours that ended so long ago at most are looked at in every run, and what was so at the last one that ended: else
what a run left that died, or came meanwhile, would be history when nobody was at work for longer."""

_PAGES = 8
"""Requests that a run spends on listing history."""
_MOST_AGAIN = 200
_WHOLE_LAKE = ""
"""In the place of directories that are too many to be noted: everything is to be looked at again."""
_MOST_TOLD = 20
_MOST_WITHHELD = 200
_MOST_TABLES = 200
_ATTEMPTS = 5
_STALE = dt.timedelta(hours=6)


class LookRecord(Record):
    """`_compaction/_look.json`: how far the history has been looked at.

    Attributes:
        template: of the layout; a record of another one says nothing.
        lake: where the lake is whose slots these are; empty where they are in it.
        app: whose history comes next; of the first one if empty.
        after: the last key that was seen of it.
        seen_whole_at: when all of the history had been looked at; None if it never was.
        looked_at: when the last run began that looked at all that was recent, and ended; None if that is not known.
        stopped_at: directory of the last partition of the history that a run worked on which left others for the next.
        again: directories of partitions of the history that were in trouble, or that somebody is at work on; one of
            them is empty if they are too many.
        unexplained: examples of what the layout does not explain: of this round, and of the one before.
        withheld: directories of partitions of the history that may not be read, and why: of this round, and of the one
            before. They are tried again when their turn comes.
        tables: prefixes that belong to table formats, and which: of this round, and of the one before.
        peeked: the directory beside the apps that was looked into last, where each run looks into a few of them.
    """

    remedy: ClassVar[str] = "It only says what was looked at: delete it, and the next run looks at everything"

    schema_version: Literal[1] = 1
    template: str = ""
    lake: str = ""
    app: str = ""
    after: str = ""
    seen_whole_at: AwareDatetime | None = None
    looked_at: AwareDatetime | None = None
    stopped_at: str = ""
    again: tuple[str, ...] = ()
    unexplained: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    withheld: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = ((), ())
    tables: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = ((), ())
    peeked: str = ""

    @property
    def suffices(self) -> bool:
        """Whether it says enough for a look at what may have changed: else everything has to be looked at."""
        return self.seen_whole_at is not None and _WHOLE_LAKE not in self.again


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
    """The record and its ETag; None if there is none that says something of this layout.

    Raises:
        SettingsError: it is another lake's, and so are the slots.
    """
    found = await place.slots.get_if_exists(LOOK_KEY)
    if found is None:
        return None, None
    content, info = found
    try:
        record = LookRecord.read(content, place.slots.name(LOOK_KEY))
    except MalformedObject as error:
        logger.warning("%s; everything is looked at", error)
        return None, info.etag
    if record.lake not in ("", place.lake.address):
        raise SettingsError(
            "WAREHOUSE_SLOTS_URL",
            f"{place.slots.url} is where the slots of another lake are: {record.lake}",
            "Give each lake a place of its own. If the lake has moved, and its slots with it, delete "
            f"{place.slots.name(LOOK_KEY)}",
        )
    known = record.template == place.layout.template and (record.lake or _lake_of(place) == "")
    return (record if known else None), info.etag


def _lake_of(place: WarehousePlace) -> str:
    return place.lake.address if place.slots_elsewhere is not None else ""


def is_recent(place: WarehousePlace, partition: AppHour) -> bool:
    """Whether every run looks at it."""
    return partition.last_hour >= place.last_cold_hour() - RECENT


def in_turn(
    place: WarehousePlace, work: Iterable[HourLook], record: LookRecord | None
) -> tuple[list[HourLook], list[HourLook]]:
    """Partitions that need work: those whose turn it is, and those of the history that earlier runs have had.

    Where a run may not work on all, the next goes on where it stopped. What needs work all the same was in vain: hours
    that may not be read, however many, must not keep the others waiting.
    """
    stopped = AppHour.of_directory(record.stopped_at, place.layout) if record and record.stopped_at else None
    turn: list[HourLook] = []
    had: list[HourLook] = []
    for look in work:
        history = not look.unfinished and not is_recent(place, look.partition)
        was_had = stopped is not None and history and _rank(look.partition) <= _rank(stopped)
        (had if was_had else turn).append(look)
    return turn, had


def _rank(partition: AppHour) -> tuple[float, AppHour]:
    return -partition.hour.timestamp(), partition


async def look_at_changes(place: WarehousePlace, record: LookRecord, *, history: bool = True) -> Seen:
    """Look at recent hours, at the next slice of the history if asked to, and again at what was in trouble.

    Raises:
        StoreError: a listing failed; it is never taken for an empty one.
    """
    recent = await look_over(place, Scope((), _recent_since(place, record)), tables_of(record), _turn(record))
    told, looks = recent.told, {look.partition: look for look in recent.looks}
    if history:
        found, record = await _slice(place, record, told)
        looks = found | looks
    for directory in record.again:
        partition = AppHour.of_directory(directory, place.layout)
        if partition is not None and partition not in looks and not is_recent(place, partition):
            try:
                looks[partition] = await _look_again(place, partition)
            except AccessDenied as error:
                told.tell_denied(partition.prefix, str(error))
    for keys in record.unexplained:
        for key in keys:
            told.tell_again(key, place.layout)
    sound = {look.partition.app for look in recent.looks if look.needs_work}
    ours = await without_tables(place, looks.values(), told, sound)
    return Seen(LakeLook(recent.totals, ours, told), record)


def _recent_since(place: WarehousePlace, record: LookRecord) -> dt.datetime:
    """The first hour that is looked at in any case."""
    before = record.looked_at or record.seen_whole_at
    last = place.last_cold_hour()
    return (min(last, last_cold_hour(before, place.grace)) if before is not None else last) - RECENT


def _turn(record: LookRecord) -> Turn:
    known = (key for keys in record.unexplained for key in keys)
    return Turn(record.peeked, frozenset(key.partition("/")[0] for key in known))


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
        try:
            walked = await walk_app(place.lake, apps[0], scope, take, own, place.layout, after, pages)
        except AccessDenied as error:
            own.tell_denied(place.layout.prefix_of(apps[0]), str(error))
            walked = Walked(1, "", ended=True)
            found.clear()
        looks |= await _looks_of(place, apps[0], found, after, whole=walked.ended, told=told)
        pages -= walked.pages
        apps, after = (apps[1:], "") if walked.ended else (apps, walked.seen)
        if not walked.ended:
            break
    if told.peeked:  # it is a while until their turn comes again
        own.unexplained |= told.unexplained
    told.odd |= own.odd
    told.tables |= own.tables
    told.denied |= own.denied
    this, before = record.unexplained
    this = tuple(sorted({*this, *own.unexplained.values(), *own.unmatched.values()}))[:_MOST_TOLD]
    update: dict[str, Any] = {"app": "", "after": "", "seen_whole_at": place.clock(), "unexplained": ((), this)}
    update["withheld"] = ((), record.withheld[0])
    tables = _tables({**dict(record.tables[0]), **own.tables})
    update["tables"] = ((), tables)
    if apps:
        update = {"app": apps[0], "after": after, "unexplained": (this, before), "tables": (tables, record.tables[1])}
    return looks, record.model_copy(update={**update, "peeked": told.peeked})


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
    return {one: look for one, look in looks.items() if look.is_kept}


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


def withheld_of(record: LookRecord | None) -> dict[str, str]:
    """Directories of partitions that may not be read, as far as known, and why."""
    return {**dict(record.withheld[1]), **dict(record.withheld[0])} if record is not None else {}


def with_withheld(record: LookRecord, add: Mapping[str, str], remove: Collection[str]) -> LookRecord:
    """The record with partitions that may not be read, and without others that could be."""
    this, before = ({path: why for path, why in known if path not in remove} for known in record.withheld)
    this |= add
    rounds = (tuple(sorted(found.items())[:_MOST_WITHHELD]) for found in (this, before))
    return record.model_copy(update={"withheld": tuple(rounds)})


def tables_of(record: LookRecord | None) -> dict[str, str]:
    """Prefixes that belong to table formats, as far as known, and to which."""
    return {**dict(record.tables[1]), **dict(record.tables[0])} if record is not None else {}


def with_tables(record: LookRecord, told: Mapping[str, str], known: LookRecord | None) -> LookRecord:
    """The record with tables that a run was told of and did not know: what it knew stays for its two rounds only."""
    new = {prefix: kind for prefix, kind in told.items() if prefix not in {**tables_of(known), **tables_of(record)}}
    this, before = record.tables
    return record.model_copy(update={"tables": (_tables({**dict(this), **new}), before)})


def _tables(found: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(found.items())[:_MOST_TABLES])


async def keep(
    place: WarehousePlace,
    record: LookRecord,
    *,
    add: Collection[str],
    also: Collection[str] = (),
    remove: Collection[str] = (),
    whole: bool = False,
    known: tuple[LookRecord | None, str | None] | None = None,
) -> tuple[LookRecord | None, str | None] | None:
    """Write the record; what others added meanwhile stays. Without a change of weight nothing is written.

    Args:
        place: of the work.
        record: to be written.
        add: directories to be looked at again. If they are too many, everything will be.
        also: such directories for which it is enough that their slice of the history comes round.
        remove: directories that need not be.
        whole: whether everything was looked at, and nothing of it waits.
        known: the record and its ETag as they were read last; None to read them.

    Returns:
        The record and its ETag as they are now, as far as known.
    """
    remove = {*remove, _WHOLE_LAKE} if whole else set(remove)
    for _ in range(_ATTEMPTS):
        found, known = known or await read_look(place), None
        now, etag = found
        again = _again((set(now.again if now else ()) | set(add)) - remove, also)
        wanted = record.model_copy(update={"template": place.layout.template, "lake": _lake_of(place), "again": again})
        if now is not None and _alike(now, wanted):
            return found
        try:
            return wanted, await place.slots.compare_and_swap(LOOK_KEY, wanted.dump(), etag)
        except Conflict:
            continue
    logger.warning("%s could not be written: others were faster each time", place.slots.name(LOOK_KEY))
    return None


def _again(needed: set[str], also: Collection[str]) -> tuple[str, ...]:
    """What is noted to be looked at again: all that is needed, or else that everything is; and what else has room."""
    if len(needed) > _MOST_AGAIN:
        needed = {_WHOLE_LAKE}
    room = _MOST_AGAIN - len(needed)
    return tuple(sorted({*needed, *sorted(set(also) - needed)[:room]}))


def _alike(one: LookRecord, other: LookRecord) -> bool:
    """Whether they differ by a few hours at most in when the lake was seen."""
    for name in ("seen_whole_at", "looked_at"):
        this, that = getattr(one, name), getattr(other, name)
        if this is not None and that is not None and abs(that - this) < _STALE:
            one = one.model_copy(update={name: that})
    return one == other


def after_all(record: LookRecord | None, lake: LakeLook, now: dt.datetime) -> LookRecord:
    """The record after a look at everything."""
    told = tuple(sorted([*lake.told.unexplained.values(), *lake.told.unmatched.values()]))[:_MOST_TOLD]
    again, tables = record.again if record else (), _tables(lake.told.tables)
    return LookRecord(seen_whole_at=now, again=again, unexplained=((), told), tables=((), tables))
