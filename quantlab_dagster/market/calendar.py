"""The calendar beside the days: `calendar/date=YYYYMMDD/index.parquet`, and `calendar/month=YYYYMM.html` for people.

Made of what the lake and the state say, and never of anything else: it can be made again at any time, and the same
content gives the same bytes. Nothing reads it to decide anything.
"""

from __future__ import annotations

import asyncio
import calendar as months
import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from quantlab_dagster.errors import Conflict, PathError, QuantlabError
from quantlab_dagster.lake.market import (
    META,
    QUARANTINE,
    SymbolDay,
    day_text,
    find_pairs,
    find_symbols_of,
    parse_day,
)
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.calendar_page import Cell, month_page
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.plan import ITS_OWN_FAULT
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.market.worth import BAD, Day, Flaw, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.state import State

__all__ = ["PREFIX", "IndexRow", "Written", "days_of_month", "index_key", "page_key", "parse_month", "write_calendar"]

PREFIX = "calendar/"

_MONTH = re.compile(r"(\d{4})-?(\d{2})")
_UNITS = {1: "s", 10**3: "ms", 10**6: "us", 10**9: "ns"}


@dataclass(frozen=True, slots=True)
class IndexRow:
    """A symbol-day in the index; see docs/reading.md for the columns.

    Attributes:
        day: what the lake holds of it.
        status: as in `_state.json`: success, quarantine, skipped, no_files or failed.
        why: why it is not published, or should not be read; empty if nothing is wrong.
    """

    day: Day
    status: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written of the calendar.

    Attributes:
        days: symbol-days in the index, by day.
        pages: keys of the months' pages.
        changed: keys of what had other content before; what had the same was left alone.
    """

    days: dict[dt.date, int]
    pages: tuple[str, ...]
    changed: tuple[str, ...]


def index_key(day: dt.date) -> str:
    """Key of a day's index."""
    return f"{PREFIX}date={day_text(day)}/index.parquet"


def page_key(month: str) -> str:
    """Key of the page of a month, YYYYMM."""
    return f"{PREFIX}month={month}.html"


def parse_month(text: str) -> str:
    """A month as YYYYMM, from that or YYYY-MM.

    Raises:
        PathError: it is none.
    """
    match = _MONTH.fullmatch(text)
    if match is None or not text.isascii():
        raise PathError(text, "is not a month as YYYY-MM or YYYYMM")
    parse_day(f"{match[1]}{match[2]}01")
    return f"{match[1]}{match[2]}"


def days_of_month(month: str) -> list[dt.date]:
    """The days of a month, YYYYMM."""
    first = parse_day(f"{month}01")
    return [first.replace(day=number) for number in range(1, months.monthrange(first.year, first.month)[1] + 1)]


async def write_calendar(place: MarketPlace, days: Sequence[dt.date]) -> Written:
    """Write the index of each of these days, and then the pages of their months.

    Raises:
        MalformedObject: the state cannot be understood.
        StoreError: the lake cannot be read or written.
    """
    state = await StateStore(place.compact).view()
    counts, changed = {}, []
    for day in sorted(set(days)):
        rows = await _look_at_day(place, day, state)
        counts[day] = len(rows)
        content = await asyncio.to_thread(index_bytes, rows)
        if await _put_if_changed(place.compact, index_key(day), content):
            changed.append(index_key(day))
    pages = []
    for month in sorted({day_text(day)[:6] for day in days}):
        pages.append(page_key(month))
        if await _write_page(place.compact, month):
            changed.append(page_key(month))
    return Written(counts, tuple(pages), tuple(changed))


# ---- looking ---------------------------------------------------------------------------------------------------------


async def _look_at_day(place: MarketPlace, day: dt.date, state: State | None) -> list[IndexRow]:
    """Every symbol-day that the compact lake or the state has of a day, sorted."""
    at_once = place.limits.request_concurrency
    pairs = (await find_pairs(place.compact)).items
    symbols, _ = await find_symbols_of(place.compact, pairs, at_once=at_once)
    wanted = {SymbolDay(pair.exchange, pair.stream, symbol, day) for pair in pairs for symbol in symbols[pair]}
    found: dict[SymbolDay, Day] = {}
    next_ones = iter(sorted(wanted))

    async def work() -> None:
        for symbol_day in next_ones:  # shared by all workers
            looked = await _look(place.compact, symbol_day)
            if looked is not None:
                found[symbol_day] = looked

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return index_rows(day, found, state)


async def _look(compact: Store, symbol_day: SymbolDay) -> Day | None:
    try:
        listed = await compact.list_objects(symbol_day.prefix)
        names = {info.name for info in listed} & {META, QUARANTINE}
        got = {name: await compact.get_if_exists(symbol_day.key(name)) for name in sorted(names)}
    except ITS_OWN_FAULT as error:
        return Day(symbol_day, flaws=((Flaw.UNCOMMITTED, str(error)),), proved=False)
    return judge(symbol_day, listed, {name: content[0] for name, content in got.items() if content is not None})


def index_rows(day: dt.date, found: dict[SymbolDay, Day], state: State | None) -> list[IndexRow]:
    """The rows of a day's index, sorted: what the lake holds; of what it does not hold, what the state says. Pure."""
    rows = {symbol_day: _row_of(looked) for symbol_day, looked in found.items()}
    for key, record in (state.partitions if state else {}).items():
        if not key.endswith(f"/{day_text(day)}"):
            continue
        try:
            symbol_day = SymbolDay.of_state_key(key)
        except PathError:
            continue  # of other software
        if symbol_day not in rows and record.status != Status.NO_FILES:
            is_gone = record.status == Status.SUCCESS
            status = Status.FAILED.value if is_gone else record.status
            why = "the state says that it is published, and nothing is there" if is_gone else record.error or ""
            rows[symbol_day] = IndexRow(Day(symbol_day, quality=record.day_quality_post or ""), status, why)
    return [rows[symbol_day] for symbol_day in sorted(rows)]


