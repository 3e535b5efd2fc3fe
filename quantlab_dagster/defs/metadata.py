"""What a materialisation says: an operator's questions answered without a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from quantlab_dagster.days.compact import Outcome, PairOutcome, Status
from quantlab_dagster.days.timeunit import ticks_per_second, time_of
from quantlab_dagster.defs.picture import draw_minutes, markdown_image
from quantlab_dagster.text import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["describe"]

_MOST_TABLE_ROWS = 500


def describe(outcome: PairOutcome) -> dict[str, Any]:
    """Metadata of a pair's day: totals over its symbol-days, tables of them, the columns, the picture."""
    published = outcome.having(Status.SUCCESS)
    built = [item for item in published if item.built]
    rows = sum(item.rows for item in published)
    bytes_in = sum(item.raw_bytes for item in published)
    bytes_out = sum(item.data_bytes for item in published)
    quarantined = outcome.having(Status.QUARANTINE)
    metadata: dict[str, Any] = {
        "dagster/row_count": rows,
        "dagster/partition_row_count": rows,
        "rows": rows,
        "parts": sum(item.parts for item in published),
        "bytes in": dg.MetadataValue.int(bytes_in),
        "bytes out": dg.MetadataValue.int(bytes_out),
        "size": f"{format_bytes(bytes_in)} → {format_bytes(bytes_out)}",
        "symbol-days": len(outcome.outcomes),
        "symbol-days built": len(built),
        "symbol-days quarantined": len(quarantined),
        "requests": sum(outcome.requests.values()),
        "requests by kind": dg.MetadataValue.json(outcome.requests),
        "seconds": round(outcome.seconds, 3),
    }
    if bytes_out:
        metadata["ratio"] = round(bytes_in / bytes_out, 2)
    if built:
        metadata["rows/s"] = round(sum(item.rows for item in built) / outcome.seconds)
    metadata |= _time_range(outcome, published)
    metadata["symbol-day table"] = _table(outcome.outcomes)
    if quarantined:
        metadata["quarantine"] = _quarantine_table(quarantined)
    if built:
        metadata["dagster/column_schema"] = _column_schema(built)
        png = draw_minutes(str(outcome.pair), built)
        if png is not None:
            metadata["events per minute"] = dg.MetadataValue.md(
                markdown_image(png, f"Events per minute of {outcome.pair}", outcome.day)
            )
    return metadata


def _time_range(outcome: PairOutcome, published: Sequence[Outcome]) -> dict[str, Any]:
    lows = [item.ts_event_min for item in published if item.ts_event_min is not None]
    highs = [item.ts_event_max for item in published if item.ts_event_max is not None]
    if not lows or not highs:
        return {}
    low, high = min(lows), max(highs)
    ticks = ticks_per_second(low, high, outcome.day)
    text = f"{low} … {high}"
    if ticks is not None:
        first, last = (time_of(value, ticks).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] for value in (low, high))
        text = f"{first} … {last} UTC"
    return {"time range": text, "ts_event min": low, "ts_event max": high}


def _table(outcomes: Sequence[Outcome]) -> dg.TableMetadataValue:
    # What needs attention comes first, in case the table is cut.
    ordered = sorted(outcomes, key=lambda item: (item.status is Status.SUCCESS, item.symbol_day.symbol))
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "symbol": item.symbol_day.symbol,
                    "status": item.status.value,
                    "action": item.action.value,
                    "rows": item.rows,
                    "parts": item.parts,
                    "bytes in": item.raw_bytes,
                    "bytes out": item.data_bytes,
                    "seconds": round(item.seconds, 3),
                    "revision": item.revision or 0,
                    "why": item.reason,
                }
            )
            for item in ordered[:_MOST_TABLE_ROWS]
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("symbol"),
                dg.TableColumn("status"),
                dg.TableColumn("action"),
                dg.TableColumn("rows", "int"),
                dg.TableColumn("parts", "int"),
                dg.TableColumn("bytes in", "int"),
                dg.TableColumn("bytes out", "int"),
                dg.TableColumn("seconds", "float"),
                dg.TableColumn("revision", "int"),
                dg.TableColumn("why"),
            ]
        ),
    )


def _quarantine_table(quarantined: Sequence[Outcome]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"symbol": item.symbol_day.symbol, "part and reason": item.reason})
            for item in quarantined[:_MOST_TABLE_ROWS]
        ],
        schema=dg.TableSchema(columns=[dg.TableColumn("symbol"), dg.TableColumn("part and reason")]),
    )


def _column_schema(built: Sequence[Outcome]) -> dg.TableSchema:
    """The columns of all symbol-days built; one whose dtype differs between them names all its dtypes."""
    dtypes: dict[str, list[str]] = {}
    for item in built:
        for name, dtype in item.columns.items():
            known = dtypes.setdefault(name, [])
            if dtype not in known:
                known.append(dtype)
    return dg.TableSchema(columns=[dg.TableColumn(name, " or ".join(found)) for name, found in dtypes.items()])
