"""How the work on an hour of the event lake ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from quantlab_dagster.work.wording import format_bytes, name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.warehouse import AppHour
    from quantlab_dagster.warehouse.slot import Corrupt

__all__ = ["HourListener", "HourOutcome", "HourStatus", "Replacement", "hour_line", "undone"]


class HourStatus(StrEnum):
    """How the work on a partition ended."""

    COMPACTED = "compacted"
    UNTOUCHED = "untouched"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Replacement:
    """One output that took the place of its inputs.

    Attributes:
        output: its name.
        inputs: how many it replaced.
        bytes_in: of the inputs.
        bytes_out: of the output.
        rows: in it.
        doubled_seconds: how long a reader that lists the partition may have seen its rows twice; where it was tried
            more than once, from the first time on.
        kept: inputs that had changed meanwhile and were left alone.
        recovered: whether the plan was found, rather than made just now.
    """

    output: str
    inputs: int
    bytes_in: int
    bytes_out: int
    rows: int
    doubled_seconds: float
    kept: tuple[str, ...] = ()
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class HourOutcome:
    """How the work on one partition ended.

    Attributes:
        partition: which.
        status: how.
        reason: why, for people, where it is not simply compacted.
        error: class name of the error that made it fail, empty otherwise.
        replacements: what was replaced, also before a failure.
        corrupt: files that cannot be merged, and stay.
        waiting: files that unite with no other, and stay until one comes.
        files_left: event files that are there now, as far as known.
        seconds: wall-clock time.
        withheld: why its files may not be read, so that it is left out; empty if they may.
    """

    partition: AppHour
    status: HourStatus
    reason: str = ""
    error: str = ""
    replacements: tuple[Replacement, ...] = ()
    corrupt: tuple[Corrupt, ...] = ()
    files_left: int = 0
    seconds: float = 0.0
    withheld: str = ""
    waiting: tuple[Corrupt, ...] = ()

    def then(self, later: HourOutcome) -> HourOutcome:
        """How the work ended that was tried once more: as it did then, with what was replaced before."""
        status = later.status
        if status is HourStatus.UNTOUCHED and self.replacements:
            status = HourStatus.COMPACTED
        return replace(
            later,
            status=status,
            replacements=self.replacements + later.replacements,
            seconds=self.seconds + later.seconds,
        )

    def total(self, name: str) -> int:
        """Sum of an attribute over the replacements."""
        return sum(getattr(item, name) for item in self.replacements)


def undone(outcomes: Iterable[HourOutcome]) -> list[HourOutcome]:
    """Those after which their hour is not done: they failed, may not be read, or another compactor is still at work.

    An hour is done if nothing of it is undone, whichever of its apps needed work, and also if none did.
    """
    open_ = (HourStatus.FAILED, HourStatus.BUSY)
    return [outcome for outcome in outcomes if outcome.status in open_ or outcome.withheld]


class HourListener(Protocol):
    """Is told how the work goes, always from the thread of the event loop."""

    def found(self, partitions: Sequence[AppHour]) -> None:
        """These partitions need work, and are going to get it."""

    def finished(self, outcome: HourOutcome) -> None:
        """The work on a partition has ended."""


def hour_line(outcome: HourOutcome) -> str:
    """One line on an hour: files merged, bytes in and out, rows, time, and how it ended."""
    text = f"{outcome.partition.told}: "
    if outcome.replacements:
        outputs = len(outcome.replacements)
        recovered = sum(item.recovered for item in outcome.replacements)
        text += (
            f"{outcome.total('inputs'):,} files → {outputs:,}, {format_bytes(outcome.total('bytes_in'))} → "
            f"{format_bytes(outcome.total('bytes_out'))}, {outcome.total('rows'):,} rows, {outcome.seconds:.2f} s"
        )
        text += f", {recovered} of them left by another run" if recovered else ""
    if outcome.status is HourStatus.FAILED:
        text += f"{'; then ' if outcome.replacements else ''}FAILED: {outcome.reason}"
    elif outcome.reason:
        text += f"{'; ' if outcome.replacements else ''}{outcome.status.value} ({outcome.reason})"
    kept = sum(len(item.kept) for item in outcome.replacements)
    text += f"; changed files kept: {kept}" if kept else ""
    waiting = name_some([item.name for item in outcome.waiting], 3)
    text += f"; alone of their kind: {waiting}" if waiting else ""
    corrupt = name_some([item.name for item in outcome.corrupt], 3)
    return text + (f"; CORRUPT, left in place: {corrupt}" if corrupt else "")