def _row_of(day: Day) -> IndexRow:
    flaws = dict(day.flaws)
    status = Status.SUCCESS
    if Flaw.UNCOMMITTED in flaws:
        status = Status.FAILED
    elif Flaw.QUARANTINED in flaws:
        status = Status.QUARANTINE
    published = day.data is not None and day.rows is not None
    quality = day.quality if published or (day.rows is None and day.quality == BAD) else ""
    if quality != day.quality:
        day = Day(day.symbol_day, quality=quality, flaws=day.flaws, proved=day.proved)
    return IndexRow(day, status.value, "; ".join(why for _, why in day.flaws))


# ---- the index -------------------------------------------------------------------------------------------------------


def index_bytes(rows: Iterable[IndexRow]) -> bytes:
    """The rows as a Parquet file: sorted, one row group, nothing of the clock in it."""
    import pyarrow as pa  # noqa: PLC0415  # who only looks at a lake needs no engine
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = pa.schema(
        [
            ("date", pa.date32()),
            ("exchange", pa.string()),
            ("stream", pa.string()),
            ("symbol", pa.string()),
            ("status", pa.string()),
            ("day_quality", pa.string()),
            ("rows", pa.int64()),
            ("ts_event_min", pa.int64()),
            ("ts_event_max", pa.int64()),
            ("ts_event_unit", pa.string()),
            ("first", pa.timestamp("us", "UTC")),
            ("last", pa.timestamp("us", "UTC")),
            ("gaps", pa.int64()),
            ("size_bytes", pa.int64()),
            ("revision", pa.int64()),
            ("sha256", pa.string()),
            ("why", pa.string()),
        ]
    )
    table = pa.Table.from_pylist([_values(row) for row in rows], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=max(1, table.num_rows), store_schema=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _values(row: IndexRow) -> dict[str, Any]:
    day = row.day
    return {
        "date": day.date,
        "exchange": day.exchange,
        "stream": day.stream,
        "symbol": day.symbol,
        "status": row.status,
        "day_quality": day.quality or None,
        "rows": day.rows,
        "ts_event_min": day.ts_event_min,
        "ts_event_max": day.ts_event_max,
        "ts_event_unit": _UNITS.get(day.ticks or 0),
        "first": day.first,
        "last": day.last,
        "gaps": day.gaps,
        "size_bytes": day.size_bytes if day.data else None,
        "revision": day.revision if day.data else None,
        "sha256": day.sha256,
        "why": row.why or None,
    }


# ---- the page --------------------------------------------------------------------------------------------------------


async def _write_page(compact: Store, month: str) -> bool:
    """Write a month's page from the indexes of its days, unless it has that content; whether it was written.

    By compare-and-swap: who read the indexes before another one wrote his must not have the last word.
    """
    key = page_key(month)
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Conflict),
        wait=wait_random_exponential(multiplier=0.05, max=2.0),
        stop=stop_after_delay(120),
        reraise=True,
    ):
        with attempt:
            found = await compact.get_if_exists(key)
            cells = await _cells_of(compact, month)
            content = month_page(month, len(days_of_month(month)), cells).encode()
            if found is not None and found[0] == content:
                return False
            await compact.compare_and_swap(key, content, found[1].etag if found else None)
    return True


async def _cells_of(compact: Store, month: str) -> list[Cell]:
    """What the indexes of a month's days hold."""
    found = await asyncio.gather(*(compact.get_if_exists(index_key(day)) for day in days_of_month(month)))
    contents = [(day, item[0]) for day, item in zip(days_of_month(month), found, strict=True) if item is not None]
    return await asyncio.to_thread(lambda: [cell for day, item in contents for cell in _cells(compact, day, item)])


def _cells(compact: Store, day: dt.date, content: bytes) -> list[Cell]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        rows = pq.read_table(pa.BufferReader(content)).to_pylist()
        return [_cell(day, row) for row in rows]
    except (pa.ArrowException, KeyError) as error:
        remedy = f"Run `quantlab calendar {day}`"
        raise QuantlabError(compact.name(index_key(day)), f"is no index of a day ({error})", remedy) from error


def _cell(day: dt.date, row: dict[str, Any]) -> Cell:
    midnight = dt.datetime.combine(day, dt.time(), dt.UTC)
    return Cell(
        exchange=row["exchange"],
        stream=row["stream"],
        symbol=row["symbol"],
        day=day.day,
        status=row["status"],
        quality=row["day_quality"] or "",
        rows=row["rows"],
        size_bytes=row["size_bytes"],
        first_second=_seconds(row["first"], midnight),
        last_second=_seconds(row["last"], midnight),
        revision=row["revision"],
        sha256=row["sha256"] or "",
        gaps=row["gaps"],
        why=row["why"] or "",
    )


def _seconds(moment: dt.datetime | None, midnight: dt.datetime) -> int | None:
    return None if moment is None else (moment - midnight) // dt.timedelta(seconds=1)


async def _put_if_changed(compact: Store, key: str, content: bytes) -> bool:
    found = await compact.get_if_exists(key)
    if found is not None and found[0] == content:
        return False
    await compact.put(key, content)
    return True
