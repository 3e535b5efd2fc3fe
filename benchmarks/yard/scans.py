"""Reading a file whole, a few times; prints medians of wall and CPU: `python -m benchmarks.yard.scans READER FILE`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = 5


def _polars(path: str) -> Callable[[], object]:
    import polars as pl

    return lambda: pl.read_parquet(path)


def _duckdb(path: str) -> Callable[[], object]:
    import duckdb

    # The hash keeps it from answering out of statistics.
    query = f"select max(columns(*)) from (from '{path}' where hash(ts_event) <> 0)"  # noqa: S608 - our own path
    connection = duckdb.connect()
    return lambda: connection.execute(query).fetchall()


def main(reader: str, path: str) -> None:
    """Measure, print."""
    scan = {"polars": _polars, "duckdb": _duckdb}[reader](path)
    scan()
    times: list[tuple[float, float]] = []
    for _ in range(TIMES):
        started, busy = time.perf_counter(), time.process_time()
        scan()
        times.append((time.perf_counter() - started, time.process_time() - busy))
    print(json.dumps([statistics.median(column) for column in zip(*times, strict=True)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
