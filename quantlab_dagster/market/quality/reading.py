"""What days are worth, asked of the lakes: one listing of a day's windows, and a GET for each that is new.

Everybody asks here, and so hears the same: what was read is kept in the compact lake (`records.SeenWindows`), and the
verdict is a pure function of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from quantlab_dagster.errors import Conflict, MalformedObject, ObjectNotFound, UnaddressableKey
from quantlab_dagster.lake.market import day_text
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.quality.records import DayQuality, SeenWindow, SeenWindows, seen_key
from quantlab_dagster.market.quality.windows import read_window, window_name, windows_prefix

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.market.quality.rules import Rules

__all__ = ["Qualities"]

_ATTEMPTS = 4


class Qualities:
    """What days are worth, each looked up once: for one step, one look around, one command.

    Args:
        raw: where the collectors put windows.
        compact: where it is kept what was read.
        rules: by which days are judged.
        again_from: the first day that is looked at again: a PARTIAL one before it waits no more.
        at_once: requests in flight.
        keep: whether what is read is kept for others; not by what only looks.
    """

    def __init__(
        self, raw: Store, compact: Store, rules: Rules, again_from: dt.date, *, at_once: int = 64, keep: bool = True
    ) -> None:
        self._raw = raw
        self._compact = compact
        self._rules = rules
        self._again_from = again_from
        self._at_once = at_once
        self._keep = keep
        self._found: dict[dt.date, asyncio.Task[DayQuality]] = {}

    async def of(self, day: dt.date) -> DayQuality:
        """What a day is worth.

        Raises:
            MalformedObject: what was kept of it cannot be understood. (A window that cannot is part of the verdict.)
            StoreError: its windows cannot be listed or read. Nobody then knows what the day is worth.
        """
        if day not in self._found:
            self._found[day] = asyncio.ensure_future(self._look(day))
        return await asyncio.shield(self._found[day])

    async def look_up(self, days: Iterable[dt.date]) -> None:
        """Look days up side by side. One of which what was kept cannot be understood says so when it is asked for.

        Raises:
            StoreError: windows cannot be listed or read.
        """
        ended = await asyncio.gather(*(self.of(day) for day in sorted(days)), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, MalformedObject | UnaddressableKey):
                raise error

    @property
    def seen(self) -> dict[dt.date, DayQuality]:
        """Those that were looked up, and could be."""
        return {
            day: task.result()
            for day, task in sorted(self._found.items())
            if task.done() and not task.cancelled() and task.exception() is None
        }

    async def _look(self, day: dt.date) -> DayQuality:
        listed = await self._listed(day)
        for attempt in range(1, _ATTEMPTS + 1):
            kept, etag = await self._kept(day)
            # What vanished still counts, unless nobody understood it: to remove it is how that is mended.
            seen = kept.windows.items() if kept is not None else ()
            before = {name: window for name, window in seen if name in listed or window.problem is None}
            new = [info for name, info in listed.items() if name not in before or before[name].etag != info.etag]
            windows = before | await self._read(new)
            quality = DayQuality.judged(windows, self._rules, looked_at_again=day >= self._again_from)
            record = SeenWindows(
                date=day_text(day),
                day_quality=quality.label.value,
                post_filter_version=quality.version,
                windows=dict(sorted(windows.items())),
            )
            unchanged = kept.dump() == record.dump() if kept is not None else not windows
            if unchanged or not self._keep:
                return quality
            try:
                await self._compact.compare_and_swap(seen_key(day), record.dump(), etag)
            except Conflict:
                if attempt == _ATTEMPTS:
                    raise
                continue
            return quality
        raise AssertionError("unreachable")  # pragma: no cover

    async def _listed(self, day: dt.date) -> dict[str, ObjectInfo]:
        prefix = windows_prefix(day)
        found = await self._raw.list_objects(prefix)
        named = ((window_name(info.name), info) for info in found if info.key == f"{prefix}{info.name}")
        return {name: info for name, info in named if name is not None}

    async def _kept(self, day: dt.date) -> tuple[SeenWindows | None, str | None]:
        store, key = self._compact, seen_key(day)
        found = await store.get_if_exists(key)
        return (SeenWindows.read(found[0], store.name(key)), found[1].etag) if found else (None, None)

    async def _read(self, listed: list[ObjectInfo]) -> dict[str, SeenWindow]:
        windows: dict[str, SeenWindow] = {}
        gate = asyncio.Semaphore(self._at_once)

        async def one(info: ObjectInfo) -> None:
            name = window_name(info.name)
            assert name is not None  # only such are listed
            async with gate:
                try:
                    content, read = await self._raw.get(info.key)
                except ObjectNotFound:
                    return  # it was there a moment ago, and counted for nobody yet
            windows[name] = SeenWindow.of(read.etag, read_window(name, content))

        try:
            async with asyncio.TaskGroup() as group:
                for info in listed:
                    group.create_task(one(info))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        return windows
