"""Writing: frames in, one Parquet file out, whose bytes depend on the rows alone and not on how they arrive.

Row groups are encoded on several cores, each into bytes of its own, and read back from those bytes as soon as they are
there; then they are stitched into the file.
"""

from __future__ import annotations

import base64
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.kernel.arrays import retyped
from quantlab_dagster.kernel.bounds import least_row_bytes
from quantlab_dagster.kernel.columns import SEQ
from quantlab_dagster.kernel.digest import digest_group, joined
from quantlab_dagster.kernel.encodings import choose_encodings, encoding_options, sample_rows
from quantlab_dagster.kernel.layout import ARROW_SCHEMA, restored, store_type
from quantlab_dagster.kernel.leaves import is_ordered_otherwise
from quantlab_dagster.kernel.parts import footer_bytes
from quantlab_dagster.kernel.sizes import row_sizes
from quantlab_dagster.kernel.stitch import Piece, Stitcher, check_stitched, take_apart
from quantlab_dagster.kernel.terms import DEFAULT_BUDGET_BYTES, FileDigest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from quantlab_dagster.kernel.columns import Columns
    from quantlab_dagster.kernel.leaves import ColumnType
    from quantlab_dagster.kernel.survey import Order

__all__ = ["ROW_GROUP_BYTES", "ROW_GROUP_ROWS", "SortedFileWriter", "Written"]

ROW_GROUP_ROWS = 262_144
"""Rows per row group: a measured trade between size and what a reader of one minute must fetch (benchmarks/)."""

ROW_GROUP_BYTES = 128 << 20
"""Of wide rows a row group has only as many as take so many bytes decoded (`row_sizes`), at least one."""

_LABEL_BYTES = 4  # of a text that is constant: its index in a dictionary of one entry
# A row group that is encoded is there about twice, and once more as it is read back.
_ENCODED_SHARE = 2
_READ_BACK_BYTES = 16 << 20

