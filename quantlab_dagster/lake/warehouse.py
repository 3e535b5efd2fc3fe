"""The event lake's map: the grammar of its keys, both ways, and finding its hours by delimiter."""

from __future__ import annotations

import asyncio
import calendar
import datetime as dt
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from quantlab_dagster.errors import PathError, UnaddressableKey
from quantlab_dagster.lake.discovery import Found, find_values
from quantlab_dagster.lake.paths import segment, value_of
from quantlab_dagster.lake.store.objects import first_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = [
    "ONE_HOUR",
    "SLOTS",
    "AppHour",
    "Scope",
    "find_apps",
    "find_hours",
    "hour_text",
    "is_compacted",
    "is_event_file",
    "list_hour",
    "output_name",
    "parse_hour",
]

T = TypeVar("T")

SLOTS = "_compaction/"
"""Prefix of the slots. Engines ignore names that begin with an underscore."""

ONE_HOUR = dt.timedelta(hours=1)

_COMPACTED = "compacted_"
_HOUR = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})[T -]?(\d{2})(?::?00)?Z?")
_NAMESPACE = uuid.UUID("0c5ab3a4-54f5-5d1b-9d8c-3f5f0c2f3a51")
_LISTINGS_AT_ONCE = 32
_DAYS_HELD = 32


@dataclass(frozen=True, slots=True, order=True)
class AppHour:
    """One app's hour: the partition whose files are merged.

    Attributes:
        app: as in the path.
        hour: its beginning, aware, UTC.
    """

    app: str
    hour: dt.datetime

    @property
    def prefix(self) -> str:
        """Key prefix of the partition, ending in a slash."""
        return f"{_day_prefix(self.app, self.hour)}hour={self.hour:%H}/"

    def key(self, name: str) -> str:
        """Key of a file of the partition."""
        return f"{self.prefix}{name}"

    @property
    def slot_key(self) -> str:
        """Key of the partition's slot."""
        segment("app_id", self.app)
        return f"{SLOTS}{self.app}/{hour_text(self.hour)}.json"

    @classmethod
    def of_slot(cls, key: str) -> AppHour | None:
        """The partition of a slot's key; None if it is no such key."""
        app, _, name = key.removeprefix(SLOTS).partition("/")
        try:
            found = cls(app, parse_hour(name.removesuffix(".json")))
            expected = found.slot_key
        except PathError:
            return None
        return found if expected == key else None

    @classmethod
    def of_key(cls, key: str) -> AppHour | None:
        """The partition of a file's key; None if it is in none."""
        names = ("app_id", "year", "month", "day", "hour")
        segments = key.split("/")
        values = [value_of(name, text) for name, text in zip(names, segments, strict=False)]
        if len(segments) != len(names) + 1 or None in values:
            return None
        app, *numbers = (str(value) for value in values)
        if app in (".", ".."):  # no store can address their slots
            return None
        try:
            found = cls(app, parse_hour("-".join(numbers[:3]) + f"T{numbers[3]}"))
        except PathError:
            return None
        return found if found.prefix == key.removesuffix(segments[-1]) else None

    def __str__(self) -> str:
        return f"{self.app}/{hour_text(self.hour)}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which partitions are meant.

    Attributes:
        apps: only these; empty for all.
        first: the first hour; None for the beginning.
        last: the last hour; None for the end.
    """

    apps: tuple[str, ...] = ()
    first: dt.datetime | None = None
    last: dt.datetime | None = None

    def until(self, last: dt.datetime) -> Scope:
        """The same, but not beyond an hour."""
        return Scope(self.apps, self.first, min(last, self.last) if self.last else last)

    def __contains__(self, item: AppHour) -> bool:
        return (not self.apps or item.app in self.apps) and self.reaches(item.hour, item.hour)

    def reaches(self, low: dt.datetime, high: dt.datetime) -> bool:
        """Whether hours from `low` to `high` may be meant."""
        return not ((self.first and high < self.first) or (self.last and low > self.last))


def hour_text(hour: dt.datetime) -> str:
    """An hour as in slots and texts: 2026-01-15T10."""
    return f"{hour.year:04d}{hour:-%m-%dT%H}"


def parse_hour(text: str) -> dt.datetime:
    """An hour from 2026-01-15T10, 2026-01-15-10:00, 2026011510 and the like: aware, UTC.

    Raises:
        PathError: the text is no hour.
    """
    match = _HOUR.fullmatch(text)
    if match and text.isascii():
        try:
            return dt.datetime(*map(int, match.groups()), tzinfo=dt.UTC)  # type: ignore[arg-type,misc]
        except ValueError:
            pass
    raise PathError(text, "is not an hour (UTC) as 2026-01-15T10")


def is_event_file(name: str) -> bool:
    """Whether an object of a partition holds events: what an engine would read."""
    return name.endswith(".parquet") and not name.startswith(("_", "."))


def is_compacted(name: str) -> bool:
    """Whether a file is the result of an earlier merge."""
    return name.startswith(_COMPACTED)


def output_name(files: Sequence[ObjectInfo]) -> str:
    """Name of the file that these are merged into: the same inputs always make the same name."""
    identity = "\n".join(f"{file.key}\t{file.etag}" for file in files)
    return f"{_COMPACTED}{uuid.uuid5(_NAMESPACE, identity)}.parquet"


async def list_hour(store: Store, partition: AppHour) -> list[ObjectInfo]:
    """The event files of one partition, in byte order of their keys.

    Raises:
        StoreError: the listing failed; it is never taken for an empty one.
    """
    return [info for info in await store.list_objects(partition.prefix) if _partition_of(info) == partition]


async def find_apps(store: Store) -> Found[str]:
    """The apps of the lake, sorted: one listing.

    Raises:
        StoreError: the listing failed.
    """
    return await find_values(store, "app_id", "")


async def find_hours(
    store: Store, scope: Scope, tell_odd: Callable[[str], object]
) -> AsyncIterator[tuple[AppHour, list[ObjectInfo] | UnaddressableKey]]:
    """Every partition of the scope that has event files, with its files in byte order of their keys; in any order.

    Directories are walked by delimiter down to the days, and only those that the scope reaches. A day is listed at
    once: that never takes more requests than listing its hours one by one, and 25 times fewer once they are compacted.
    No more than some days are held at a time.

    Args:
        store: the event lake.
        scope: which partitions.
        tell_odd: told the path of each directory that cannot be addressed: what is below is left out. In the place of
            the files of a partition that holds such a name is the error.

    Raises:
        StoreError: a listing failed; it is never taken for an empty one.
    """
    gate = asyncio.Semaphore(_LISTINGS_AT_ONCE)
    apps = await find_apps(store)
    _tell(apps, tell_odd)
    prefixes = [f"{segment('app_id', app)}/" for app in apps.items if not scope.apps or app in scope.apps]
    for level in ("year", "month", "day"):
        prefixes = await _below(store, prefixes, level, scope, gate, tell_odd)

    async def listing(prefix: str) -> dict[AppHour, list[ObjectInfo] | UnaddressableKey]:
        async with gate:
            try:
                return dict(_by_hour(await store.list_objects(prefix)))
            except UnaddressableKey:  # somewhere in it
                return await _each_hour(store, prefix, tell_odd)

    for first in range(0, len(prefixes), _DAYS_HELD):
        for found in await _all(listing, prefixes[first : first + _DAYS_HELD]):
            for partition, files in found.items():
                if partition in scope:
                    yield partition, files


def _by_hour(objects: Iterable[ObjectInfo]) -> dict[AppHour, list[ObjectInfo]]:
    found: dict[AppHour, list[ObjectInfo]] = {}
    for info in objects:
        partition = _partition_of(info)
        if partition is not None:
            found.setdefault(partition, []).append(info)
    return found


async def _each_hour(
    store: Store, prefix: str, tell_odd: Callable[[str], object]
) -> dict[AppHour, list[ObjectInfo] | UnaddressableKey]:
    """A day's files, hour by hour: the engine refuses the whole day for one odd name in it."""
    hours = await find_values(store, "hour", prefix)
    _tell(hours, tell_odd)
    found: dict[AppHour, list[ObjectInfo] | UnaddressableKey] = {}
    for hour in hours.items:
        below = f"{prefix}{segment('hour', hour)}/"
        try:
            found.update(_by_hour(await store.list_objects(below)))
        except UnaddressableKey as error:
            partition = AppHour.of_key(f"{below}x.parquet")
            if partition is not None:
                found[partition] = error
    return found


