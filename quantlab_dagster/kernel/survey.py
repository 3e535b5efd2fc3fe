"""The first look at a day: footers, the order column of every part, and the columns that seem to be constant.

They are read rather than taken from statistics, which may be missing, cut short or wrong: a file that lies about them
would put rows into the wrong window. The order column costs about a tenth of the merge; labels that prove constant
cost nothing, because the merge need not decode them again.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import polars.selectors as cs

from quantlab_dagster.errors import NullOrder, SchemaConflict
from quantlab_dagster.kernel.bounds import least_row_bytes
from quantlab_dagster.kernel.checksums import verify_pages
from quantlab_dagster.kernel.columns import SEQ, Columns, ConstantValue, may_be_constant, unite
from quantlab_dagster.kernel.frames import POSITION, UNREADABLE, blame, read_parts, scan
from quantlab_dagster.kernel.parts import Footer, FooterReader, KnownLayouts, readable, sound_copies
from quantlab_dagster.kernel.ranks import stable_order
from quantlab_dagster.kernel.terms import DEFAULT_BUDGET_BYTES, Order, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["KEPT_SHARE", "Order", "Survey", "Surveyor"]

KEPT_SHARE = 4
"""What was decoded is kept if it takes no more than one byte in so many of the budget."""

Int64Array = np.ndarray[tuple[int], np.dtype[np.int64]]

# Parts are read in runs of about this many rows, so that the order column of a huge day is never held at once.
_ROWS_PER_SCAN = 1 << 18
# And of wide rows fewer: the runs that are scanned at once take one byte in so many of the budget, if all columns have
# to be looked at.
_SCANNED_SHARE = 4
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


@dataclass(frozen=True, slots=True)
class _Run:
    """Parts that are scanned together, and where they are in the day.

    Attributes:
        filled: those with rows.
        columns: of these parts, united.
        first: position of their first row.
    """

    filled: list[tuple[Part, Footer]]
    columns: Columns
    first: int

    @property
    def parts(self) -> list[Part]:
        """Those with rows."""
        return [part for part, _ in self.filled]

    @property
    def rows(self) -> Int64Array:
        """Of each."""
        return np.array([footer.rows for _, footer in self.filled], dtype=np.int64)

    @property
    def decoded_bytes(self) -> int:
        """What all columns take at least: pages of nulls, runs and dictionaries declare next to nothing."""
        row_bytes = sum(map(least_row_bytes, self.columns.dtypes.values()))
        return max(sum(footer.uncompressed_bytes for _, footer in self.filled), int(self.rows.sum()) * row_bytes)


@dataclass(frozen=True, slots=True)
class _Scanned:
    """What was seen of a run.

    Attributes:
        ranges: least and greatest value of the order column of each part with rows.
        samples: evenly ranked rows.
        constants: the columns that hold one value in all these rows, of those that were looked at.
    """

    ranges: list[tuple[int, int]]
    samples: list[pl.DataFrame]
    constants: dict[str, ConstantValue]


@dataclass(slots=True)
class Surveyor:
    """Surveys parts as they arrive, in key order, so that it can run while later parts are still being fetched.

    Args:
        order: the order asked for.
        stride: one row in so many of each run of parts goes into the sample.
        budget_bytes: what a row group may take when it is decoded.
        total_bytes: compressed size of all parts that will come, as far as it is known.
        kept_elsewhere: how many decoded bytes others keep at the moment, out of the same budget.
        threads: how many runs of parts are scanned at once, beside the footers of the next ones.
        known: layouts that were met in other surveys.
    """

    order: Order
    stride: int = 512
    budget_bytes: int = DEFAULT_BUDGET_BYTES
    total_bytes: int = 0
    kept_elsewhere: Callable[[], int] = lambda: 0
    threads: int = 2
    known: KnownLayouts = field(default_factory=KnownLayouts)
    _footers: FooterReader = field(init=False)
    _scanners: ThreadPoolExecutor = field(init=False)
    _parts: list[Part] = field(default_factory=list)
    _part_footers: list[Footer] = field(default_factory=list)
    _ranges: list[tuple[int, int]] = field(default_factory=list)
    _samples: list[pl.DataFrame] = field(default_factory=list)
    _constants: dict[str, ConstantValue] | None = None
    _coming: deque[tuple[list[Footer], Future[_Scanned]]] = field(default_factory=deque)
    _only: Columns | None = None
    """The united columns, where all parts begun are one run."""
    _begun_parts: int = 0
    _begun_rows: int = 0
    _pending: float = 0.0
    """Which share of a run the parts are whose scan has not begun."""
    _kept: list[pl.DataFrame] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        self._footers = FooterReader(self.order.column, self.budget_bytes, self.known)
        # Its threads are started when they are needed, and end with it.
        self._scanners = ThreadPoolExecutor(self.threads, thread_name_prefix="survey")

    def add(self, parts: Iterable[Part]) -> None:
        """Survey more parts, whose keys follow those before. What is wrong with them may be told by the next call.

        Raises:
            CorruptPart: a part cannot be read, declares too much, or has a page that is not what its checksum says.
            SchemaConflict: a part lacks the order column, or has one of an unfitting type or with a value of more than
                63 bits; or it has a column that cannot be given back as it is.
            NullOrder: a part has a null in the order column.
        """
        with self._sound_copies():
            for part in parts:
                footer = self._footers.read(part)
                verify_pages(part)
                if footer.rows > self._most_rows(footer):
                    self._scan_pending()
                self._parts.append(readable(part, footer.layout))
                self._part_footers.append(footer)
                self._pending += max(
                    footer.rows / self._most_rows(footer), footer.uncompressed_bytes / max(1, self._share_bytes())
                )
                if self._pending >= 1:
                    self._scan_pending()

    def _most_rows(self, footer: Footer) -> int:
        """So many rows like those of a part are a run."""
        return min(_ROWS_PER_SCAN, max(1, self._share_bytes() // max(1, footer.row_bytes)))

    def _share_bytes(self) -> int:
        """What a run may take, if all its columns have to be looked at."""
        return self.budget_bytes // (_SCANNED_SHARE * max(2, self.threads))

    def _is_large(self, run: _Run) -> bool:
        """Whether it is one part, of so many rows that it is read in slices."""
        return len(run.filled) == 1 and run.filled[0][1].rows > self._most_rows(run.filled[0][1])

    @property
    def kept_bytes(self) -> int:
        """How many decoded bytes are kept."""
        return int(sum(kept.estimated_size() for kept in self._kept or ()))

    def finish(self) -> Survey:
        """The survey of all parts added.

        Raises:
            SchemaConflict: the parts' schemas cannot be united.
            BadPart: as `add`.
        """
        with self._sound_copies():
            last = self._begin_pending()
            while self._coming:
                self._take_next()
            if last is not None:  # here, since nothing else is left to do: of few parts no thread is started
                footers, scan_run = last
                self._take(footers, scan_run())
        self._scanners.shutdown()
        reserved = frozenset({SEQ}) if self.order.numbered else frozenset()
        rows = np.array([footer.rows for footer in self._part_footers], dtype=np.int64)
        ranges = np.array(self._ranges, dtype=np.int64).reshape(-1, 2)
        empty = pl.DataFrame(schema={"key": pl.Int64, POSITION: pl.Int64})
        samples = pl.concat([empty, *self._samples]).sort("key", POSITION)
        if self._only is not None and not reserved:
            columns = replace(self._only, constants=dict(self._constants or {}))
        else:
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

    @contextmanager
    def _sound_copies(self) -> Iterator[None]:
        """Nothing is scanned any more once something was found, and it is not the fault of a damaged copy."""
        with sound_copies(self._parts, always=False):
            try:
                yield
            except BaseException:
                self._scanners.shutdown(cancel_futures=True)
                raise

    def _scan_pending(self) -> None:
        """Have the order column of the parts read whose scan has not begun."""
        begun = self._begin_pending()
        if begun is not None:
            footers, scan_run = begun
            self._coming.append((footers, self._scanners.submit(scan_run)))
        while len(self._coming) > self.threads:
            self._take_next()

    def _begin_pending(self) -> tuple[list[Footer], Callable[[], _Scanned]] | None:
        """The parts whose scan has not begun: their footers, and what scans them; None without any."""
        parts = self._parts[self._begun_parts :]
        footers = self._part_footers[self._begun_parts :]
        is_first, self._begun_parts, self._pending = not self._begun_parts, len(self._parts), 0.0
        if not parts:
            return None
        # Fails early, and names the culprit, where the order column is missing or no integer.
        columns = unite(parts, footers, self.order.column, rename=self.order.rename)
        self._only = columns if is_first else None
        run = _Run(
            [(part, footer) for part, footer in zip(parts, footers, strict=True) if footer.rows],
            columns,
            self._begun_rows,
        )
        self._begun_rows += int(run.rows.sum())
        if not run.filled:
            return footers, partial(_Scanned, [], [], {})
        if (frame := self._kept_frame(run)) is not None:
            if self._constants is None:
                self._constants = _same_everywhere(frame.head(_FIRST_ROWS), columns)
            return footers, partial(self._seen_together, run, frame, self._constants)
        if self._constants is None:
            self._constants = _first_constants(run)
        return footers, partial(self._scanned, run, self._constants)

    def _take_next(self) -> None:
        """Add what was seen of the run whose scan began first."""
        footers, coming = self._coming.popleft()
        self._take(footers, coming.result())

    def _take(self, footers: list[Footer], scanned: _Scanned) -> None:
        ranges = iter(scanned.ranges)
        self._ranges += [next(ranges) if footer.rows else (0, 0) for footer in footers]
        self._samples += scanned.samples
        if scanned.ranges:
            held = scanned.constants
            self._constants = {name: value for name, value in (self._constants or {}).items() if name in held}

    def _decoded(self, columns: Columns) -> pl.DataFrame | None:
        """What was kept, if it is what would be decoded again."""
        wanted = {**{name: columns.dtypes[name] for name in columns.varying}, columns.helper(POSITION): pl.Int64()}
        if not self._kept or any(wanted.items() - frame.schema.items() for frame in self._kept):
            return None
        return pl.concat([frame.select(cs.by_name(*wanted)) for frame in self._kept], rechunk=False)

    def _kept_frame(self, run: _Run) -> pl.DataFrame | None:
        """The rows of a run, all columns of them, which are kept; None where they are too many."""
        begun = sum(part.size_bytes for part in self._parts)
        is_large = len(run.filled) == 1 and run.filled[0][1].rows > _ROWS_PER_SCAN
        if is_large or self._kept is None or not self._fits(self.kept_bytes + run.decoded_bytes, begun):
            self._kept = None
            return None
        rows = run.rows
        frame = read_parts(run.parts, run.columns, run.first + np.cumsum(rows) - rows, rows)
        self._kept.append(frame)
        if not self._fits(self.kept_bytes, begun):
            self._kept = None  # the next ones will not be tried
        return frame

    def _fits(self, decoded_bytes: int, begun_bytes: int) -> bool:
        """Whether all parts may be kept, if those whose scan has begun take so much."""
        expected = decoded_bytes * max(1, self.total_bytes / max(1, begun_bytes))
        return expected + self.kept_elsewhere() <= self.budget_bytes // KEPT_SHARE

    def _scanned(self, run: _Run, constants: dict[str, ConstantValue]) -> _Scanned:
        """Read the order column of a run, and what may be constant; in a thread, so that nothing of this is changed."""
        if not self._is_large(run):
            return self._seen_together(run, self._order_frame(run, constants), constants)
        ranges, samples, first = [], [], run.first
        footer = run.filled[0][1]
        for offset, length in footer.slices(self._most_rows(footer)):
            frame = self._order_frame(run, constants, (offset, length))
            values, sample, constants = self._seen(run, frame, constants, first)
            ranges.append((int(values.min()), int(values.max())))  # type: ignore[arg-type]  # integers, none of them null
            samples.append(sample)
            first += length
        return _Scanned([(min(low for low, _ in ranges), max(high for _, high in ranges))], samples, constants)

    def _seen_together(self, run: _Run, frame: pl.DataFrame, constants: dict[str, ConstantValue]) -> _Scanned:
        """What is seen of a run whose rows are there, at least those columns that are looked at."""
        rows = run.rows
        values, sample, held = self._seen(run, frame, constants, run.first)
        starts = np.cumsum(rows) - rows
        keys = values.to_numpy()
        lows, highs = np.minimum.reduceat(keys, starts), np.maximum.reduceat(keys, starts)
        return _Scanned(list(zip(lows.tolist(), highs.tolist(), strict=True)), [sample], held)

    def _order_frame(
        self, run: _Run, constants: dict[str, ConstantValue], rows: tuple[int, int] | None = None
    ) -> pl.DataFrame:
        """The order column and what may be constant, of all rows of a run or of (offset, length) of them."""
        columns = run.columns
        lazy = scan(run.parts, columns, columns.helper(POSITION))
        wanted = [name for name in constants if name in columns.dtypes]
        try:
            chosen = lazy if rows is None else lazy.slice(*rows)
            frame = chosen.select(cs.by_name(columns.order_by, *wanted)).collect(engine="streaming")
        except UNREADABLE as error:
            raise blame(run.parts, run.rows, columns, error) from error
        expected = int(run.rows.sum()) if rows is None else rows[1]
        if frame.height != expected:
            cause = f"{frame.height} rows were decoded where the footers declare {expected}"
            raise blame(run.parts, run.rows, columns, cause)
        return frame

    def _seen(
        self, run: _Run, frame: pl.DataFrame, constants: dict[str, ConstantValue], first: int
    ) -> tuple[pl.Series, pl.DataFrame, dict[str, ConstantValue]]:
        """The order column of rows that were decoded, without nulls; its evenly ranked rows; what is constant in them.

        Args:
            run: to which they belong.
            frame: they.
            constants: what may be constant.
            first: position of the first of them.
        """
        filled, order_by = run.filled, run.columns.order_by
        held = {
            name: value for name, value in constants.items() if name in frame.columns and _holds(frame[name], value)
        }
        values = frame[order_by].cast(pl.Int64)
        _check_signed(filled, values, order_by)
        if values.null_count():
            if not self.order.nulls_first:
                first_null = int(values.is_null().arg_true()[0])
                culprit = int(np.searchsorted(np.cumsum(run.rows), first_null, side="right"))
                raise NullOrder(filled[culprit][0].key, f"column {order_by!r} has null values")
            values = values.fill_null(_INT64_MIN)
        keys = values.to_numpy()
        ranked = stable_order(keys)[self.stride // 2 :: self.stride]
        return values, pl.DataFrame({"key": keys[ranked], POSITION: first + ranked.astype(np.int64)}), held


def _first_constants(run: _Run) -> dict[str, ConstantValue]:
    """The columns that may be constant, from the first rows of the day."""
    columns = run.columns
    try:
        first_rows = scan(run.parts, columns, columns.helper(POSITION)).head(_FIRST_ROWS).collect(engine="streaming")
    except UNREADABLE as error:
        raise blame(run.parts, run.rows, columns, error) from error
    return _same_everywhere(first_rows, columns)


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
