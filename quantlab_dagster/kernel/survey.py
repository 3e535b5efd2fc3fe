"""The first look at a day: footers, the order column of every part, and the columns that seem to be constant.

They are read rather than taken from statistics, which may be missing, cut short or wrong: a file that lies about them
would put rows into the wrong window. The order column costs about a tenth of the merge; labels that prove constant
cost nothing, because the merge need not decode them again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from quantlab_dagster.errors import NullOrder
from quantlab_dagster.kernel.checksums import verify_pages
from quantlab_dagster.kernel.columns import SEQ, Columns, ConstantValue, may_be_constant, unite
from quantlab_dagster.kernel.frames import POSITION, UNREADABLE, blame, scan
from quantlab_dagster.kernel.parts import Footer, FooterReader
from quantlab_dagster.kernel.terms import DEFAULT_BUDGET_BYTES, Order, Part

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Order", "Survey", "Surveyor"]

Int64Array = np.ndarray[tuple[int], np.dtype[np.int64]]

# Parts are read in runs of about this many rows, so that the order column of a huge day is never held at once.
_ROWS_PER_SCAN = 1 << 18
# The first rows tell which columns may be constant at all; text longer than this is no label.
_FIRST_ROWS = 1 << 10
_LABEL_BYTES = 64
_INT64_MIN = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Survey:
    """What the merge must know of a day before it decodes it. Arrays have one entry per part, in key order.

    Attributes:
        order: the order asked for.
        parts: all parts, those without rows included.
        footers: one per part.
        columns: the united columns.
        rows: rows per part.
        first_positions: position of each part's first row in the day.
        minima: least value of the order column per part; meaningless where the part has no rows.
        maxima: greatest value of the order column per part.
        sample_keys: order values of evenly ranked rows: their quantiles are near the day's quantiles.
        sample_positions: the positions of the same rows.
    """

    order: Order
    parts: tuple[Part, ...]
    footers: tuple[Footer, ...]
    columns: Columns
    rows: Int64Array
    first_positions: Int64Array
    minima: Int64Array
    maxima: Int64Array
    sample_keys: Int64Array
    sample_positions: Int64Array

    @property
    def total_rows(self) -> int:
        """Rows of the day."""
        return int(self.rows.sum())

    @property
    def total_bytes(self) -> int:
        """Compressed bytes of all parts."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def key_range(self) -> tuple[int, int] | None:
        """Least and greatest value of the order column, or None without rows."""
        filled = self.rows > 0
        if not filled.any():
            return None
        return int(self.minima[filled].min()), int(self.maxima[filled].max())


