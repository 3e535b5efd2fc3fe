"""Published days for the reader's tests, put into stores as publishing would; and what a naive reader makes of them."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq

from quantlab_dagster import reader
from quantlab_dagster.lake.market import DATA, META, SOURCES, SymbolDay
from quantlab_dagster.market.records import DayMeta

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pytest

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig

DAY = dt.date(2026, 1, 8)
MIDNIGHT_MS = 1_767_830_400_000
"""Of DAY, in milliseconds."""
DAY_MS = 86_400_000

COLUMNS: dict[str, list[str]] = {"bbo": ["bid_price"], "trade": ["price", "trade_id"]}


def day_of(symbol: str = "adausdt", *, day: dt.date = DAY, stream: str = "bbo", exchange: str = "binance") -> SymbolDay:
    return SymbolDay(exchange, stream, symbol, day)


def frame_of(symbol_day: SymbolDay, times: Sequence[int]) -> pl.DataFrame:
    """A day with these `ts_event`, in order: every row tells from which place it is."""
    count = len(times)
    columns: dict[str, Any] = {
        "ts_event": pl.Series(sorted(times), dtype=pl.Int64),
        "seq": pl.Series(range(count), dtype=pl.Int64),
        "ts_recv": pl.Series([value + 1 for value in sorted(times)], dtype=pl.Int64),
        "exchange": pl.Series([symbol_day.exchange] * count, dtype=pl.String),
        "symbol": pl.Series([symbol_day.symbol.upper()] * count, dtype=pl.String),
        "stream": pl.Series([symbol_day.stream] * count, dtype=pl.String),
    }
    for name in COLUMNS.get(symbol_day.stream, []):
        value = [f"{symbol_day}/{number}" for number in range(count)]
        is_text = name == "trade_id"
        columns[name] = pl.Series(value if is_text else range(count), dtype=pl.String if is_text else pl.Float64)
    return pl.DataFrame(columns)


def bytes_of(frame: pl.DataFrame, *, group: int = 4) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), buffer, row_group_size=group)
    return buffer.getvalue()


@dataclass(slots=True)
class ReadLake:
    """A compact lake of one rig, and what it holds."""

    rig: Rig
    url: str
    frames: dict[SymbolDay, pl.DataFrame] = field(default_factory=dict)

    @classmethod
    def of(cls, rig: Rig, monkeypatch: pytest.MonkeyPatch | None = None) -> ReadLake:
        """An empty one; with the variables set by which the reader finds its server."""
        for name, value in rig.env().items():
            assert monkeypatch is not None
            monkeypatch.setenv(name, value)
        return cls(rig, rig.new_url())

    @property
    def store(self) -> Store:
        return self.rig.store(self.url)

    def open(self, *, patience: float = 0.0) -> reader.Lake:
        return reader.open_lake(self.url, patience=patience)

    def put(
        self, symbol_day: SymbolDay, times: Sequence[int] | pl.DataFrame, *, group: int = 4, **changes: Any
    ) -> dict[str, Any]:
        """Publish a day as this project does; returns its meta."""
        frame = times if isinstance(times, pl.DataFrame) else frame_of(symbol_day, times)
        data = bytes_of(frame, group=group)

        async def put() -> bytes:
            store = self.store
            etag = await store.put(symbol_day.key(DATA), data)
            meta = DayMeta(
                rows=frame.height,
                ts_event_min=frame["ts_event"].min(),
                ts_event_max=frame["ts_event"].max(),
                stream_type=symbol_day.stream,
                sha256=hashlib.sha256(data).hexdigest(),
                data_size_bytes=len(data),
                data_etag=etag,
                raw_fingerprint="0" * 64,
            ).model_copy(update=changes)
            await store.put(symbol_day.key(SOURCES), b"{}")
            await store.put(symbol_day.key(META), meta.dump())
            return meta.dump()

        self.frames[symbol_day] = frame
        found: dict[str, Any] = json.loads(asyncio.run(put()))
        return found

    def put_foreign(self, symbol_day: SymbolDay, times: Sequence[int] | pl.DataFrame, **changes: Any) -> None:
        """Publish a day as the old software did: a smaller meta, and no sources."""
        frame = times if isinstance(times, pl.DataFrame) else frame_of(symbol_day, times)
        data = bytes_of(frame)
        meta = {
            "schema_version": 1,
            "rows": frame.height,
            "ts_event_min": frame["ts_event"].min(),
            "ts_event_max": frame["ts_event"].max(),
            "ordering_columns": ["ts_event", "seq"],
            "stream_type": symbol_day.stream,
            "sha256": hashlib.sha256(data).hexdigest(),
            "source_files": 3,
            "day_quality": "GOOD",
            "post_filter_version": "1.0.0",
        } | changes
        self.frames[symbol_day] = frame
        self.put_object(symbol_day, DATA, data)
        self.put_object(symbol_day, META, {name: value for name, value in meta.items() if value is not None})

    def put_object(self, symbol_day: SymbolDay, name: str, content: bytes | dict[str, Any]) -> None:
        found = content if isinstance(content, bytes) else json.dumps(content).encode()
        asyncio.run(self.store.put(symbol_day.key(name), found))

    def delete_object(self, symbol_day: SymbolDay, name: str) -> None:
        asyncio.run(self.store.delete(symbol_day.key(name)))

    def expected(
        self, days: Iterable[SymbolDay] | None = None, *, low: int | None = None, high: int | None = None
    ) -> list[tuple[Any, ...]]:
        """What a naive reader makes of the days: (ts_event, exchange, stream, symbol, day, seq) of each row, sorted."""
        return sorted(
            (ts_event, day.exchange, day.stream, day.symbol, day.day, seq)
            for day in (self.frames if days is None else days)
            for ts_event, seq in self.frames[day].select("ts_event", "seq").iter_rows()
            if (low is None or ts_event >= low) and (high is None or ts_event < high)
        )


def places(frame: pl.DataFrame, days: Iterable[SymbolDay]) -> list[tuple[Any, ...]]:
    """The rows of a result as `expected` names them, but for the day, which no column tells."""
    spelling = {day.symbol.upper(): day.symbol for day in days}
    found = frame.select("ts_event", "exchange", "stream", "symbol", "seq").iter_rows()
    return [(ts, exchange, stream, spelling[symbol], seq) for ts, exchange, stream, symbol, seq in found]


def without_day(expected: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*row[:4], row[5]) for row in expected]
