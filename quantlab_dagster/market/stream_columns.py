"""What the columns of each stream are, with their units: the written contract of raw parts and published files.

It describes, and decides nothing: no code but `ts_event`'s depends on a column, and one that is not named here is
published like any other. docs/columns.md is the same table for people. A new stream is a new entry.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantlab_dagster.kernel.terms import SEQ

__all__ = ["COMMON_COLUMNS", "SEQ_COLUMN", "STREAM_COLUMNS", "Column", "columns_of"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: as in the file.
        dtype: as Polars names what is published.
        text: what a value says, and its unit.
    """

    name: str
    dtype: str
    text: str


_QUANTITY = "as the exchange counts it: of the base currency, or in contracts"

COMMON_COLUMNS = (
    Column(
        "ts_event",
        "Int64",
        "When it happened, by the exchange's clock: since 1970 in UTC, in milliseconds (nanoseconds in the written "
        "contract; the day's own range tells which).",
    ),
    Column("ts_recv", "Int64", "When the collector received it, by its own clock; the unit of ts_event."),
    Column("exchange", "String", "The path's, the same in every row."),
    Column("symbol", "String", "In upper case (ADAUSDT), where the path has lower case; the same in every row."),
    Column("stream", "String", "The path's, the same in every row."),
    Column("stream_version", "Int8", "Version of the stream's columns; always 1 today."),
)
"""The first ones of every stream, as collectors write them."""

SEQ_COLUMN = Column(
    SEQ,
    "Int64",
    "Number of the row in its symbol-day, from 0 on: (ts_event, seq) is unique and strictly increasing. Added when the "
    "day is compacted, directly behind ts_event; late rows renumber it.",
)

STREAM_COLUMNS: dict[str, tuple[Column, ...]] = {
    "bbo": (
        Column("bid_price", "Float64", "Best bid, in the quote currency."),
        Column("bid_qty", "Float64", f"Quantity at the best bid, {_QUANTITY}."),
        Column("ask_price", "Float64", "Best ask, in the quote currency."),
        Column("ask_qty", "Float64", f"Quantity at the best ask, {_QUANTITY}."),
    ),
    "trade": (
        Column("price", "Float64", "Price of the trade, in the quote currency."),
        Column("qty", "Float64", f"Quantity traded, {_QUANTITY}."),
        Column("side", "Int8", "Who took: 1 a buyer, -1 a seller."),
        Column("trade_id", "String", "The exchange's name of the trade; digits that count up by one where it numbers."),
    ),
    "mark_price": (
        Column("mark_price", "Float64", "Price by which the exchange values positions, in the quote currency."),
        Column("index_price", "Float64", "Price of the underlying, in the quote currency; null where none is sent."),
    ),
    "funding": (
        Column("funding_rate", "Float64", "What longs pay shorts at the next funding, as a fraction (0.0001 is 1 bp)."),
        Column("next_funding_ts", "Int64", "When that is; the unit of ts_event."),
    ),
    "open_interest": (Column("open_interest", "Float64", f"Contracts that are open, {_QUANTITY}."),),
}
"""By stream, as in the path: what follows the common ones."""


def columns_of(stream: str, *, published: bool) -> tuple[Column, ...]:
    """The columns of a stream in their order; of one that nobody described, those that all have.

    Args:
        stream: as in the path.
        published: of data.parquet; otherwise of the raw parts, which have no `seq`.
    """
    first, *others = COMMON_COLUMNS
    numbered = (first, SEQ_COLUMN) if published else (first,)
    return (*numbered, *others, *STREAM_COLUMNS.get(stream, ()))