@dataclass(slots=True)
class Surveyor:
    """Surveys parts as they arrive, in key order, so that it can run while later parts are still being fetched.

    Args:
        order: the order asked for.
        stride: one row in so many of each run of parts goes into the sample.
        budget_bytes: what a row group may take when it is decoded.
    """

    order: Order
    stride: int = 512
    budget_bytes: int = DEFAULT_BUDGET_BYTES
    _footers: FooterReader = field(init=False)
    _parts: list[Part] = field(default_factory=list)
    _part_footers: list[Footer] = field(default_factory=list)
    _ranges: list[tuple[int, int]] = field(default_factory=list)
    _samples: list[pl.DataFrame] = field(default_factory=list)
    _constants: dict[str, ConstantValue] | None = None
    _scanned_parts: int = 0
    _scanned_rows: int = 0
    _pending_rows: int = 0

    def __post_init__(self) -> None:
        self._footers = FooterReader(self.budget_bytes)

    def add(self, parts: Iterable[Part]) -> None:
        """Survey more parts, whose keys follow those before.

        Raises:
            CorruptPart: a part cannot be read, declares too much, or has a page that is not what its checksum says.
            SchemaConflict: a part lacks the order column, or has one of an unfitting type.
            NullOrder: a part has a null in the order column.
        """
        for part in parts:
            footer = self._footers.read(part)
            verify_pages(part)
            if footer.rows > _ROWS_PER_SCAN:
                self._scan_pending()
            self._parts.append(part)
            self._part_footers.append(footer)
            self._pending_rows += footer.rows
            if self._pending_rows >= _ROWS_PER_SCAN:
                self._scan_pending()

    def finish(self) -> Survey:
        """The survey of all parts added.

        Raises:
            SchemaConflict: the parts' schemas cannot be united.
        """
        self._scan_pending()
        reserved = frozenset({SEQ}) if self.order.numbered else frozenset()
        rows = np.array([footer.rows for footer in self._part_footers], dtype=np.int64)
        ranges = np.array(self._ranges, dtype=np.int64).reshape(-1, 2)
        empty = pl.DataFrame(schema={"key": pl.Int64, POSITION: pl.Int64})
        samples = pl.concat([empty, *self._samples]).sort("key", POSITION)
        return Survey(
            order=self.order,
            parts=tuple(self._parts),
            footers=tuple(self._part_footers),
            columns=unite(
                self._parts, self._part_footers, self.order.column, constants=self._constants, reserved=reserved
            ),
            rows=rows,
            first_positions=np.cumsum(rows) - rows,
            minima=ranges[:, 0],
            maxima=ranges[:, 1],
            sample_keys=samples["key"].to_numpy(),
            sample_positions=samples[POSITION].to_numpy(),
        )

    def _scan_pending(self) -> None:
        """Read the order column of the parts not yet scanned."""
        parts = self._parts[self._scanned_parts :]
        footers = self._part_footers[self._scanned_parts :]
        self._scanned_parts, self._pending_rows = len(self._parts), 0
        if not parts:
            return
        # Fails early, and names the culprit, where the order column is missing or no integer.
        columns = unite(parts, footers, self.order.column)
        filled = [(part, footer) for part, footer in zip(parts, footers, strict=True) if footer.rows]
        if len(filled) == 1:
            ranges = iter([self._scan_slices(*filled[0], columns)])
        else:
            ranges = iter(self._scan_together(filled, columns))
        self._ranges += [next(ranges) if footer.rows else (0, 0) for footer in footers]

    def _scan_together(self, filled: list[tuple[Part, Footer]], columns: Columns) -> list[tuple[int, int]]:
        if not filled:
            return []
        rows = _rows(filled)
        lazy = scan([part for part, _ in filled], columns.dtypes, columns.helper(POSITION))
        keys = self._order_values(filled, lazy, columns, int(rows.sum()))
        starts = np.cumsum(rows) - rows
        values = keys.to_numpy()
        return list(
            zip(np.minimum.reduceat(values, starts).tolist(), np.maximum.reduceat(values, starts).tolist(), strict=True)
        )

    def _scan_slices(self, part: Part, footer: Footer, columns: Columns) -> tuple[int, int]:
        lows, highs = [], []
        for offset, length in footer.slices(_ROWS_PER_SCAN):
            lazy = scan([part], columns.dtypes, columns.helper(POSITION)).slice(offset, length)
            keys = self._order_values([(part, footer)], lazy, columns, length)
            lows.append(int(keys.min()))  # type: ignore[arg-type]  # integers, and none of them null
            highs.append(int(keys.max()))  # type: ignore[arg-type]
        return min(lows), max(highs)

    def _order_values(
        self, filled: list[tuple[Part, Footer]], lazy: pl.LazyFrame, columns: Columns, expected_rows: int
    ) -> pl.Series:
        """The order column of these parts, without nulls; adds its evenly ranked rows to the sample."""
        parts = [part for part, _ in filled]
        rows = _rows(filled)
        try:
            if self._constants is None:
                self._constants = _same_everywhere(lazy.head(_FIRST_ROWS).collect(engine="streaming"), columns)
            kept = [name for name in self._constants if name in columns.dtypes]
            frame = lazy.select(columns.order_by, *kept).collect(engine="streaming")
        except UNREADABLE as error:
            raise blame(parts, rows, columns, error) from error
        if frame.height != expected_rows:
            cause = f"{frame.height} rows were decoded where the footers declare {expected_rows}"
            raise blame(parts, rows, columns, cause)
        self._constants = {name: self._constants[name] for name in kept if _holds(frame[name], self._constants[name])}
        values = frame[columns.order_by].cast(pl.Int64)
        if values.null_count():
            if not self.order.nulls_first:
                first_null = int(values.is_null().arg_true()[0])
                culprit = int(np.searchsorted(np.cumsum(rows), first_null, side="right"))
                raise NullOrder(parts[culprit].key, f"column {columns.order_by!r} has null values")
            values = values.fill_null(_INT64_MIN)
        positions = pl.int_range(self._scanned_rows, self._scanned_rows + len(values), dtype=pl.Int64, eager=True)
        frame = pl.DataFrame({"key": values, POSITION: positions}).sort("key", maintain_order=True)
        self._samples.append(frame.gather_every(self.stride, self.stride // 2))
        self._scanned_rows += len(values)
        return values


def _rows(filled: list[tuple[Part, Footer]]) -> Int64Array:
    return np.array([footer.rows for _, footer in filled], dtype=np.int64)


def _same_everywhere(frame: pl.DataFrame, columns: Columns) -> dict[str, ConstantValue]:
    """The columns that hold one short value in all these rows, the order column excepted."""
    found: dict[str, ConstantValue] = {}
    for name, dtype in columns.dtypes.items():
        if name == columns.order_by or not may_be_constant(dtype) or not frame.height:
            continue
        value = frame[name][0]
        short = not isinstance(value, str) or len(value.encode()) <= _LABEL_BYTES
        if value is not None and short and _holds(frame[name], value):
            found[name] = value
    return found


def _holds(column: pl.Series, value: ConstantValue) -> bool:
    # Not as a Series of the column's dtype, into which a value of a wider one need not fit.
    return not column.null_count() and column.min() == value == column.max()
