"""Lakes for tests: small raw days put into stores, and what a naive reader makes of them."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.lake.store.base import Store
from quantlab_dagster.market.compact import compact_pair
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.plan import Plan, Requested
from quantlab_dagster.market.quality.records import DayQuality
from quantlab_dagster.market.quality.rules import Rules
from quantlab_dagster.synthetic.market import DaySpec, RawPart, generate_parts
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    import pytest

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.market.outcome import Outcome, PairOutcome
    from quantlab_dagster_tests.conftest import Rig

DAY = dt.date(2026, 1, 8)
NOON_AFTER = dt.datetime(2026, 1, 9, 12, tzinfo=dt.UTC)
PAIR = Pair("binance", "bbo")
NO_WINDOWS = DayQuality.judged({}, Rules(), looked_at_again=False)


def spec(symbol: str = "adausdt", *, parts: int = 12, rows: int = 600, seed: int = 0, day: dt.date = DAY) -> DaySpec:
    """A small day of best bid/offer."""
    return DaySpec(PAIR.exchange, PAIR.stream, symbol, day, parts=parts, rows=rows, seed=seed)


def symbol_day(symbol: str = "adausdt", day: dt.date = DAY) -> SymbolDay:
    """The symbol-day of `spec`."""
    return SymbolDay(PAIR.exchange, PAIR.stream, symbol, day)


def damage_downloads(
    monkeypatch: pytest.MonkeyPatch, kind: type[Store], name: str, *, times: int | None = None
) -> None:
    """From now on the last bytes of an object arrive as zeros; only so many times, if that is said."""
    received, done = kind._received, 0

    async def damaging(self: Store, key: str, once: Callable[[], Awaitable[tuple[Any, ObjectInfo]]]) -> Any:
        async def damaged() -> tuple[Any, ObjectInfo]:
            nonlocal done
            content, info = await once()
            if not key.endswith(name) or done == times:
                return content, info
            done += 1
            content = content[:-20] + bytes(20)
            return content, replace(info, received=hashlib.md5(content, usedforsecurity=False).hexdigest())

        return await received(self, key, damaged)

    monkeypatch.setattr(kind, "_received", damaging)
    monkeypatch.setattr(kind, "get_together", Store.get_together)  # through the above, one by one


@dataclass(slots=True)
class Recorder:
    """A listener that remembers."""

    built: list[Plan] = field(default_factory=list)
    ended: list[Outcome] = field(default_factory=list)
    fetched_parts: int = 0

    def planned(self, pair: Pair, day: dt.date, symbols: int) -> None:
        """Nothing to remember."""

    def building(self, plan: Plan) -> None:
        self.built.append(plan)

    def fetched(self, symbol_day: SymbolDay, parts: int, of_parts: int) -> None:  # noqa: ARG002
        self.fetched_parts = max(parts, self.fetched_parts)

    def finished(self, outcome: Outcome) -> None:
        self.ended.append(outcome)


@dataclass(frozen=True, slots=True)
class Lakes:
    """A raw and a compact lake of one rig."""

    rig: Rig
    raw_url: str
    compact_url: str
    scratch: Path

    @classmethod
    def of(cls, rig: Rig) -> Lakes:
        scratch = rig.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        return cls(rig, rig.new_url(), rig.new_url(), scratch)

    @property
    def raw(self) -> Store:
        return self.rig.store(self.raw_url)

    @property
    def compact(self) -> Store:
        return self.rig.store(self.compact_url)

    def place(self, *, now: dt.datetime = NOON_AFTER, memory_budget: int = 64 << 20) -> MarketPlace:
        return MarketPlace(self.raw, self.compact, Limits(memory_budget, scratch_base=self.scratch), clock=lambda: now)

    def put_raw(self, day: SymbolDay, parts: Iterable[RawPart]) -> None:
        async def put() -> None:
            store = self.raw
            await asyncio.gather(*(store.put(day.key(part.name), part.data) for part in parts))

        asyncio.run(put())

    def put_spec(self, day_spec: DaySpec) -> list[RawPart]:
        parts = list(generate_parts(day_spec))
        self.put_raw(SymbolDay(day_spec.exchange, day_spec.stream, day_spec.symbol, day_spec.day), parts)
        return parts

    def run(self, **options: Any) -> PairOutcome:
        """Compact the pair's day."""
        overwrite, allow_shrink = options.pop("overwrite", False), options.pop("allow_shrink", False)
        place = options.pop("place", None) or self.place()
        listener = options.pop("listener", None) or Recorder()
        day = options.pop("day", DAY)
        return asyncio.run(
            compact_pair(
                place,
                PAIR,
                day,
                listener=listener,
                requested=Requested(overwrite=overwrite, allow_shrink=allow_shrink),
                **options,
            )
        )

    def get(self, key: str) -> bytes:
        """An object of the compact lake."""
        return asyncio.run(self.compact.get(key))[0]

    def compact_keys(self) -> dict[str, str]:
        """Every object of the compact lake with its ETag; the state, the journal and the calendar aside."""
        listed = asyncio.run(self.compact.list_objects(""))
        return {info.key: info.etag for info in listed if not info.key.startswith(("compacted/", "calendar/"))}

    def put_beside(self, day: SymbolDay, name: str, content: bytes | dict[str, Any]) -> None:
        """Write an object of a published day, whatever stood there."""
        found = content if isinstance(content, bytes) else json.dumps(content).encode()
        asyncio.run(self.compact.put(day.key(name), found))

    def delete_beside(self, day: SymbolDay, name: str) -> None:
        asyncio.run(self.compact.delete(day.key(name)))

    def meta(self, day: SymbolDay) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(day.key("meta.json")))
        return found

    def disown(self, day: SymbolDay, table: pa.Table | None = None, **changes: Any) -> None:
        """Make a published day one of other software: its data (or this table), its smaller meta, no sources."""
        data = self.get(day.key("data.parquet")) if table is None else parquet_bytes(table)
        table = pq.read_table(pa.BufferReader(data))
        own = self.meta(day)
        kept = ("schema_version", "ordering_columns", "stream_type", "source_files")
        ts_event = table["ts_event"].to_pylist()
        foreign = {name: own[name] for name in kept} | {
            "rows": table.num_rows,
            "ts_event_min": min(ts_event, default=None),
            "ts_event_max": max(ts_event, default=None),
            "day_quality": "GOOD",
        }
        self.put_beside(day, "data.parquet", data)
        self.put_beside(day, "meta.json", foreign | changes)
        self.delete_beside(day, "sources.json")

    def published(self, day: SymbolDay) -> pa.Table:
        """A published day."""
        return pq.read_table(pa.BufferReader(self.get(day.key("data.parquet"))))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def first_two_swapped(table: pa.Table) -> pa.Table:
    """A misordered day with the same rows."""
    return table.take([1, 0, *range(2, table.num_rows)])


