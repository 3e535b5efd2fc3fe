"""What is watched of a symbol-day's rows, and what was seen of them: values without an engine."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantlab_dagster.market.stream_rules import StreamRules

__all__ = ["Seen", "Watched"]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is to be watched.

    Attributes:
        rules: of the stream.
        day: UTC day of the directory.
        column: that orders the rows.
        ticks: of it in a second; None where the unit is not known: then no time is judged.
    """

    rules: StreamRules
    day: dt.date
    column: str
    ticks: int | None

    @property
    def midnight(self) -> int | None:
        """Beginning of the day, in ticks."""
        if self.ticks is None:
            return None
        return round(dt.datetime.combine(self.day, dt.time(), dt.UTC).timestamp()) * self.ticks


@dataclass(frozen=True, slots=True)
class Seen:
    """What was counted in a symbol-day.

    Attributes:
        rows: that were looked at.
        gaps: silences above the limit: (first tick, ticks), the longest ones; None where they are not judged.
        gaps_number: how many there are.
        gaps_ticks: how long they are together.
        repeated: rows that are equal to another one in every column.
        crossed: rows whose bid is above their ask; None without such columns.
        not_positive: by column, values that are 0, negative or no number.
        ids_missing: ids between the first and the last that no row has; None where they are no whole numbers.
        ids_jumps: places where ids are missing.
        ids_repeated: rows with an id that another row of the same instant has; None without ids.
        early: rows received before their event, by more than the bound; None where that is not judged.
        earliest_ticks: by how much at most.
        before: rows of the day before; None where the unit is not known.
        after: rows of the day after.
        problem: why not everything was looked at; empty if it was.
    """

    rows: int = 0
    gaps: tuple[tuple[int, int], ...] | None = None
    gaps_number: int = 0
    gaps_ticks: int = 0
    repeated: int = 0
    crossed: int | None = None
    not_positive: tuple[tuple[str, int], ...] = ()
    ids_missing: int | None = None
    ids_jumps: int = 0
    ids_repeated: int | None = None
    early: int | None = None
    earliest_ticks: int = 0
    before: int | None = None
    after: int | None = None
    problem: str = ""
