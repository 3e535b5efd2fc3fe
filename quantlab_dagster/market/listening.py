"""Looking for the newest part of each live symbol: one LIST for one that is flushed, whatever the size of its day.

The names of parts say when they were flushed, and are in that order: a listing that begins where the limit of the
symbol's age lies has few names or none. Only what is silent costs more, to say since when.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.errors import QuantlabError, StoreError
from quantlab_dagster.lake.market import SymbolDay, flushed_at, is_part_name
from quantlab_dagster.lake.store.objects import Range
from quantlab_dagster.market.live import LiveJudgement, LiveLook, LiveSymbol, live_symbols
from quantlab_dagster.market.silence import USUAL_DAYS, has_data
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.place import MarketPlace

__all__ = ["LIVE_SECONDS", "listen", "look_live"]

LIVE_SECONDS = 30.0
"""How long the sensor's look may take: Dagster ends a tick after 60 s, and the state is to be read, too."""

AT_ONCE = 64

_GRACE = dt.timedelta(minutes=15)
"""So long after midnight parts may still be flushed into the day before."""

_WRONG_CLOCK = dt.timedelta(hours=1)
"""A part that is flushed so far in the future says nothing of now."""

_WIDER = 8


async def listen(
    place: MarketPlace,
    pairs: Sequence[Pair],
    *,
    usual_days: int = USUAL_DAYS,
    limits: Mapping[str, int] | None = None,
    seconds: float = LIVE_SECONDS,
) -> LiveJudgement:
    """Look at all symbols of the configured pairs that had data in the last days, and judge. Nothing is written.

    Args:
        place: the lakes.
        pairs: configured pairs.
        usual_days: with data on so many of seven days a symbol is missed when it has none.
        limits: minutes by stream, in the place of the table's.
        seconds: after so many the rest is not looked at, and is said to be unknown.

    Raises:
        MalformedObject: the state cannot be understood.
        StoreError: it cannot be read. A listing that fails makes its symbol unknown.
    """
    state = await StateStore(place.compact).view()
    now = place.clock()
    today = now.astimezone(dt.UTC).date()
    symbols = live_symbols(state, pairs, today, least=usual_days, limits=limits) if state is not None else []
    known = state is not None and any(has_data(record) for record in state.partitions.values())
    return LiveJudgement(now, tuple(pairs), tuple(await look_live(place, symbols, now, seconds=seconds)), known)


async def look_live(
    place: MarketPlace, symbols: Sequence[LiveSymbol], now: dt.datetime, *, seconds: float
) -> list[LiveLook]:
    """Look at live symbols side by side, within a time; in the order of the symbols. Never raises a store's error."""
    looks: dict[int, LiveLook] = {}
    next_ones = iter(enumerate(symbols))

    async def work() -> None:
        for number, symbol in next_ones:  # shared by all workers
            try:
                looks[number] = await _look_at(place, symbol, now)
            except StoreError as error:
                looks[number] = LiveLook(symbol, problem=_first_line(error))

    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, place.limits.request_concurrency)):
                group.create_task(work())
    except TimeoutError:
        pass  # what is missing is said below
    late = f"not looked at within {seconds:g} s"
    return [looks.get(number) or LiveLook(symbol, problem=late) for number, symbol in enumerate(symbols)]


def _first_line(error: QuantlabError) -> str:
    return str(error).partition("\n")[0]


async def _look_at(place: MarketPlace, symbol: LiveSymbol, now: dt.datetime) -> LiveLook:
    for day, after in _windows(now, symbol.limit):
        flushed, odd = await _newest(place, symbol, day, after, now)
        if flushed is not None:
            return LiveLook(symbol, flushed)
        if odd:  # only where the whole day was listed
            problem = "the names of its parts do not say when they were flushed, or say a time to come"
            return LiveLook(symbol, problem=problem)
    return LiveLook(symbol)


def _windows(now: dt.datetime, limit: dt.timedelta) -> Iterator[tuple[dt.date, dt.datetime | None]]:
    """Where to look, one listing each, until a part is found: days, and from when on; None for all of a day.

    First for what is young enough, in all days that may have it, then, of today and yesterday, for what is older.
    """
    today = now.astimezone(dt.UTC).date()
    since = now - limit
    day = today
    while dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC) + _GRACE > since:
        yield day, since
        day -= dt.timedelta(days=1)
    yield today, now - limit * _WIDER
    yield today, None
    yield today - dt.timedelta(days=1), None


async def _newest(
    place: MarketPlace, symbol: LiveSymbol, day: dt.date, after: dt.datetime | None, now: dt.datetime
) -> tuple[dt.datetime | None, bool]:
    """When the newest part of a day was flushed, of those after a moment; and whether there are only others.

    Raises:
        StoreError: the listing failed.
    """
    of = SymbolDay(symbol.pair.exchange, symbol.pair.stream, symbol.symbol, day)
    prefix = of.prefix
    begin = "" if after is None else f"{prefix}part-{int(after.timestamp()):010d}"
    latest = int((now + _WRONG_CLOCK).timestamp())
    newest, others = 0, False
    async for page in place.raw.pages(prefix, Range(after=begin)):
        for info in page:
            if not is_part_name(info.name) or info.key != f"{prefix}{info.name}":
                continue
            seconds = flushed_at(info.name)
            if seconds is not None and seconds <= latest:
                newest = max(newest, seconds)
            else:
                others = True
    if newest:
        return dt.datetime.fromtimestamp(newest, dt.UTC), False
    return None, others and after is None
