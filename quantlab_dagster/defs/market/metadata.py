"""What a materialisation says: an operator's questions answered without a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from quantlab_dagster.defs.market.content import PICTURE, SCHEMA
from quantlab_dagster.defs.market.has_data import NO_DATA
from quantlab_dagster.defs.market.plausible import findings_table
from quantlab_dagster.market.outcome import Outcome, PairOutcome, Status
from quantlab_dagster.market.stream_columns import columns_of
from quantlab_dagster.market.timeunit import ticks_per_second, time_of
from quantlab_dagster.work.wording import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantlab_dagster.lake.market import Pair

__all__ = ["describe"]

_MOST_TABLE_ROWS = 500


def describe(outcome: PairOutcome, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Metadata of a pair's day: totals over its symbol-days, tables of them, the columns, the picture.

    In the order of Dagster's pages: what went wrong and what an operator asks first, then what programs read. Numbers
    stay numbers, because the pages plot them over the days.

    Args:
        outcome: of the day.
        before: what is still true of its latest materialisation, if nothing was built (`content.kept`).
    """
    published = outcome.having(Status.SUCCESS)
    built = [item for item in published if item.built]
    kept = dict(before or {}) if not built else {}
    failed, quarantined = outcome.having(Status.FAILED), outcome.having(Status.QUARANTINE)
    rows = sum(item.rows for item in published)
    bytes_in = sum(item.bytes_in for item in published)
    bytes_out = sum(item.bytes_out for item in published)
    metadata: dict[str, Any] = {"summary": _summary(outcome)}
    if metadata["summary"] == NO_DATA:
        return {
            **metadata,
            "rows": 0,
            "dagster/row_count": 0,
            "dagster/partition_row_count": 0,
        }
    if failed:
        metadata["failed"] = _reasons(failed, "reason")
    if quarantined:
        metadata["quarantine"] = _reasons(quarantined, "part and reason")
    if any(item.widened for item in built):
        metadata["widened"] = _widened(built)
    if (found := findings_table(outcome.outcomes)) is not None:
        metadata["market data"] = found
    metadata |= {"rows": rows, "parts": sum(item.parts for item in published)}
    metadata |= _time_range(outcome, published)
    if built:
        metadata |= _picture(outcome, built)
    metadata |= {
        **kept,
        "symbol-day table": _table(outcome.outcomes),
        "symbol-days": len(outcome.outcomes),
        "symbol-days built": len(built),
        "symbol-days quarantined": len(quarantined),
        "bytes in": dg.MetadataValue.int(bytes_in),
        "bytes out": dg.MetadataValue.int(bytes_out),
    }
    if bytes_out:
        metadata["ratio"] = round(bytes_in / bytes_out, 2)
    metadata["seconds"] = round(outcome.seconds, 3)
    if built:
        metadata["rows/s"] = round(sum(item.rows for item in built) / outcome.seconds)
    metadata |= {
        "requests": sum(outcome.requests.values()),
        "requests by kind": dg.MetadataValue.json(
            {kind: number for kind, number in outcome.requests.items() if number}
        ),
        "dagster/row_count": rows,
        "dagster/partition_row_count": rows,
    }
    if built:
        metadata[SCHEMA] = _column_schema(outcome.pair, built)
    return metadata


def _picture(outcome: PairOutcome, built: Sequence[Outcome]) -> dict[str, Any]:
    # Imported here: NumPy and Pillow take a tenth of a run that finds everything up to date.
    from quantlab_dagster.defs.market.picture import draw_minutes, markdown_image  # noqa: PLC0415

    png = draw_minutes(f"{outcome.pair} on {outcome.day:%Y-%m-%d}", built)
    if png is None:
        return {}
    picture = markdown_image(png, f"Events per minute of {outcome.pair}", outcome.day)
    return {PICTURE: dg.MetadataValue.md(picture)}


