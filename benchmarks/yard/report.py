"""Tables of what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.yard.contest import Standing
    from benchmarks.yard.data import Dataset

__all__ = ["table"]

_HEAD = (
    "| | wall | ÷ limit | ÷ Polars | CPU | of the cores | peak memory | output | ÷ Polars | checked |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def table(data: Dataset, standings: Sequence[Standing]) -> str:
    """One data set as a table in Markdown."""
    shape = data.shape
    lines = [
        f"### {data.size}, {data.kind}: {shape.days} x {shape.parts:,} parts, {shape.rows:,} rows each",
        "",
        *_HEAD,
    ]
    by_name = {one.competitor.name: one for one in standings}
    for one in standings:
        if not one.runs:
            lines.append(f"| {one.competitor.label} | {one.error} | | | | | | | | |")
            continue
        busy = one.cpu_seconds / one.seconds
        cells = [
            one.competitor.label,
            f"{one.seconds:.2f} s",
            _ratio(one.seconds, _seconds(by_name.get("limit"))),
            _ratio(one.seconds, _seconds(by_name.get("polars"))),
            f"{one.cpu_seconds:.2f} s",
            f"{busy:.2f}",
            f"{one.peak_mib:,.0f} MiB",
            f"{one.size_bytes / 1e6:,.1f} MB",
            _ratio(one.size_bytes, by_name["polars"].size_bytes if "polars" in by_name else 0),
            _checked(one),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _seconds(one: Standing | None) -> float:
    return one.seconds if one is not None and one.runs else 0


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base else ""


def _checked(one: Standing) -> str:
    if one.wrong:
        return f"**wrong**: {one.wrong}"
    if one.verdict is None:
        return ""
    if not one.competitor.ordered:
        return "rows right, not sorted"
    return "right, ties exact" if one.verdict.exact else "right, ties in another order"
