"""Reading a compact lake: what is there, what it is worth, and its rows. For research, replay and other jobs.

    from quantlab_dagster import reader

    lake = reader.open_lake("s3://quantlab-compact")
    rows = lake.rows(exchange="binance", stream="bbo", symbol="ADAUSDT", start="2026-01-08", end="2026-01-09")
    frame = rows.polars()

It loads neither Dagster nor anything that could write to a lake (docs/adr/0018).
"""

from __future__ import annotations

from quantlab_dagster.market.worth import Day, Flaw
from quantlab_dagster.reader.errors import (
    ColumnsDiffer,
    CursorError,
    DayBad,
    DayMisordered,
    DayQuarantined,
    DayRebuilt,
    DayUncommitted,
    DayWithheld,
    NothingPublished,
    TimeUnitUnclear,
)
from quantlab_dagster.reader.lake import Lake, open_lake, worth
from quantlab_dagster.reader.paging import Cursor, Page
from quantlab_dagster.reader.rows import Rows
from quantlab_dagster.reader.times import Instant

__all__ = [
    "ColumnsDiffer",
    "Cursor",
    "CursorError",
    "Day",
    "DayBad",
    "DayMisordered",
    "DayQuarantined",
    "DayRebuilt",
    "DayUncommitted",
    "DayWithheld",
    "Flaw",
    "Instant",
    "Lake",
    "NothingPublished",
    "Page",
    "Rows",
    "TimeUnitUnclear",
    "open_lake",
    "worth",
]
