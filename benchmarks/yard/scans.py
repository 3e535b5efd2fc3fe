"""Reading a file whole, a few times; prints the median of seconds: `python -m benchmarks.yard.scans READER FILE`."""

from __future__ import annotations

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
    times = []
    for _ in range(TIMES):
        started = time.perf_counter()
        scan()
        times.append(time.perf_counter() - started)
    print(statistics.median(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
