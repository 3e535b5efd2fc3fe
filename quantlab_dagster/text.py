"""How symbol-days, hours and sizes are put into words, the same in logs, metadata and on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.days.compact import Status
from quantlab_dagster.days.plan import Action
from quantlab_dagster.hours.compact import HourStatus
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from quantlab_dagster.days.compact import Outcome
    from quantlab_dagster.hours.compact import HourOutcome

__all__ = ["format_bytes", "hour_line", "line"]


def format_bytes(size: float) -> str:
    """A size for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def line(outcome: Outcome) -> str:
    """One line on a symbol-day: parts merged, bytes in and out, rows, time, and how it ended."""
    if outcome.built:
        return (
            f"{outcome.symbol_day}: {outcome.parts:,} parts, {format_bytes(outcome.raw_bytes)} → "
            f"{format_bytes(outcome.data_bytes)}, {outcome.rows:,} rows, {outcome.seconds:.2f} s, "
            f"published as revision {outcome.revision}"
        )
    if outcome.status is Status.SUCCESS:
        verb = "kept" if outcome.action is Action.KEEP else "up to date"
        return f"{outcome.symbol_day}: {verb}, {outcome.rows:,} rows ({outcome.reason})"
    if outcome.status is Status.NO_FILES:
        return f"{outcome.symbol_day}: no raw parts"
    word = "QUARANTINED" if outcome.status is Status.QUARANTINE else "FAILED"
    return f"{outcome.symbol_day}: {word}: {outcome.reason}"


def hour_line(outcome: HourOutcome) -> str:
    """One line on an hour: files merged, bytes in and out, rows, time, and how it ended."""
    text = f"{outcome.partition}: "
    if outcome.replacements:
        outputs = len(outcome.replacements)
        recovered = sum(item.recovered for item in outcome.replacements)
        text += (
            f"{outcome.total('files'):,} files → {outputs:,}, {format_bytes(outcome.total('bytes_in'))} → "
            f"{format_bytes(outcome.total('bytes_out'))}, {outcome.total('rows'):,} rows, {outcome.seconds:.2f} s"
        )
        text += f", {recovered} of them left by another run" if recovered else ""
    if outcome.status is HourStatus.FAILED:
        text += f"{'; then ' if outcome.replacements else ''}FAILED: {outcome.reason}"
    elif outcome.reason:
        text += f"{'; ' if outcome.replacements else ''}{outcome.status.value} ({outcome.reason})"
    kept = sum(len(item.kept) for item in outcome.replacements)
    text += f"; changed files kept: {kept}" if kept else ""
    corrupt = name_some([item.name for item in outcome.corrupt], 3)
    return text + (f"; CORRUPT, left in place: {corrupt}" if corrupt else "")
