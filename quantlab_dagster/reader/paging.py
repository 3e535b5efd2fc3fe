"""Paging through a day by a cursor of (`ts_event`, `seq`), bound to the SHA-256 of what it is a cursor of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from quantlab_dagster.errors import PathError
from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.reader.errors import REPAIR, CursorError, DayMisordered, DayRebuilt, unknown_column
from quantlab_dagster.reader.files import KEY, SEQ

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from quantlab_dagster.reader.files import DayFile

__all__ = ["ON_REBUILT", "Cursor", "OnRebuilt", "Page", "read_page"]

OnRebuilt = Literal["refuse", "restart"]
ON_REBUILT: tuple[str, ...] = get_args(OnRebuilt)

_TEXT = re.compile(r"(?P<day>.+/\d{8})@(?P<ts_event>-?\d+):(?P<seq>\d+)@(?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a day: just behind a row.

    Attributes:
        symbol_day: of which day.
        ts_event: of that row.
        seq: of that row.
        sha256: of the data.parquet that it was read from.
    """

    symbol_day: SymbolDay
    ts_event: int
    seq: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.symbol_day}@{self.ts_event}:{self.seq}@{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor of its text.

        Raises:
            CursorError: it is none.
        """
        match = _TEXT.fullmatch(text)
        unusable = CursorError(repr(text), "is no cursor", "Keep str(page.cursor) as it is")
        if match is None:
            raise unusable
        try:
            day = SymbolDay.of_state_key(match["day"])
        except PathError as error:
            raise unusable from error
        return cls(day, int(match["ts_event"]), int(match["seq"]), match["sha256"])


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a day, one after the other.

    Attributes:
        rows: not more than asked for; empty at the end.
        cursor: behind the last of them; None for a day without rows.
        is_last: whether the day ends here.
        restarted: whether this is the first page again, because the day was rebuilt.
    """

    rows: pl.DataFrame
    cursor: Cursor | None
    is_last: bool
    restarted: bool = False


def read_page(
    file: DayFile,
    symbol_day: SymbolDay,
    sha256: str,
    *,
    after: Cursor | None,
    limit: int,
    columns: Sequence[str] | None,
    on_rebuilt: OnRebuilt,
    name: str,
) -> Page:
    """The next rows behind a cursor.

    Args:
        file: the day's data.
        symbol_day: which day.
        sha256: of the data.
        after: where to go on; None for the beginning.
        limit: so many rows at most.
        columns: only these; None for all.
        on_rebuilt: what to do where the cursor is of other content.
        name: of the data, for people.

    Raises:
        CursorError: the cursor is of another day, or of no row of this one.
        DayRebuilt: it is of other content, and that is to be refused.
        DayMisordered: the rows are not numbered from 0 on.
        ColumnsDiffer: the day has no such column.
    """
    if limit < 1:
        raise CursorError(f"limit {limit}", "brings no rows", "Ask for one or more")
    if after is not None and after.symbol_day != symbol_day:
        raise CursorError(str(after), f"is no cursor of {symbol_day}", "Page through each day with cursors of its own")
    _check_columns(file.footer.schema, columns or (), name)
    restarted = after is not None and after.sha256 != sha256
    if after is not None and restarted:
        if on_rebuilt == "refuse":
            cause = f"was rebuilt since the cursor was taken (sha256 {sha256[:12]}…, the cursor's {after.sha256[:12]}…)"
            remedy = 'Begin this day again, without a cursor or with on_rebuilt="restart": late rows renumber seq'
            raise DayRebuilt(name, cause, remedy)
        after = None
    start = 0 if after is None else after.seq  # the row of the cursor is read, too, and must be it
    wanted = None if columns is None else list(dict.fromkeys([*columns, KEY, SEQ]))
    frame = file.rows(start, limit + (after is not None), wanted)
    if after is not None:
        if frame.is_empty() or (frame[KEY][0], frame[SEQ][0]) != (after.ts_event, after.seq):
            raise CursorError(str(after), f"is of no row of {name}", "Begin this day again, without a cursor")
        frame = frame[1:]
        start += 1
    _check(frame, start, name)
    end = start + frame.height
    cursor = after
    if frame.height:
        cursor = Cursor(symbol_day, frame[KEY][-1], frame[SEQ][-1], sha256)
    rows = frame if columns is None else frame.select(columns)
    return Page(rows, cursor, end >= file.footer.rows, restarted)


def _check_columns(schema: pl.Schema, columns: Sequence[str], name: str) -> None:
    if SEQ not in schema:
        raise DayMisordered(name, f"has no column {SEQ}, by which its rows are numbered", REPAIR)
    for column in columns:
        if column not in schema:
            raise unknown_column(column, schema)


def _check(frame: pl.DataFrame, start: int, name: str) -> None:
    """That rows are numbered by their index, and in order: a day of other software may not be."""
    numbers = frame[SEQ]
    numbered = frame.is_empty() or (numbers[0] == start and (numbers.diff().drop_nulls() == 1).all())
    if not numbered or not frame[KEY].is_sorted():
        cause = "its rows are not in the order of (ts_event, seq), numbered from 0 on"
        raise DayMisordered(name, cause, REPAIR)