_OLDEST = pl.CompatLevel.oldest()  # large_string rather than string views, which the writer does not take


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written.

    Attributes:
        digest: of its row groups, as they were read back from the bytes that are in the file.
        sha256: of the file as it lies on the disk, hexadecimal, taken before its footer was read back.
    """

    digest: FileDigest
    sha256: str


@dataclass(slots=True)
class _Group:
    """Rows of one row group.

    Attributes:
        frames: they, in order.
        first: how many rows come before them.
        rows: how many they are.
        size_bytes: what they take decoded.
    """

    frames: list[pl.DataFrame]
    first: int
    rows: int = 0
    size_bytes: int = 0

    def add(self, frame: pl.DataFrame, size_bytes: int) -> None:
        """Take more rows."""
        self.frames.append(frame)
        self.rows += frame.height
        self.size_bytes += size_bytes

    def head(self, rows: int) -> pl.DataFrame:
        """The first of them, as one chunk."""
        starts = accumulate((frame.height for frame in self.frames), initial=0)
        few = [frame.head(rows - start) for start, frame in zip(starts, self.frames, strict=False) if start < rows]
        return pl.concat(few, rechunk=True)


class SortedFileWriter:
    """Writes frames of sorted rows, cut into row groups by what the rows are, whatever the frames' sizes are.

    `sorting_columns` is declared in the file because the merge proves the order before anyone sees the file.

    Args:
        path: the file to write.
        columns: the united columns; constant ones are added here.
        order: decides the declared sorting columns, and whether `seq` follows the order column.
        metadata: further key-value pairs for the file's own metadata. Nothing in it may depend on the clock.
        row_group_rows: rows per row group, where the usual number does not fit; of wide rows fewer.
        threads: how many row groups are encoded at once, as far as the budget allows.
        budget_bytes: memory for all that is encoded at once; it does not show in the bytes.
        split: whether floats may be split into streams of bytes (`encodings`).
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        order: Order,
        metadata: dict[str, str] | None = None,
        *,
        row_group_rows: int | None = None,
        threads: int = 1,
        budget_bytes: int = DEFAULT_BUDGET_BYTES,
        split: bool = True,
    ) -> None:
        self._group_rows = row_group_rows or ROW_GROUP_ROWS
        self._path = path
        self._columns = columns
        self._order = order
        self._split = split
        self._types = columns.file_types(numbered=order.numbered)
        self._schema = _arrow_schema(columns, self._types)
        self._pairs = columns.metadata | _own_arrow_schema(self._types)
        self._pairs |= {key.encode(): value.encode() for key, value in (metadata or {}).items()}
        self._options = _writer_options(self._schema, columns, order)
        self._constant_bytes = sum(
            _LABEL_BYTES if isinstance(value, str) else least_row_bytes(columns.dtypes[name])
            for name, value in columns.constants.items()
        )
        self._waiting = _Group([], first=0)
        self._threads = threads
        self._most_bytes = budget_bytes // _ENCODED_SHARE
        self._coming: deque[tuple[int, Future[tuple[Piece, FileDigest]]]] = deque()
        self._pieces: list[Piece] = []
        self._digests: list[FileDigest] = []
        with ExitStack() as stack:
            self._file = stack.enter_context(path.open("wb"))
            self._stitcher = Stitcher(self._file)
            self._encoders = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="encode"))
            self._held = stack.pop_all()
        self._written: Written | None = None

    @property
    def written(self) -> Written:
        """What was written, once that is done."""
        assert self._written is not None
        return self._written

    def append(self, frame: pl.DataFrame) -> None:
        """Take the next rows: the varying columns and `seq`, in order. Writes whole row groups as they fill."""
        ends = np.cumsum(row_sizes(frame) + self._constant_bytes)
        start = 0
        while start < frame.height:
            end = self._end_of_group(ends, start)
            if end > start:
                size_bytes = int(ends[end - 1] - (ends[start - 1] if start else 0))
                self._waiting.add(frame.slice(start, end - start), size_bytes)
            start = end
            if start < frame.height or self._waiting.rows == self._group_rows:
                self._submit(self._next_group())

    def _end_of_group(self, ends: np.ndarray, start: int) -> int:
        """Where the rows end that go into the row group that waits; with them it has one row or more.

        Args:
            ends: how many bytes the rows of a frame take together with those before them.
            start: which of them comes next.
        """
        taken = (int(ends[start - 1]) if start else 0) - self._waiting.size_bytes
        by_bytes = int(np.searchsorted(ends, taken + ROW_GROUP_BYTES, side="right"))
        return min(
            start + self._group_rows - self._waiting.rows, max(by_bytes, start if self._waiting.rows else start + 1)
        )

    def _next_group(self) -> _Group:
        """The rows that wait, which are a row group; the next one begins behind them."""
        group = self._waiting
        if not group.first:
            self._options |= self._encodings(group)
        self._waiting = _Group([], first=group.first + group.rows)
        return group

    def _encodings(self, group: _Group) -> dict[str, Any]:
        sample = self._table(group.head(sample_rows(group.rows)))
        return encoding_options(choose_encodings(sample, int96=frozenset(self._columns.int96), split=self._split))

    def _submit(self, group: _Group) -> None:
        size_bytes = group.size_bytes
        self._make_room(size_bytes)
        self._coming.append((size_bytes, self._encoders.submit(self._encoded, group)))

    def _encoded(self, group: _Group) -> tuple[Piece, FileDigest]:
        """A row group, encoded, and its digest as it is read back from the same bytes."""
        # One chunk a column: the encoder ends pages at chunk boundaries, which would show the windows in the bytes.
        table = self._table(pl.concat(group.frames, rechunk=True))
        group.frames.clear()  # the windows from which it was cut; who called holds the list
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, self._schema, **self._options) as writer:
            writer.write_table(table, row_group_size=self._group_rows)
        del table
        content = sink.getvalue()
        # Its checksum is taken first: bytes that still have it are those that were read back.
        piece = take_apart(memoryview(content), pq.read_metadata(pa.BufferReader(content)))
        where, constants = str(self._path), self._columns.constants
        batch_rows = max(1, _READ_BACK_BYTES * group.rows // max(1, group.size_bytes))
        return piece, digest_group(
            content, where, self._order, constants=constants, first=group.first, batch_rows=batch_rows
        )

    def _make_room(self, size_bytes: int) -> None:
        """Write what was encoded until so much more may be."""
        while self._coming and (
            len(self._coming) >= self._threads or sum(size for size, _ in self._coming) + size_bytes > self._most_bytes
        ):
            self._write_next()

    def _write_next(self) -> None:
        _, coming = self._coming.popleft()
        self._write(*coming.result())

    def _write(self, piece: Piece, digest: FileDigest) -> None:
        self._pieces.append(self._stitcher.append(piece))
        self._digests.append(digest)

    def _table(self, frame: pl.DataFrame) -> pa.Table:
        given = iter(frame.to_arrow(compat_level=_OLDEST).columns)
        constants = self._columns.constants
        arrays: list[Any] = []
        for field in self._schema:
            if field.name in constants:
                arrays.append(_constant_array(constants[field.name], field.type, frame.height))
            else:
                arrays.append(retyped(next(given), field.type))
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _finish(self) -> None:
        self._make_room(self._waiting.size_bytes)
        # The last one here, where it is waited for anyway: for a file of one row group no thread is started.
        last = [self._encoded(self._next_group())] if self._waiting.rows else []
        while self._coming:
            self._write_next()
        for piece, digest in last:
            self._write(piece, digest)
        self._stitcher.finish(self._footer())
        self._file.close()
        sha256 = check_stitched(self._path, self._pieces, self._stitcher.starts)
        self._written = Written(reduce(joined, self._digests, FileDigest.empty()), sha256)

    def _footer(self) -> bytes:
        """The footer of the file without its row groups, which says of the leaves what they are.

        PyArrow writes some as the bytes they are made of.
        """
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, self._schema, **self._options) as writer:
            if self._pairs:
                # Not as metadata of the schema, which goes the way of Arrow's own schema: it is not stored.
                writer.add_key_value_metadata(self._pairs)
        footer = footer_bytes(memoryview(sink.getvalue()))
        return restored(footer, [leaf for one in self._types.values() for leaf in one.leaves]) or footer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._held:
            if error is None:
                self._finish()
            for _, coming in self._coming:
                coming.cancel()


