"""The event lake's map: the grammar of its keys, both ways, and finding its partitions in streamed listings."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from quantlab_dagster.errors import AccessDenied, PathError, StoreError, TableFormat, UnaddressableKey
from quantlab_dagster.lake.discovery import Found
from quantlab_dagster.lake.store.objects import Range, first_error
from quantlab_dagster.lake.tables import HUDI_MARKER, table_above, table_at, table_of_key
from quantlab_dagster.lake.template import ONE_DAY, ONE_HOUR, SLOTS, Layout, hour_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = [
    "DEFAULT_LAYOUT",
    "MOST_PEEKS",
    "ONE_HOUR",
    "SLOTS",
    "AppHour",
    "Scope",
    "Told",
    "Turn",
    "Walked",
    "find_apps",
    "find_hours",
    "find_tables",
    "hour_text",
    "is_compacted",
    "list_hour",
    "output_name",
    "parse_hour",
    "walk_app",
]

T = TypeVar("T")

DEFAULT_LAYOUT = Layout()

_COMPACTED = "compacted_"
_HOUR = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})[T -]?(\d{2})(?::?00)?Z?")
_NAMESPACE = uuid.UUID("0c5ab3a4-54f5-5d1b-9d8c-3f5f0c2f3a51")
_LISTINGS_AT_ONCE = 32
_FOLDER = "_$folder$"
"""With what the name of Hadoop's mark of a directory ends."""
_LIKE_DATA = re.compile(r"^[^.]+$|\.(parquet|parq|pq)(\.(gz|snappy|zst|zstd|lz4|br))?$", re.IGNORECASE)
"""Names that may be those of events: Parquet's, and those of no kind at all, as part-00000."""
# U+FFFD is what servers send in the place of a control character, which XML cannot hold: it finds nothing again.
_LOST = "\ufffd"
MOST_PEEKS = 1000
"""Directories beside the apps that a look at everything looks into. Others look into a few, in turn."""
_PEEKS_IN_TURN = 5


@dataclass(frozen=True, slots=True, order=True)
class AppHour:
    """One app's hour (or day, or the hour of no app): the partition whose files are merged.

    Attributes:
        app: as in the path; empty where paths have none.
        hour: its beginning, aware, UTC.
        directory: as it was found, where it is not spelled as the layout spells it; else empty.
        layout: of the lake.
    """

    app: str
    hour: dt.datetime
    directory: str = ""
    layout: Layout = field(default=DEFAULT_LAYOUT, compare=False, repr=False)

    @property
    def prefix(self) -> str:
        """Key prefix of the partition, ending in a slash."""
        return self.directory or self.layout.directory(self.app, self.hour)

    @property
    def last_hour(self) -> dt.datetime:
        """The last hour of which it holds events."""
        return self.hour if self.layout.by_hour else self.hour + ONE_DAY - ONE_HOUR

    def key(self, name: str) -> str:
        """Key of a file of the partition."""
        return f"{self.prefix}{name}"

    @property
    def slot_key(self) -> str:
        """Key of the partition's slot."""
        return self.layout.slot_of(self.prefix)

    @classmethod
    def of_slot(cls, key: str, layout: Layout = DEFAULT_LAYOUT) -> AppHour | None:
        """The partition of a slot's key; None if it is no such key."""
        directory = layout.directory_of_slot(key)
        return cls.of_directory(directory, layout) if directory else None

    @classmethod
    def of_key(cls, key: str, layout: Layout = DEFAULT_LAYOUT) -> AppHour | None:
        """The partition of a file's key; None if it is in none."""
        directory, slash, name = key.rpartition("/")
        return cls.of_directory(directory + slash, layout) if name else None

    @classmethod
    def of_directory(cls, directory: str, layout: Layout = DEFAULT_LAYOUT) -> AppHour | None:
        """The partition of a directory, which ends in a slash; None if it is that of none."""
        read = layout.read(directory)
        if read is None:
            return None
        app, hour = read
        return cls(app, hour, "" if directory == layout.directory(app, hour) else directory, layout)

    @property
    def told(self) -> str:
        """As people are told of it: two directories may be one hour, if one of them is spelled otherwise."""
        return f"{self} ({self.directory.rstrip('/')})" if self.directory else str(self)

    def __str__(self) -> str:
        text = hour_text(self.hour) if self.layout.by_hour else f"{self.hour.year:04d}{self.hour:-%m-%d}"
        return f"{self.app}/{text}" if self.app else text


