"""One version of a day's data.parquet, opened: what it has, and its rows as frames.

What is on this machine is decoded by Polars, which skips the pages that it does not need. Of a file on S3 of which
little is wanted, only the ranges of these row groups and columns are fetched, and PyArrow decodes them; of one of
which much is wanted, all is fetched side by side, and read as if it lay here.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.reader.errors import REPAIR, DayMisordered, DayUncommitted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from quantlab_dagster.reader.places import Pinned

__all__ = ["KEY", "SEQ", "DayFile", "Footer", "Wanted"]

KEY, SEQ = "ts_event", "seq"

_TAIL_BYTES = 64 << 10
_FETCH_ALL_SHARE = 0.4
_GAP_BYTES = 256 << 10
_RANGES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Group:
    """A row group.

    Attributes:
        start: index of its first row in the file.
        rows: how many.
        low: least `ts_event`; None where the file does not say.
        high: greatest.
    """

    start: int
    rows: int
    low: int | None
    high: int | None

    def may_overlap(self, low: int | None, high: int | None) -> bool:
        """Whether it may have rows in [low, high)."""
        below = high is None or self.low is None or self.low < high
        return below and (low is None or self.high is None or self.high >= low)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says of itself.

    Attributes:
        rows: of all.
        schema: its columns in order, and their dtypes.
        groups: its row groups in order.
    """

    rows: int
    schema: pl.Schema
    groups: tuple[Group, ...]

    @property
    def span(self) -> tuple[int, int] | None:
        """The least and the greatest `ts_event`; None without rows, or where a row group does not say it."""
        ends = [(group.low, group.high) for group in self.groups if group.rows]
        lows, highs = [low for low, _ in ends if low is not None], [high for _, high in ends if high is not None]
        return (min(lows), max(highs)) if ends and len(lows) == len(highs) == len(ends) else None

    def rows_within(self, low: int | None, high: int | None) -> range:
        """The indexes of rows that may have `ts_event` in [low, high): from the first such row group to the last."""
        found = [group for group in self.groups if group.may_overlap(low, high)]
        return range(found[0].start, found[-1].start + found[-1].rows) if found else range(0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a file.

    Attributes:
        low: the least `ts_event`; None for all.
        high: before which it ends; None for all.
        columns: what the frames have, in order, with their dtypes; null where the file has no such column.
        predicate: which rows.
    """

    low: int | None
    high: int | None
    columns: pl.Schema
    predicate: pl.Expr | None = None


class DayFile:
    """A day's data, opened.

    Args:
        pinned: the version of data.parquet that is read; closed with this object.
        name: of it, for people.
        rows: that meta.json says; None if it says nothing.

    Raises:
        DayUncommitted: it is no Parquet file, or has another number of rows than meta.json says.
        ObjectChanged: another version is there now.
        StoreError: it cannot be read.
    """

    def __init__(self, pinned: Pinned, name: str, rows: int | None = None, *, is_remote: bool = False) -> None:
        self._pinned = pinned
        self._name = name
        self._is_remote = is_remote
        try:
            self._metadata = pq.read_metadata(self._tail() if is_remote else pinned.whole())
            self.footer = _footer(self._metadata)
        except (pa.ArrowInvalid, OSError) as error:
            if not isinstance(error, pa.ArrowException):
                raise
            raise DayUncommitted(name, f"is no readable Parquet file ({error})", REPAIR) from error
        if KEY not in self.footer.schema:
            raise DayUncommitted(
                name, f"has no column {KEY}", "Run `quantlab verify`; is this a day of the compact lake?"
            )
        if rows is not None and rows != self.footer.rows:
            cause = f"has {self.footer.rows:,} rows, and meta.json says {rows:,}"
            raise DayUncommitted(name, cause, REPAIR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._pinned.close()

    def pieces(self, wanted: Wanted, step: int) -> list[Callable[[], pl.DataFrame]]:
        """The wanted rows in the file's order, as tasks of about `step` rows; each may be done by any thread.

        A task raises `DayMisordered` where a row has a smaller `ts_event` than the one before.
        """
        indexes = self.footer.rows_within(wanted.low, wanted.high)
        if not indexes:
            return []
        if self._is_remote and self._share(indexes, wanted) < _FETCH_ALL_SHARE:
            return self._fetched(indexes, wanted)
        return self._scanned(indexes, wanted, step)

    def in_order(self, frames: Iterable[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
        """What the pieces brought and their numbers, without empty frames, as long as `ts_event` does not fall.

        Raises:
            DayMisordered: a frame begins with a smaller `ts_event` than the one before ends with.
        """
        last: int | None = None
        for number, frame in enumerate(frames):
            if frame.height and KEY in frame.columns:
                key = frame[KEY]
                if last is not None and key[0] < last:
                    raise self._misordered()
                last = key[-1]
            if frame.height:
                yield number, frame

    def _collected(self, scan: pl.LazyFrame, schema: pl.Schema, wanted: Wanted) -> pl.DataFrame:
        """A piece, which is in order in itself."""
        frame = _selected(scan, schema, wanted).collect()
        if KEY in frame.columns and (frame[KEY].null_count() or not frame[KEY].is_sorted()):
            raise self._misordered()
        return frame

    def _misordered(self) -> DayMisordered:
        return DayMisordered(self._name, "its rows are not in the order of ts_event", REPAIR)

    def rows(self, start: int, count: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows by their index."""
        scan = pl.scan_parquet(self._pinned.whole()).slice(start, count)
        return (scan if columns is None else scan.select(columns)).collect()

    # ---- on this machine -------------------------------------------------------------------------------------------

    def _scanned(self, indexes: range, wanted: Wanted, step: int) -> list[Callable[[], pl.DataFrame]]:
        def whole() -> pl.DataFrame:
            scan = pl.scan_parquet(self._pinned.whole())
            return self._collected(scan, self.footer.schema, wanted)  # filters reach the pages

        def piece(start: int) -> pl.DataFrame:
            part = pl.scan_parquet(self._pinned.whole()).slice(start, min(step, indexes.stop - start))
            return self._collected(part, self.footer.schema, wanted)

        if len(indexes) <= step and len(indexes) == self.footer.rows:
            return [whole]
        return [partial(piece, start) for start in range(indexes.start, indexes.stop, step)]

    # ---- on S3 -----------------------------------------------------------------------------------------------------

    def _tail(self) -> io.BufferedReader:
        size = self._pinned.info.size_bytes
        start = max(0, size - _TAIL_BYTES)
        return _Sparse.of(self._pinned, [(start, self._pinned.piece(start, size))] if size else [])

    def _chunks(self, indexes: range, wanted: Wanted) -> list[tuple[int, int]]:
        """Byte ranges of the column chunks that are wanted, in order."""
        ranges = []
        for number, group in enumerate(self.footer.groups):
            if group.start not in indexes:
                continue
            chunks = self._metadata.row_group(number)
            for index in range(chunks.num_columns):
                chunk = chunks.column(index)
                if chunk.path_in_schema.partition(".")[0] in self._needed(wanted):
                    first = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
                    ranges.append((first, first + chunk.total_compressed_size))
        return sorted(ranges)

    def _needed(self, wanted: Wanted) -> set[str]:
        names = {KEY, *wanted.columns}
        if wanted.predicate is not None:
            names.update(wanted.predicate.meta.root_names())
        return names & set(self.footer.schema)

    def _share(self, indexes: range, wanted: Wanted) -> float:
        size = sum(stop - start for start, stop in self._chunks(indexes, wanted))
        return size / max(1, self._pinned.info.size_bytes)

    def _fetched(self, indexes: range, wanted: Wanted) -> list[Callable[[], pl.DataFrame]]:
        names = [name for name in self.footer.schema if name in self._needed(wanted)]

        def piece(number: int, group: Group) -> pl.DataFrame:
            span = range(group.start, group.start + max(1, group.rows))
            ranges = _joined(self._chunks(span, wanted))
            with ThreadPoolExecutor(_RANGES_AT_ONCE) as pool:
                pieces = list(pool.map(lambda item: (item[0], self._pinned.piece(*item)), ranges))
            source = _Sparse.of(self._pinned, pieces)
            file = pq.ParquetFile(source, metadata=self._metadata, page_checksum_verification=True)
            frame = pl.DataFrame(file.read_row_group(number, columns=names))
            return self._collected(frame.lazy(), frame.schema, wanted)

        return [
            partial(piece, number, group)
            for number, group in enumerate(self.footer.groups)
            if group.start in indexes and group.may_overlap(wanted.low, wanted.high)
        ]


def _footer(metadata: Any) -> Footer:
    # Polars' own view of the columns: what an empty table of them becomes.
    schema = pl.DataFrame(metadata.schema.to_arrow_schema().empty_table()).schema
    groups, start = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        low, high = _key_range(group)
        groups.append(Group(start, group.num_rows, low, high))
        start += group.num_rows
    return Footer(metadata.num_rows, schema, tuple(groups))


def _key_range(group: Any) -> tuple[int | None, int | None]:
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == KEY:
            found = column.statistics
            has_both = found is not None and found.has_min_max
            return (found.min, found.max) if has_both else (None, None)
    return None, None


def _selected(scan: pl.LazyFrame, schema: pl.Schema, wanted: Wanted) -> pl.LazyFrame:
    """The wanted rows and columns of a scan."""
    if wanted.low is not None:
        scan = scan.filter(pl.col(KEY) >= wanted.low)
    if wanted.high is not None:
        scan = scan.filter(pl.col(KEY) < wanted.high)
    scan = scan.select(_column(name, dtype, schema) for name, dtype in wanted.columns.items())
    return scan if wanted.predicate is None else scan.filter(wanted.predicate)


def _column(name: str, dtype: pl.DataType, schema: pl.Schema) -> pl.Expr:
    if name not in schema:
        return pl.lit(None, dtype=dtype).alias(name)
    return pl.col(name) if schema[name] == dtype else pl.col(name).cast(dtype)


class _Sparse(io.RawIOBase):
    """A file of which some ranges are here, and others are fetched when they are asked for."""

    def __init__(self, pinned: Pinned, pieces: list[tuple[int, bytes]]) -> None:
        super().__init__()
        self._pinned = pinned
        self._pieces = pieces
        self._at = 0

    @classmethod
    def of(cls, pinned: Pinned, pieces: list[tuple[int, bytes]]) -> io.BufferedReader:
        """As PyArrow takes files."""
        return io.BufferedReader(cls(pinned, pieces), buffer_size=1 << 16)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._pinned.info.size_bytes}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._pinned.info.size_bytes)
        if stop <= self._at:
            return 0
        content = self._content(self._at, stop)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _content(self, start: int, stop: int) -> bytes:
        for first, piece in self._pieces:
            if first <= start < first + len(piece):
                return piece[start - first : stop - first]
        # No further than the next piece that is here.
        ahead = min((first for first, _ in self._pieces if first > start), default=stop)
        return self._pinned.piece(start, min(stop, ahead))


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those with little between them as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start - joined[-1][1] <= _GAP_BYTES:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
