"""What the materialisation of an hour says, and the run that did it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from quantlab_dagster.warehouse.outcome import HourStatus, hour_line
from quantlab_dagster.work.wording import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantlab_dagster.warehouse.outcome import HourOutcome
    from quantlab_dagster.warehouse.sweep import Sweep

__all__ = ["describe_hour", "describe_sweep"]

_MOST_TABLE_ROWS = 500


def describe_hour(outcomes: Sequence[HourOutcome]) -> dict[str, Any]:
    """Metadata of one hour, over its apps. Numbers stay numbers, because the pages plot them over the hours."""
    metadata: dict[str, Any] = {"summary": _summary(outcomes)}
    corrupt = [(item.partition.app, bad) for item in outcomes for bad in item.corrupt]
    if corrupt:
        metadata["corrupt files"] = dg.MetadataValue.table(
            records=[
                dg.TableRecord({"app": app, "file": bad.name, "why it stays": bad.reason})
                for app, bad in corrupt[:_MOST_TABLE_ROWS]
            ],
            schema=dg.TableSchema(columns=[dg.TableColumn(name) for name in ("app", "file", "why it stays")]),
        )
    metadata |= _totals(outcomes)
    if outcomes:
        metadata["apps"] = _table(outcomes, "app", lambda item: item.partition.app)
    return metadata


def describe_sweep(done: Sweep) -> dict[str, Any]:
    """Metadata of a whole run: the counters, and what needs attention."""
    metadata: dict[str, Any] = {"summary": _summary(done.outcomes)}
    metadata |= {
        "hours looked at": done.looked_at,
        "hours compacted": len(done.having(HourStatus.COMPACTED)),
        "hours skipped": max(0, done.looked_at - done.left - len(done.outcomes))
        + len(done.having(HourStatus.UNTOUCHED))
        + len(done.having(HourStatus.BUSY)),
        "hours failed": len(done.having(HourStatus.FAILED)),
        "hours left for the next run": done.left,
    }
    metadata |= _totals(done.outcomes)
    metadata["seconds"] = round(done.seconds, 3)
    metadata["requests"] = sum(done.requests.values())
    metadata["requests by kind"] = dg.MetadataValue.json({kind: n for kind, n in done.requests.items() if n})
    metadata["hours"] = _table(done.outcomes, "hour", lambda item: str(item.partition))
    return metadata


def _summary(outcomes: Sequence[HourOutcome]) -> str:
    if len(outcomes) == 1:
        return hour_line(outcomes[0])
    files, outputs = sum(item.total("inputs") for item in outcomes), sum(len(item.replacements) for item in outcomes)
    if not files:
        return "nothing to merge"
    bytes_in, bytes_out = (sum(item.total(name) for item in outcomes) for name in ("bytes_in", "bytes_out"))
    rows = sum(item.total("rows") for item in outcomes)
    return f"{files:,} files → {outputs:,}, {format_bytes(bytes_in)} → {format_bytes(bytes_out)}, {rows:,} rows"


def _totals(outcomes: Sequence[HourOutcome]) -> dict[str, Any]:
    replacements = [item for outcome in outcomes for item in outcome.replacements]
    return {
        "rows": sum(item.rows for item in replacements),
        "files merged": sum(item.inputs for item in replacements),
        "files written": len(replacements),
        "bytes in": dg.MetadataValue.int(sum(item.bytes_in for item in replacements)),
        "bytes out": dg.MetadataValue.int(sum(item.bytes_out for item in replacements)),
        "files left": sum(outcome.files_left for outcome in outcomes),
        "corrupt": sum(len(outcome.corrupt) for outcome in outcomes),
        "changed inputs kept": sum(len(item.kept) for item in replacements),
        "plans recovered": sum(item.recovered for item in replacements),
        "rows seen twice (s)": round(max((item.doubled_seconds for item in replacements), default=0.0), 3),
    }


def _table(outcomes: Sequence[HourOutcome], heading: str, name: Callable[[HourOutcome], str]) -> dg.TableMetadataValue:
    good = (HourStatus.COMPACTED, HourStatus.UNTOUCHED)
    # What needs attention comes first, in case the table is cut.
    ordered = sorted(outcomes, key=lambda item: (item.status in good, not item.corrupt, item.partition))
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    heading: name(item),
                    "status": item.status.value,
                    "files": f"{item.total('inputs')} → {len(item.replacements)}",
                    "rows": item.total("rows"),
                    "size": f"{format_bytes(item.total('bytes_in'))} → {format_bytes(item.total('bytes_out'))}",
                    "sec": round(item.seconds, 1),
                    "why": item.reason,
                }
            )
            for item in ordered[:_MOST_TABLE_ROWS]
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn(heading),
                dg.TableColumn("status"),
                dg.TableColumn("files", description="Merged, and written."),
                dg.TableColumn("rows", "int"),
                dg.TableColumn("size", description="Of the files merged, and of those written."),
                dg.TableColumn("sec", "float"),
                dg.TableColumn("why"),
            ]
        ),
    )
