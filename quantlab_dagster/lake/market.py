"""The market-data lakes' map: the grammar of their keys, both ways, and finding what there is.

What there is is found by delimiter: the cost grows with the directories looked at, not with the files below them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import PathError
from quantlab_dagster.lake.discovery import Found, find_values
from quantlab_dagster.lake.paths import segment, value_of
from quantlab_dagster.lake.store.objects import first_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = [
    "DATA",
    "META",
    "QUALITY",
    "QUARANTINE",
    "SOURCES",
    "Pair",
    "SymbolDay",
    "day_text",
    "find_days",
    "find_pairs",
    "find_parts",
    "find_symbols",
    "find_symbols_of",
    "flushed_at",
    "is_part_name",
    "parse_day",
]

DATA = "data.parquet"
META = "meta.json"
SOURCES = "sources.json"
QUALITY = "quality_day.json"
QUARANTINE = "quarantine.json"

_DAY = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")
_PART = re.compile(r"part-(\d{10})-\d+\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """An exchange's stream: what one asset compacts.

    Attributes:
        exchange: as in the path, lower case.
        stream: as in the path.
    """

    exchange: str
    stream: str

    @property
    def prefix(self) -> str:
        """Key prefix of the pair, ending in a slash."""
        return f"{segment('exchange', self.exchange)}/{segment('stream', self.stream)}/"

    def __str__(self) -> str:
        return f"{self.exchange}/{self.stream}"


@dataclass(frozen=True, slots=True, order=True)
class SymbolDay:
    """One symbol's day of one stream: what one compacted file holds.

    Attributes:
        exchange: as in the path.
        stream: as in the path.
        symbol: as in the path.
        day: the UTC day of the directory; rows may lie a little outside it.
    """

    exchange: str
    stream: str
    symbol: str
    day: dt.date

    @property
    def pair(self) -> Pair:
        """The pair it belongs to."""
        return Pair(self.exchange, self.stream)

    @property
    def prefix(self) -> str:
        """Key prefix in the raw and in the compact lake, ending in a slash."""
        return f"{self.pair.prefix}{segment('symbol', self.symbol)}/{segment('date', day_text(self.day))}/"

    def key(self, name: str) -> str:
        """Key of an object in the symbol-day's directory."""
        return f"{self.prefix}{name}"

    @property
    def state_key(self) -> str:
        """Name in the state file: exchange/stream/symbol/YYYYMMDD."""
        return f"{self.exchange}/{self.stream}/{self.symbol}/{day_text(self.day)}"

    def __str__(self) -> str:
        return self.state_key

    @classmethod
    def of_state_key(cls, text: str) -> SymbolDay:
        """The symbol-day of a name in the state file.

        Raises:
            PathError: it is none.
        """
        match text.split("/"):
            case [exchange, stream, symbol, day]:
                return cls(exchange, stream, symbol, parse_day(day))
            case _:
                raise PathError(text, "is not exchange/stream/symbol/YYYYMMDD", "Check the state file")

    @classmethod
    def parse(cls, key: str) -> SymbolDay:
        """The symbol-day of a key: of its directory (ending in a slash or not) or of an object in it.

        Raises:
            PathError: the key does not follow the grammar.
        """
        segments = key.split("/")
        names = ("exchange", "stream", "symbol", "date")
        values = [value_of(name, text) for name, text in zip(names, segments, strict=False)]
        if len(values) < len(names) or len(segments) > len(names) + 1 or None in values:
            raise PathError(key, "is not exchange=…/stream=…/symbol=…/date=YYYYMMDD[/…]", "Check the lake's URL")
        exchange, stream, symbol, day = (str(value) for value in values)
        return cls(exchange, stream, symbol, parse_day(day, compact_only=True))


def day_text(day: dt.date) -> str:
    """A day as in paths and in the state file: YYYYMMDD."""
    return f"{day:%Y%m%d}" if day.year > 999 else f"{day.year:04d}{day:%m%d}"  # noqa: PLR2004


