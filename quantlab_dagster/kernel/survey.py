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
import polars.selectors as cs

from quantlab_dagster.errors import NullOrder, SchemaConflict
from quantlab_dagster.kernel.checksums import verify_pages
from quantlab_dagster.kernel.columns import SEQ, Columns, ConstantValue, may_be_constant, unite
from quantlab_dagster.kernel.frames import POSITION, UNREADABLE, blame, read_parts, scan
from quantlab_dagster.kernel.parts import Footer, FooterReader, readable, sound_copies
from quantlab_dagster.kernel.terms import DEFAULT_BUDGET_BYTES, Order, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["KEPT_SHARE", "Order", "Survey", "Surveyor"]

KEPT_SHARE = 4
"""What was decoded is kept if it takes no more than one byte in so many of the budget."""

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
        decoded: all rows, as `read_parts` has them, where they were few enough to be kept; else None.
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
    decoded: pl.DataFrame | None = None

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
        total_bytes: compressed size of all parts that will come, as far as it is known.
        kept_elsewhere: how many decoded bytes others keep at the moment, out of the same budget.
    """

    order: Order
    stride: int = 512
    budget_bytes: int = DEFAULT_BUDGET_BYTES
    total_bytes: int = 0
    kept_elsewhere: Callable[[], int] = lambda: 0
    _footers: FooterReader = field(init=False)
    _parts: list[Part] = field(default_factory=list)
    _part_footers: list[Footer] = field(default_factory=list)
    _ranges: list[tuple[int, int]] = field(default_factory=list)
    _samples: list[pl.DataFrame] = field(default_factory=list)
    _constants: dict[str, ConstantValue] | None = None
    _scanned_parts: int = 0
    _scanned_rows: int = 0
    _pending_rows: int = 0
    _kept: list[pl.DataFrame] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        self._footers = FooterReader(self.order.column, self.budget_bytes)

    def add(self, parts: Iterable[Part]) -> None:
        """Survey more parts, whose keys follow those before.

        Raises:
            CorruptPart: a part cannot be read, declares too much, or has a page that is not what its checksum says.
            SchemaConflict: a part lacks the order column, or has one of an unfitting type or with a value of more than
                63 bits; or it has a column that cannot be given back as it is.
            NullOrder: a part has a null in the order column.
        """
        with sound_copies(self._parts, always=False):
            for part in parts:
                footer = self._footers.read(part)
                verify_pages(part)
                if footer.rows > _ROWS_PER_SCAN:
                    self._scan_pending()
                self._parts.append(readable(part, footer.layout))
                self._part_footers.append(footer)
                self._pending_rows += footer.rows
                if self._pending_rows >= _ROWS_PER_SCAN:
                    self._scan_pending()

    @property
    def kept_bytes(self) -> int:
        """How many decoded bytes are kept."""
        return int(sum(kept.estimated_size() for kept in self._kept or ()))

    def finish(self) -> Survey:
        """The survey of all parts added.

        Raises:
            SchemaConflict: the parts' schemas cannot be united.
        """
        with sound_copies(self._parts, always=False):
            self._scan_pending()
        reserved = frozenset({SEQ}) if self.order.numbered else frozenset()
        rows = np.array([footer.rows for footer in self._part_footers], dtype=np.int64)
        ranges = np.array(self._ranges, dtype=np.int64).reshape(-1, 2)
        empty = pl.DataFrame(schema={"key": pl.Int64, POSITION: pl.Int64})
        samples = pl.concat([empty, *self._samples]).sort("key", POSITION)
        columns = unite(
            self._parts,
            self._part_footers,
            self.order.column,
            constants=self._constants,
            reserved=reserved,
            rename=self.order.rename,
        )
        return Survey(
            order=self.order,
            parts=tuple(self._parts),
            footers=tuple(self._part_footers),
            columns=columns,
            rows=rows,
            first_positions=np.cumsum(rows) - rows,
            minima=ranges[:, 0],
            maxima=ranges[:, 1],
            sample_keys=samples["key"].to_numpy(),
            sample_positions=samples[POSITION].to_numpy(),
            decoded=self._decoded(columns),
        )

    def _scan_pending(self) -> None:
        """Read the order column of the parts not yet scanned."""
        parts = self._parts[self._scanned_parts :]
        footers = self._part_footers[self._scanned_parts :]
        self._scanned_parts, self._pending_rows = len(self._parts), 0
        if not parts:
            return
        # Fails early, and names the culprit, where the order column is missing or no integer.
        columns = unite(parts, footers, self.order.column, rename=self.order.rename)
        filled = [(part, footer) for part, footer in zip(parts, footers, strict=True) if footer.rows]
        if len(filled) == 1 and filled[0][1].rows > _ROWS_PER_SCAN:
            self._kept = None
            ranges = iter([self._scan_slices(*filled[0], columns)])
        else:
            ranges = iter(self._scan_together(filled, columns))
        self._ranges += [next(ranges) if footer.rows else (0, 0) for footer in footers]

    def _decoded(self, columns: Columns) -> pl.DataFrame | None:
        """What was kept, if it is what would be decoded again."""
        wanted = {**{name: columns.dtypes[name] for name in columns.varying}, columns.helper(POSITION): pl.Int64()}
        if not self._kept or any(wanted.items() - frame.schema.items() for frame in self._kept):
            return None
        return pl.concat([frame.select(cs.by_name(*wanted)) for frame in self._kept], rechunk=False)

    def _scan_together(self, filled: list[tuple[Part, Footer]], columns: Columns) -> list[tuple[int, int]]:
        if not filled:
            return []
        rows = _rows(filled)
        keys = self._kept_order_values(filled, columns)
        if keys is None:
            lazy = scan([part for part, _ in filled], columns, columns.helper(POSITION))
            keys = self._order_values(filled, lazy, columns, int(rows.sum()))
        starts = np.cumsum(rows) - rows
        values = keys.to_numpy()
        return list(
            zip(np.minimum.reduceat(values, starts).tolist(), np.maximum.reduceat(values, starts).tolist(), strict=True)
        )

    def _scan_slices(self, part: Part, footer: Footer, columns: Columns) -> tuple[int, int]:
        lows, highs = [], []
        for offset, length in footer.slices(_ROWS_PER_SCAN):
            lazy = scan([part], columns, columns.helper(POSITION)).slice(offset, length)
            keys = self._order_values([(part, footer)], lazy, columns, length)
            lows.append(int(keys.min()))  # type: ignore[arg-type]  # integers, and none of them null
            highs.append(int(keys.max()))  # type: ignore[arg-type]
        return min(lows), max(highs)

    def _kept_order_values(self, filled: list[tuple[Part, Footer]], columns: Columns) -> pl.Series | None:
        """The order column of these parts, decoded with all others, which are kept; None where they are too many."""
        scanned = sum(part.size_bytes for part in self._parts[: self._scanned_parts])
        if self._kept is None or not self._fits(sum(footer.uncompressed_bytes for _, footer in filled), scanned):
            self._kept = None
            return None
        rows = _rows(filled)
        first_positions = self._scanned_rows + np.cumsum(rows) - rows
        frame = read_parts([part for part, _ in filled], columns, first_positions, rows)
        self._kept.append(frame)
        if not self._fits(self.kept_bytes, scanned):
            self._kept = None  # the next ones will not be tried
        if self._constants is None:
            self._constants = _same_everywhere(frame.head(_FIRST_ROWS), columns)
        return self._seen(filled, frame, columns)

    def _fits(self, decoded_bytes: int, scanned_bytes: int) -> bool:
        """Whether all parts may be kept, if those that were scanned take so much."""
        expected = decoded_bytes * max(1, self.total_bytes / max(1, scanned_bytes))
        return expected + self.kept_elsewhere() <= self.budget_bytes // KEPT_SHARE

    def _order_values(
        self, filled: list[tuple[Part, Footer]], lazy: pl.LazyFrame, columns: Columns, expected_rows: int
    ) -> pl.Series:
        """The order column of these parts; raises and does as `_seen`."""
        parts = [part for part, _ in filled]
        rows = _rows(filled)
        try:
            if self._constants is None:
                self._constants = _same_everywhere(lazy.head(_FIRST_ROWS).collect(engine="streaming"), columns)
            kept = [name for name in self._constants if name in columns.dtypes]
            frame = lazy.select(cs.by_name(columns.order_by, *kept)).collect(engine="streaming")
        except UNREADABLE as error:
            raise blame(parts, rows, columns, error) from error
        if frame.height != expected_rows:
            cause = f"{frame.height} rows were decoded where the footers declare {expected_rows}"
            raise blame(parts, rows, columns, cause)
        return self._seen(filled, frame, columns)

    def _seen(self, filled: list[tuple[Part, Footer]], frame: pl.DataFrame, columns: Columns) -> pl.Series:
        """The order column of rows that were decoded, without nulls; adds its evenly ranked rows to the sample."""
        parts, rows, constants = [part for part, _ in filled], _rows(filled), self._constants or {}
        self._constants = {
            name: value for name, value in constants.items() if name in frame.columns and _holds(frame[name], value)
        }
        values = frame[columns.order_by].cast(pl.Int64)
        _check_signed(filled, values, columns.order_by)
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


def _check_signed(filled: list[tuple[Part, Footer]], values: pl.Series, order_by: str) -> None:
    """Refuse values of the order column of 2^63 and more, which were read as negative ones."""
    if not any(footer.layout.unsigned_order for _, footer in filled):
        return
    start = 0
    for part, footer in filled:
        # Of a part that is read by itself, this is one slice.
        own = values.slice(start, footer.rows)
        start += footer.rows
        if footer.layout.unsigned_order and (own < 0).any():
            greatest = int(own.min()) + (1 << 64)  # type: ignore[arg-type]  # there is one, and it is an integer
            cause = f"column {order_by!r} has the value {greatest}, which does not fit into 64 signed bits"
            raise SchemaConflict(part.key, cause)


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
    if isinstance(value, str):  # comparing is faster than finding the least and the greatest
        return not column.null_count() and bool((column == value).all())
    # Not as a Series of the column's dtype, into which a value of a wider one need not fit.
    return not column.null_count() and column.min() == value == column.max()