@dataclass(frozen=True, slots=True)
class Scope:
    """Which partitions are meant.

    Attributes:
        apps: only these; empty for all.
        first: the first hour; None for the beginning.
        last: the last hour; None for the end.
        over_by: only what was over by the end of this hour; None for all.
    """

    apps: tuple[str, ...] = ()
    first: dt.datetime | None = None
    last: dt.datetime | None = None
    over_by: dt.datetime | None = None

    def until(self, last: dt.datetime) -> Scope:
        """The same, but without what goes on after an hour."""
        return replace(self, over_by=min(last, self.over_by) if self.over_by else last)

    def __contains__(self, item: AppHour) -> bool:
        if self.apps and item.app not in self.apps:
            return False
        return self.reaches(item.hour, item.last_hour) and not (self.over_by and item.last_hour > self.over_by)

    def reaches(self, low: dt.datetime, high: dt.datetime) -> bool:
        """Whether hours from `low` to `high` may be meant."""
        return not ((self.first and high < self.first) or (self.last and low > self.last))


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


def is_compacted(name: str) -> bool:
    """Whether a file is the result of an earlier merge."""
    return name.startswith(_COMPACTED)


def output_name(files: Collection[ObjectInfo]) -> str:
    """Name of the file that these are merged into: the same inputs always make the same name."""
    identity = "\n".join(f"{file.key}\t{file.etag}" for file in files)
    return f"{_COMPACTED}{uuid.uuid5(_NAMESPACE, identity)}.parquet"


# ---- finding ---------------------------------------------------------------------------------------------------------


class Told:
    """What is told of a lake beside its partitions. All of it is for people, and none of it is worked on."""

    def __init__(self) -> None:
        self.odd: set[str] = set()
        self.unexplained: dict[str, str] = {}
        self.tables: dict[str, str] = {}
        self.denied: dict[str, str] = {}
        self.unmatched: dict[str, str] = {}
        self.of_another_layout: set[str] = set()
        """Keys of slots, that may not be idle, which another layout has for partitions of this one."""
        self.empty = False
        """Whether there is nothing at all, but for slots."""
        self.beside = 0
        """Number of directories beside the apps."""
        self.peeked = ""
        """The last of them that was looked into, where that are not all of them."""

    def add(self, other: Told) -> None:
        """What another look was told of."""
        self.odd |= other.odd
        self.unexplained = other.unexplained | self.unexplained
        self.unmatched = other.unmatched | self.unmatched
        self.tables |= other.tables
        self.empty = self.empty or other.empty
        self.denied |= other.denied

    def tell_odd(self, path: str) -> None:
        """A path that no request can name: what is below is left out."""
        self.odd.add(path)

    def tell_unexplained(self, key: str) -> None:
        """An event file in a place that the layout does not explain. One of each first directory is kept."""
        self.unexplained.setdefault(key.partition("/")[0] if "/" in key else "", key)

    def tell_unmatched(self, key: str) -> None:
        """A file of a partition that has no event files, or outputs only. One of each first directory is kept."""
        self.unmatched.setdefault(key.partition("/")[0], key)

    def tell_again(self, key: str, layout: Layout) -> None:
        """A key that an earlier look had told as unexplained or unmatched, unless the settings say otherwise now."""
        if AppHour.of_key(key, layout) is None:
            self.tell_unexplained(key)
        elif not layout.is_event_file(key.rpartition("/")[2]):
            self.tell_unmatched(key)

    def tell_denied(self, prefix: str, why: str) -> None:
        """A prefix that may not be listed: what is below is left out."""
        self.denied.setdefault(prefix, why)

    def tell_table(self, prefix: str, kind: str) -> None:
        """A prefix that belongs to a table format."""
        self.tables.setdefault(prefix, kind)


@dataclass(frozen=True, slots=True)
class Turn:
    """Which of many directories beside the apps are looked into: the next few, round and round.

    Attributes:
        after: the last one whose turn it was.
        again: those in which events were found: some of them are looked into whosever turn it is.
    """

    after: str = ""
    again: frozenset[str] = frozenset()


async def list_hour(store: Store, partition: AppHour) -> list[ObjectInfo]:
    """The event files of one partition, in byte order of their keys.

    Raises:
        StoreError: the listing failed; it is never taken for an empty one.
    """
    prefix, layout = partition.prefix, partition.layout
    return [
        info
        for info in await store.list_objects(prefix)
        if info.key == f"{prefix}{info.name}" and _is_event_file(info, layout)
    ]