def parse_day(text: str, *, compact_only: bool = False) -> dt.date:
    """A day from YYYYMMDD or, unless `compact_only`, YYYY-MM-DD.

    Raises:
        PathError: the text is neither, or no day of the calendar.
    """
    match = _DAY.fullmatch(text)
    if match and text.isascii() and text.count("-") in ((0,) if compact_only else (0, 2)):
        try:
            return dt.date(*map(int, match.groups()))
        except ValueError:
            pass
    wanted = "YYYYMMDD" if compact_only else "YYYY-MM-DD or YYYYMMDD"
    raise PathError(text, f"is not a day as {wanted}")


def is_part_name(name: str) -> bool:
    """Whether an object in a raw directory is a part: ends in `.parquet`, and is no hidden or temporary file."""
    return name.endswith(".parquet") and not name.startswith("._")


def flushed_at(name: str) -> int | None:
    """When a part was flushed, in unix seconds, as its name says; None if it says nothing of the kind."""
    match = _PART.fullmatch(name)
    return int(match[1]) if match else None


async def find_symbols(store: Store, pair: Pair) -> list[str]:
    """Symbols that a pair has or ever had, sorted: one listing. Whether they have a given day, `find_parts` tells.

    What no request can name is left out: `find_symbols_of` tells.

    Raises:
        StoreError: the listing failed; it is never taken for an empty one.
    """
    return list((await _symbols(store, pair)).items)


async def find_symbols_of(
    store: Store, pairs: Iterable[Pair], *, at_once: int
) -> tuple[dict[Pair, tuple[str, ...]], tuple[str, ...]]:
    """The symbols of many pairs, listed side by side; and the directories in their place that cannot be addressed.

    Raises:
        StoreError: a listing failed.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(pair: Pair) -> Found[str]:
        async with gate:
            return await _symbols(store, pair)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {pair: group.create_task(one(pair)) for pair in pairs}
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    found = {pair: task.result() for pair, task in tasks.items()}
    odd = sorted(path for one in found.values() for path in one.odd)
    return {pair: one.items for pair, one in found.items()}, tuple(odd)


async def find_days(store: Store, pair: Pair, symbol: str) -> list[dt.date]:
    """The days of a symbol that a lake has a directory for, sorted: one listing. What is no day is left out.

    Raises:
        StoreError: the listing failed.
    """
    found = await find_values(store, "date", f"{pair.prefix}{segment('symbol', symbol)}/")
    days = []
    for text in found.items:
        try:
            days.append(parse_day(text, compact_only=True))
        except PathError:
            continue
    return sorted(days)


async def _symbols(store: Store, pair: Pair) -> Found[str]:
    return await find_values(store, "symbol", pair.prefix)


async def find_parts(store: Store, symbol_day: SymbolDay) -> list[ObjectInfo]:
    """The parts of one symbol-day, in byte order of their keys; only its own directory is listed.

    Raises:
        StoreError: the listing failed; it is never taken for an empty one.
    """
    prefix = symbol_day.prefix
    objects = await store.list_objects(prefix)
    return [
        info
        for info in objects
        if is_part_name(name := info.name) and info.key == f"{prefix}{name}"  # nothing from deeper directories
    ]


async def find_pairs(store: Store) -> Found[Pair]:
    """All (exchange, stream) pairs of a lake, sorted: one listing, and one per exchange.

    Raises:
        StoreError: a listing failed; it is never taken for an empty one.
    """
    exchanges = await find_values(store, "exchange", "")
    streams = {
        exchange: await find_values(store, "stream", f"{segment('exchange', exchange)}/")
        for exchange in exchanges.items
    }
    pairs = [Pair(exchange, stream) for exchange, found in streams.items() for stream in found.items]
    return Found(tuple(sorted(pairs)), exchanges.odd + tuple(path for found in streams.values() for path in found.odd))