def _arrow_schema(columns: Columns, types: dict[str, ColumnType]) -> pa.Schema:
    fields: list[pa.Field] = []
    some_int96 = bool(columns.int96)
    for name, one in types.items():
        timestamp96 = any(leaf.physical == "INT96" for leaf in one.leaves)
        kind = store_type(one.field.type, int96=some_int96 and not timestamp96)
        if isinstance(columns.constants.get(name), str):
            # A dictionary with one entry: encoded without looking at a million equal strings.
            kind = pa.dictionary(pa.int32(), pa.string())
        fields.append(one.field.with_type(kind))
    return pa.schema(fields)


def _own_arrow_schema(types: dict[str, ColumnType]) -> dict[bytes, bytes]:
    """Arrow's schema, for the columns whose types Parquet cannot tell, as far as all parts agree on them.

    Durations, zones, fixed sizes, extensions, decimals of other than 128 bits, and columns that have no type of their
    own: Parquet makes Int32 of those, which could not be united with text when the file is merged again. Other files
    go without: readers see what Parquet says.
    """
    if not any(_is_beyond_parquet(one.spelled) for one in types.values()):
        return {}
    schema = pa.schema([one.field.with_type(one.spelled).remove_metadata() for one in types.values()])
    return {ARROW_SCHEMA: base64.b64encode(schema.serialize())}


def _is_beyond_parquet(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        inside = [kind.field(at).type for at in range(kind.num_fields)]
        return bool(pa.types.is_fixed_size_list(kind)) or any(map(_is_beyond_parquet, inside))
    zoned = pa.types.is_timestamp(kind) and kind.tz not in (None, "UTC")
    sized = pa.types.is_decimal(kind) and not pa.types.is_decimal128(kind)
    extension = isinstance(kind, pa.BaseExtensionType)
    return bool(pa.types.is_null(kind) or pa.types.is_duration(kind) or zoned or sized or extension)


def _constant_array(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([value]))
    return pa.repeat(pa.scalar(value, type=kind), rows)


def _writer_options(schema: pa.Schema, columns: Columns, order: Order) -> dict[str, Any]:
    names = [order.column, SEQ] if order.numbered else [order.column]
    return {
        "compression": "zstd",
        "use_dictionary": False,
        "write_statistics": _with_statistics(schema, columns),
        "write_page_index": True,
        "write_page_checksum": True,
        "store_schema": False,
        "use_deprecated_int96_timestamps": bool(columns.int96),
        "sorting_columns": pq.SortingColumn.from_ordering(schema, [(name, "ascending") for name in names], "at_start"),
    }


def _with_statistics(schema: pa.Schema, columns: Columns) -> bool | list[str]:
    """The columns whose least and greatest value readers may believe.

    They are found by comparing bytes. What is carried as bytes and has another order goes without.
    """
    misleading = {name for name, one in columns.types.items() if any(map(is_ordered_otherwise, one.leaves))}
    return [field.name for field in schema if field.name not in misleading] if misleading else True