def oracle(parts: Iterable[RawPart]) -> pa.Table:
    """What a plain sort in another engine makes of the parts: rows by (ts_event, part, row), numbered."""
    tables = []
    for part in sorted(parts, key=lambda part: part.name.encode()):
        table = pq.read_table(pa.BufferReader(part.data))
        for index, name in enumerate(table.column_names):
            if pa.types.is_dictionary(table.schema.field(name).type):
                table = table.set_column(index, name, table[name].cast(pa.string()))
        tables.append(
            table.append_column("part", pa.array([part.name.encode()] * len(table), pa.binary())).append_column(
                "row", pa.array(range(len(table)), pa.int64())
            )
        )
    rows = pa.concat_tables(tables, promote_options="default")  # noqa: F841  # read by DuckDB
    columns = [name for name in tables[0].column_names if name not in ("part", "row")]
    numbered = ["ts_event", "row_number() over (order by ts_event, part, row) - 1 as seq", *columns[1:]]
    with duckdb.connect() as connection:
        return connection.sql(f"select {', '.join(numbered)} from rows order by seq").to_arrow_table()  # noqa: S608


def same_rows(published: pa.Table, expected: pa.Table) -> bool:
    """Whether two tables have the same columns and the same rows in the same order."""
    return bool(published.column_names == expected.column_names and published.to_pydict() == expected.to_pydict())