async def find_apps(
    store: Store, layout: Layout = DEFAULT_LAYOUT, told: Told | None = None, turn: Turn | None = None
) -> Found[str]:
    """The apps of the lake, sorted; one without a name where paths have none. One listing, mostly.

    Args:
        store: the event lake.
        layout: of its paths.
        told: told what is beside them: that takes a request for each directory that the layout does not explain.
        turn: look into a few of these only, where there are many.

    Raises:
        TableFormat: the lake is a table of a format that keeps account of its files, or lies within one.
        StoreError: the listing failed.
    """
    names = await store.list_names("")
    table = await table_at(store, "", names)
    if table is not None:
        raise _is_table(store.name(f"{table[0]}/"), table[1])
    above = await table_above(store)
    if above is not None:
        raise _is_table(*above)
    level = layout.app_level
    apps = [name for name in names.directories if layout.may_lead_to_events(f"{name}/") and _LOST not in name]
    odd = [*names.odd, *(repr(name) for name in names.directories if _is_odd(name, layout))]
    if told is not None:
        told.empty = not names.odd and not names.files and {*names.directories} <= {SLOTS.partition("/")[0]}
        others = [name for name in names.directories if name not in apps and not name.startswith(("_", "."))]
        others = [name for name in others if not _is_odd(name, layout)]
        await _tell_others(store, layout, _chosen(others, turn, told), names.files, told)
    if not layout.has_apps:
        return Found(("",), tuple(sorted(odd)))
    return Found(tuple(name.removeprefix(level) for name in apps if name != f"{level}."), tuple(sorted(odd)))


async def find_tables(store: Store, apps: Collection[str], told: Told, layout: Layout = DEFAULT_LAYOUT) -> set[str]:
    """Prefixes of those of these apps that must be left alone, since they are tables, or since that cannot be known.

    What was looked at of an app does not say so: its hours may be listed without its table's log. It takes a listing
    each. A lake without apps is none, or `find_apps` refuses it.

    Args:
        store: the event lake.
        apps: those about to be worked on.
        told: told why they are left alone.
        layout: of the paths.

    Raises:
        StoreError: a listing failed.
    """
    closed: set[str] = set()
    gate = asyncio.Semaphore(_LISTINGS_AT_ONCE)

    async def one(app: str) -> None:
        prefix = layout.prefix_of(app)
        async with gate:
            try:
                table = await table_at(store, prefix, await store.list_names(prefix))
            except AccessDenied as error:
                told.tell_denied(prefix, str(error))
            except UnaddressableKey:
                told.tell_odd(f"{prefix}metadata/ (something in it)")
            else:
                if table is None:
                    return
                told.tell_table(prefix, table[1])
            closed.add(prefix)

    await _all(one, apps if layout.has_apps else ())
    return closed


def _is_odd(name: str, layout: Layout) -> bool:
    """Whether a directory begins as one of the layout does, and can be worked with by nobody."""
    literal = layout.template.partition("{")[0]
    return name.startswith(literal) and (_LOST in name or (bool(literal) and name == literal))


def _is_table(where: str, kind: str) -> TableFormat:
    return TableFormat(
        where,
        f"this belongs to a table of {kind}, which keeps account of its files: merged in place it would be ruined",
        "Use that format's own compaction; an event lake consists of plain files only",
    )


async def _tell_others(
    store: Store, layout: Layout, directories: list[str], files: tuple[str, ...], told: Told
) -> None:
    for name in files:
        if layout.is_event_file(name) and not name.endswith(_FOLDER):
            told.tell_unexplained(name)
    gate = asyncio.Semaphore(_LISTINGS_AT_ONCE)

    async def one(name: str) -> None:
        async with gate:
            try:
                below = await store.peek(f"{name}/")
            except UnaddressableKey:
                told.tell_odd(f"{name}/ (something in it)")
                return
            except AccessDenied as error:
                told.tell_denied(f"{name}/", str(error))
                return
        for info in below:
            if _holds_events(info, layout):
                told.tell_unexplained(info.key)

    await _all(one, directories)


def _chosen(others: list[str], turn: Turn | None, told: Told) -> list[str]:
    """Which of the directories beside the apps are looked into."""
    told.beside = len(others)
    if turn is None or len(others) <= _PEEKS_IN_TURN:
        return others[:MOST_PEEKS]
    later = [name for name in others if name.encode() > turn.after.encode()]
    chosen = [*later, *others][:_PEEKS_IN_TURN]
    told.peeked = chosen[-1]
    again = [name for name in others if name in turn.again and name not in chosen]
    return chosen + again[:_PEEKS_IN_TURN]