def _tell(found: Found[str], tell_odd: Callable[[str], object]) -> None:
    for path in found.odd:
        tell_odd(path)


async def _below(  # what a level needs
    store: Store,
    prefixes: list[str],
    level: str,
    scope: Scope,
    gate: asyncio.Semaphore,
    tell_odd: Callable[[str], object],
) -> list[str]:
    async def one(prefix: str) -> list[str]:
        async with gate:
            found = await find_values(store, level, prefix)
        _tell(found, tell_odd)
        below = [f"{prefix}{segment(level, value)}/" for value in found.items]
        return [path for path in below if (span := _span(path)) and scope.reaches(*span)]

    return [path for paths in await _all(one, prefixes) for path in paths]


async def _all(function: Callable[[str], Awaitable[T]], prefixes: Collection[str]) -> list[T]:
    async def one(prefix: str) -> T:
        return await function(prefix)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(prefix)) for prefix in prefixes]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return [task.result() for task in tasks]


def _span(prefix: str) -> tuple[dt.datetime, dt.datetime] | None:
    """First and last hour that may lie below a directory `app_id=…/year=…[/month=…[/day=…]]/`; None if no hour can."""
    _, *segments = prefix.rstrip("/").split("/")
    values = [value_of(name, text) for name, text in zip(("year", "month", "day"), segments, strict=False)]
    try:
        year, month, day = (int(values[i] or "x") if i < len(values) else None for i in range(3))
        assert year is not None  # every prefix has at least a year
        first = dt.datetime(year, month or 1, day or 1, tzinfo=dt.UTC)
        last_day = dt.date(year, month or 12, day) if day else _last_day(year, month or 12)
        last = dt.datetime.combine(last_day, dt.time(23), dt.UTC)
    except (ValueError, OverflowError):
        return None
    return first, last


def _last_day(year: int, month: int) -> dt.date:
    return dt.date(year, month, calendar.monthrange(year, month)[1])


def _partition_of(info: ObjectInfo) -> AppHour | None:
    return AppHour.of_key(info.key) if is_event_file(info.name) else None


def _day_prefix(app: str, hour: dt.datetime) -> str:
    return f"{segment('app_id', app)}/year={hour.year:04d}/month={hour:%m}/day={hour:%d}/"
