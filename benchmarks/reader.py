"""The reader beside plain Polars, on the same files: `python benchmarks/reader.py [--rows N] [--days N] [--symbols N]`.

Ways take turns, in an order that is drawn; the files are encoded as published ones. The page shows medians of wall
time and of CPU, and ratios. Wall time of a shared machine says little.

- *scan*: all rows of one symbol's days: `pl.scan_parquet(files).collect()`, and `lake.rows(...)` in both orders.
- *hour*: one hour of one day: a filter, and `start=… end=…`.
- *merged*: many symbols of one day in one order: scan and stable sort, and `lake.rows(...)` streamed, never as a whole.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import random
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from quantlab_dagster import reader
from quantlab_dagster.kernel.encodings import choose_encodings, encoding_options
from quantlab_dagster.kernel.writer import ROW_GROUP_ROWS
from quantlab_dagster.lake.market import DATA, META, SymbolDay
from quantlab_dagster.market.records import DayMeta

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = dt.date(2026, 1, 8)
MIDNIGHT_MS = 1_767_830_400_000
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def publish(root: Path, symbol_day: SymbolDay, rows: int) -> Path:
    """A day of best bid/offer, encoded as it is published, drawn from its name."""
    drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(str(symbol_day).encode()).digest()[:8]))
    begin = MIDNIGHT_MS + (symbol_day.day - DAY).days * DAY_MS
    times = np.sort(drawn.integers(begin, begin + DAY_MS, rows))
    prices = 1 + np.round(drawn.normal(0, 0.0005, rows).cumsum() % 1, 4)
    frame = pl.DataFrame(
        {
            "ts_event": times,
            "seq": np.arange(rows),
            "ts_recv": times + drawn.integers(1, 50, rows),
            "exchange": pl.repeat(symbol_day.exchange, rows, eager=True),
            "symbol": pl.repeat(symbol_day.symbol.upper(), rows, eager=True),
            "stream": pl.repeat(symbol_day.stream, rows, eager=True),
            "stream_version": pl.repeat(1, rows, dtype=pl.Int8, eager=True),
            "bid_price": prices,
            "ask_price": prices,
            **{name: np.round(drawn.exponential(900, rows), 1) for name in ("bid_qty", "ask_qty")},
        }
    )
    path = root / symbol_day.key(DATA)
    path.parent.mkdir(parents=True)
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    encodings = encoding_options(choose_encodings(table.slice(0, 1 << 16), int96=frozenset(), split=True))
    pq.write_table(table, path, row_group_size=ROW_GROUP_ROWS, compression="zstd", write_page_index=True, **encodings)
    found = path.stat()
    meta = DayMeta(
        rows=rows,
        ts_event_min=int(times[0]),
        ts_event_max=int(times[-1]),
        stream_type=symbol_day.stream,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        data_size_bytes=found.st_size,
        data_etag=f"{found.st_ino:x}-{found.st_mtime_ns // 1000:x}-{found.st_size:x}",
        raw_fingerprint="0",
    )
    path.with_name(META).write_bytes(meta.dump())
    return path


def consumed(rows: reader.Rows) -> int:
    """The rows of a stream, none of which is kept."""
    return sum(frame.height for frame in rows.frames())


def compare(title: str, ways: dict[str, Callable[[], object]], rounds: int) -> None:
    """Let the ways take turns; the first is what the others are compared with."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name in random.sample(list(ways), len(ways)):
            way = ways[name]
            began, used = time.perf_counter(), time.process_time()
            way()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
    print(f"\n{title}\n\n| way | wall s | CPU s | throughput by wall | by CPU |\n|---|---|---|---|---|")
    medians = {name: (statistics.median(wall[name][1:]), statistics.median(cpu[name][1:])) for name in ways}
    first = medians[next(iter(ways))]
    for name, (seconds, used) in medians.items():
        print(f"| {name} | {seconds:.3f} | {used:.3f} | {first[0] / seconds:.2f} | {first[1] / used:.2f} |")


def main() -> None:
    """Make the data, compare, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of a symbol-day")
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--symbols", type=int, default=10, help="merged into one order")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        days = [DAY + dt.timedelta(days=number) for number in range(arguments.days)]
        files = [publish(root, SymbolDay("binance", "bbo", "adausdt", day), arguments.rows) for day in days]
        many = [
            publish(root, SymbolDay("okx", "bbo", f"s{number:03d}usdt", DAY), arguments.rows // 5)
            for number in range(arguments.symbols)
        ]
        lake = reader.open_lake(directory)
        rows = partial(lake.rows, exchange="binance", stream="bbo", symbol="ADAUSDT")
        compare(
            f"scan: {arguments.days} days of {arguments.rows:,} rows",
            {
                "Polars": lambda: pl.scan_parquet(files, hive_partitioning=False).collect(),
                "reader, order of files": lambda: rows(order="files").polars(),
                "reader, total order": lambda: rows().polars(),
                "reader, streamed": lambda: consumed(rows()),
                "reader, lazy": lambda: rows().lazy().collect(),
            },
            arguments.rounds,
        )
        low = MIDNIGHT_MS + 10 * HOUR_MS
        hour = pl.col("ts_event").is_between(low, low + HOUR_MS, closed="left")
        compare(
            "hour: of these days",
            {
                "Polars": lambda: pl.scan_parquet(files, hive_partitioning=False).filter(hour).collect(),
                "reader": lambda: rows(start=low, end=low + HOUR_MS).polars(),
            },
            arguments.rounds,
        )
        compare(
            f"merged: {arguments.symbols} symbols of {arguments.rows // 5:,} rows",
            {
                "Polars, scan and stable sort": lambda: (
                    pl.scan_parquet(many, hive_partitioning=False).sort("ts_event", maintain_order=True).collect()
                ),
                "reader, total order, streamed": lambda: consumed(lake.rows(exchange="okx")),
                "reader, total order": lambda: lake.rows(exchange="okx").polars(),
                "reader, lazy": lambda: lake.rows(exchange="okx").lazy().collect(),
            },
            arguments.rounds,
        )


if __name__ == "__main__":
    main()