def _is_event_file(info: ObjectInfo, layout: Layout) -> bool:
    """Whether an object holds events by its name, and is no mark of a directory, which has no bytes."""
    marks = not info.size_bytes and (
        info.name.endswith(_FOLDER) or ("/" in info.key and layout.may_lead_to_events(f"{info.key}/"))
    )
    return layout.is_event_file(info.name) and not marks


def _holds_events(info: ObjectInfo, layout: Layout) -> bool:
    """Whether an engine would read this object, whatever the layout says of where it lies."""
    directories = info.key.split("/")[:-1]
    return _is_event_file(info, layout) and not any(text.startswith(("_", ".")) for text in directories)


async def find_hours(
    store: Store,
    scope: Scope,
    take: Callable[[AppHour, list[ObjectInfo] | UnaddressableKey], object],
    told: Told,
    layout: Layout = DEFAULT_LAYOUT,
    turn: Turn | None = None,
) -> None:
    """Every partition of the scope that has event files, with its files in byte order of their keys.

    One listing of each app, from the first key that the scope may have to the last, page by page: that takes a request
    for a thousand files, and no more than a partition's are held at once.

    Args:
        store: the event lake.
        scope: which partitions.
        take: given each partition and its files; or why they cannot be listed, since one holds an impossible name.
        told: what is odd, unexplained, or belongs to others.
        layout: of its paths.
        turn: as in `find_apps`.

    Raises:
        TableFormat: the lake is a table of a format that keeps account of its files.
        StoreError: a listing failed; it is never taken for an empty one. Where only some apps may not be listed, these
            are told, and the others go on.
    """
    apps = await find_apps(store, layout, told, turn)
    for path in apps.odd:
        told.tell_odd(path)
    gate = asyncio.Semaphore(_LISTINGS_AT_ONCE)
    denied: list[AccessDenied] = []

    async def one(app: str) -> None:
        async with gate:
            walk = _Walk(store, layout, scope, take, told)
            try:
                await walk.below(layout.prefix_of(app), layout.keys(app, scope.first, scope.last))
            except AccessDenied as error:
                told.tell_denied(layout.prefix_of(app), str(error))
                denied.append(error)

    meant = [app for app in apps.items if not scope.apps or app in scope.apps]
    await _all(one, meant)
    if denied and len(denied) == len(meant):  # that is no part of the lake, but all of it
        raise denied[0]


@dataclass(frozen=True, slots=True)
class Walked:
    """How far a part of an app's history was looked at.

    Attributes:
        pages: requests that it took.
        seen: the last key of what was looked at as a whole.
        ended: whether that was the rest of it.
    """

    pages: int
    seen: str
    ended: bool


async def walk_app(
    store: Store,
    app: str,
    scope: Scope,
    take: Callable[[AppHour, list[ObjectInfo] | UnaddressableKey], object],
    told: Told,
    layout: Layout,
    after: str,
    most_pages: int,
) -> Walked:
    """Look at the next partitions of an app's history, in the order of their keys; as `find_hours`.

    Args:
        store: the event lake.
        app: whose.
        scope: which partitions.
        take: given each partition and its files.
        told: what is odd, unexplained, or belongs to others.
        layout: of the paths.
        after: the last key that was seen before; empty for the beginning.
        most_pages: requests to spend, or a few more: one partition is looked at at least.
    """
    walk = _Walk(store, layout, scope, take, told)
    walk.most_pages = most_pages
    keys = layout.keys(app, None, None)
    await walk.below(layout.prefix_of(app), Range(after or keys.after, keys.until))
    return Walked(walk.pages, walk.seen, walk.ended)