def _summary(outcome: PairOutcome) -> str:
    """The day in one line."""
    if all(item.status is Status.NO_FILES for item in outcome.outcomes):
        return NO_DATA
    published = outcome.having(Status.SUCCESS)
    built = sum(item.built for item in published)
    counts = {
        "built": built,
        "as they were": len(published) - built,
        "quarantined": len(outcome.having(Status.QUARANTINE)),
        "skipped": len(outcome.having(Status.SKIPPED)),
        "failed": len(outcome.having(Status.FAILED)),
    }
    ended = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number) or "no symbol-days"
    bytes_in, bytes_out = (sum(getattr(item, name) for item in published) for name in ("bytes_in", "bytes_out"))
    return (
        f"{ended}: {sum(item.rows for item in published):,} rows of {sum(item.parts for item in published):,} parts, "
        f"{format_bytes(bytes_in)} → {format_bytes(bytes_out)}, {outcome.seconds:.1f} s"
    )


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
    # What needs attention comes first, in case the table is cut. Few and narrow columns: Dagster gives them half of the
    # window, and a wider table pushes the reasons out of sight.
    ordered = sorted(outcomes, key=lambda item: (item.status is Status.SUCCESS, item.symbol_day.symbol))
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "symbol": item.symbol_day.symbol,
                    "status": item.status.value,
                    "rows": item.rows,
                    "parts": item.parts,
                    "size": f"{_unbroken(item.bytes_in)} → {_unbroken(item.bytes_out)}",
                    "sec": round(item.seconds, 1),
                    "why": _why(item),
                }
            )
            for item in ordered[:_MOST_TABLE_ROWS]
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("symbol"),
                dg.TableColumn("status"),
                dg.TableColumn("rows", "int", description="Published now; 0 where nothing is."),
                dg.TableColumn("parts", "int", description="Raw parts listed."),
                dg.TableColumn("size", description="Of the raw parts, and of the published file."),
                dg.TableColumn("sec", "float", description="Without waiting for other symbol-days."),
                dg.TableColumn("why", description="Which revision was built, or why none was."),
            ]
        ),
    )


def _unbroken(size: int) -> str:
    """A size that a narrow column does not break in two."""
    return format_bytes(size).replace(" ", "\N{NO-BREAK SPACE}")


def _why(outcome: Outcome) -> str:
    if outcome.status in (Status.QUARANTINE, Status.FAILED):
        return "see above"  # long, and in a table of its own
    if not outcome.built:
        return outcome.reason
    first = outcome.revision == 1
    return "revision 1" if first else f"revision {outcome.revision}: {outcome.reason}"


def _reasons(outcomes: Sequence[Outcome], heading: str) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"symbol": item.symbol_day.symbol, heading: item.reason})
            for item in outcomes[:_MOST_TABLE_ROWS]
        ],
        schema=dg.TableSchema(columns=[dg.TableColumn("symbol"), dg.TableColumn(heading)]),
    )


def _widened(built: Sequence[Outcome]) -> dg.TableMetadataValue:
    rows = [(item.symbol_day.symbol, name, how) for item in built for name, how in item.widened.items()]
    return dg.MetadataValue.table(
        records=[dg.TableRecord({"symbol": symbol, "column": name, "types": how}) for symbol, name, how in rows][
            :_MOST_TABLE_ROWS
        ],
        schema=dg.TableSchema(columns=[dg.TableColumn(name) for name in ("symbol", "column", "types")]),
    )


def _column_schema(pair: Pair, built: Sequence[Outcome]) -> dg.TableSchema:
    """The columns of all symbol-days built; one whose dtype differs between them names all its dtypes."""
    texts = {column.name: column.text for column in columns_of(pair.stream, published=True)}
    dtypes: dict[str, list[str]] = {}
    for item in built:
        for name, dtype in item.columns.items():
            known = dtypes.setdefault(name, [])
            if dtype not in known:
                known.append(dtype)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, " or ".join(found), description=texts.get(name)) for name, found in dtypes.items()
        ]
    )