class _Walk:
    """Through the keys of an app, partition by partition. Arguments are those of `find_hours`."""

    def __init__(
        self,
        store: Store,
        layout: Layout,
        scope: Scope,
        take: Callable[[AppHour, list[ObjectInfo] | UnaddressableKey], object],
        told: Told,
    ) -> None:
        self.seen = ""
        """The last key of what was looked at as a whole."""
        self.pages = 0
        self.most_pages: int | None = None
        """Stop after so many pages, once something was looked at as a whole."""
        self.ended = True
        self._store = store
        self._layout = layout
        self._scope = scope
        self._take = take
        self._told = told
        self._directory = ""
        self._explained = True
        self._partition: AppHour | None = None
        self._files: list[ObjectInfo] = []
        self._unmatched = self._like_data = ""
        self._last = ""
        self._latest = ""

    async def below(self, prefix: str, keys: Range) -> None:
        """Whatever lies below a prefix: at once, or one level after the other where an odd name prevents that."""
        try:
            async for page in self._store.pages(prefix, keys):
                for info in page:
                    self._add(info)
                self.pages += 1
                if self.most_pages is not None and self.pages >= self.most_pages and self.seen:
                    self.ended = False
                    return
            self._finish()
        except UnaddressableKey as error:
            self._files, self._directory, self._latest = [], "", ""  # these are listed again
            self._unmatched = self._like_data = ""
            await self._level(prefix, replace(keys, after=max(keys.after, self.seen, key=str.encode)), error)

    async def _level(self, prefix: str, keys: Range, error: UnaddressableKey) -> None:
        leaf = AppHour.of_directory(prefix, self._layout)
        if leaf is not None:
            if leaf in self._scope:
                self._take(leaf, error)
            return
        names = await self._store.list_names(prefix)
        for odd in (*names.odd, *(repr(name) for name in names.directories if _LOST in name)):
            self._told.tell_odd(f"{prefix}{odd}")
        for name in names.directories:
            path = f"{prefix}{name}/"
            if _LOST not in name and self._layout.may_lead_to_events(path) and _reaches(path, keys):
                await self.below(path, keys)

    def _add(self, info: ObjectInfo) -> None:
        directory = info.key.removesuffix(info.name)
        deeper = self._explained and directory != self._directory and directory.startswith(self._directory or "/")
        if directory != self._directory and not deeper:  # what is deeper may stand between the files of a partition
            self._finish()
            self._directory = directory
            found = AppHour.of_directory(directory, self._layout)
            self._explained = found is not None
            self._partition = found if found is not None and found in self._scope else None
            if found is not None:
                self._check_order(directory)
        self._last = info.key
        if info.name == HUDI_MARKER and self._explained and not deeper and self._partition is not None:
            self._told.tell_table(self._layout.prefix_of(self._partition.app), "Hudi")
        if deeper or not self._explained:
            _tell(info, self._layout, self._told)
        elif self._partition is not None and _is_event_file(info, self._layout):
            self._files.append(info)
        elif self._partition is not None and not info.name.startswith(("_", ".")) and not info.name.endswith(_FOLDER):
            self._unmatched = self._unmatched or info.key
            if _LIKE_DATA.search(info.name):
                self._like_data = self._like_data or info.key

    def _check_order(self, directory: str) -> None:
        """See that no partition comes in pieces: half of one must never be taken for all of it."""
        if directory.encode() <= self._latest.encode():
            remedy = "Use a server that lists in byte order, as S3 does (its directory buckets do not)"
            raise StoreError(self._store.name(directory), "was listed after what comes behind it", remedy)
        self._latest = directory

    def _finish(self) -> None:
        if self._partition is not None and self._files:
            self._take(self._partition, sorted(self._files, key=lambda info: info.key.encode()))
        # Beside outputs alone may lie files of a pattern that was another one, or what a writer left of its own.
        if all(is_compacted(info.name) for info in self._files):
            unmatched = self._like_data if self._files else self._unmatched
            if unmatched:
                self._told.tell_unmatched(unmatched)
        self.seen, self._unmatched, self._like_data = self._last, "", ""
        self._files, self._directory, self._partition = [], "", None


def _tell(info: ObjectInfo, layout: Layout, told: Told) -> None:
    """Tell of an object that lies in no partition."""
    key, parts = info.key, info.key.split("/")
    table = table_of_key(key)
    if table is not None:
        told.tell_table(*table)
    elif _LOST in key:
        at = next(at for at, part in enumerate(parts) if _LOST in part)
        told.tell_odd("/".join([*parts[:at], repr(parts[at])]))
    elif _holds_events(info, layout):
        told.tell_unexplained(key)


def _reaches(path: str, keys: Range) -> bool:
    """Whether something below a path may be in a range."""
    return f"{path}\U0010ffff".encode() > keys.after.encode() and not keys.ends_before(path)


async def _all(function: Callable[[str], Awaitable[T]], items: Collection[str]) -> list[T]:
    async def one(item: str) -> T:
        return await function(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return [task.result() for task in tasks]
