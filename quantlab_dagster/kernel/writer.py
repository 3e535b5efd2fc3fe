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
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.kernel.arrays import retyped
from quantlab_dagster.kernel.columns import SEQ
from quantlab_dagster.kernel.digest import digest_group, joined
from quantlab_dagster.kernel.encodings import choose_encodings, encoding_options, sample_rows
from quantlab_dagster.kernel.layout import ARROW_SCHEMA, restored, store_type
from quantlab_dagster.kernel.leaves import is_ordered_otherwise
from quantlab_dagster.kernel.parts import footer_bytes
from quantlab_dagster.kernel.stitch import Piece, Stitcher, check_stitched, take_apart
from quantlab_dagster.kernel.terms import FileDigest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from quantlab_dagster.kernel.columns import Columns
    from quantlab_dagster.kernel.leaves import ColumnType
    from quantlab_dagster.kernel.survey import Order

__all__ = ["ROW_GROUP_ROWS", "SortedFileWriter", "Written"]

ROW_GROUP_ROWS = 262_144
"""Rows per row group: a measured trade between size and what a reader of one minute must fetch (benchmarks/)."""

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


class SortedFileWriter:
    """Writes frames of sorted rows, cut into row groups of fixed size whatever the frames' sizes are.

    `sorting_columns` is declared in the file because the merge proves the order before anyone sees the file.

    Args:
        path: the file to write.
        columns: the united columns; constant ones are added here.
        order: decides the declared sorting columns, and whether `seq` follows the order column.
        metadata: further key-value pairs for the file's own metadata. Nothing in it may depend on the clock.
        row_group_rows: rows per row group, where the usual number does not fit.
        threads: how many row groups are encoded at once.
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
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._submitted_rows = 0
        self._threads = threads
        self._coming: deque[Future[tuple[Piece, FileDigest]]] = deque()
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
        self._waiting.append(frame)
        self._waiting_rows += frame.height
        while self._waiting_rows >= self._group_rows:
            group, first = self._next_group()
            self._make_room()
            self._coming.append(self._encoders.submit(self._encoded, group, first))

    def _next_group(self) -> tuple[list[pl.DataFrame], int]:
        """The rows of the next row group, and how many come before them."""
        group: list[pl.DataFrame] = []
        rows = missing = min(self._group_rows, self._waiting_rows)
        self._waiting_rows -= missing
        while missing:
            frame = self._waiting.pop(0)
            if frame.height > missing:
                self._waiting.insert(0, frame.slice(missing))
                frame = frame.slice(0, missing)
            group.append(frame)
            missing -= frame.height
        if not self._submitted_rows:
            self._options |= self._encodings(group, rows)
        self._submitted_rows += rows
        return group, self._submitted_rows - rows

    def _encodings(self, group: list[pl.DataFrame], rows: int) -> dict[str, Any]:
        sample = self._table(pl.concat(group, rechunk=True).head(sample_rows(rows)))
        return encoding_options(choose_encodings(sample, int96=frozenset(self._columns.int96), split=self._split))

    def _encoded(self, group: list[pl.DataFrame], first: int) -> tuple[Piece, FileDigest]:
        """A row group, encoded, and its digest as it is read back from the same bytes."""
        # One chunk a column: the encoder ends pages at chunk boundaries, which would show the windows in the bytes.
        table = self._table(pl.concat(group, rechunk=True))
        group.clear()  # the windows from which it was cut; who called holds the list
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, self._schema, **self._options) as writer:
            writer.write_table(table, row_group_size=self._group_rows)
        del table
        content = sink.getvalue()
        # Its checksum is taken first: bytes that still have it are those that were read back.
        piece = take_apart(memoryview(content), pq.read_metadata(pa.BufferReader(content)))
        where, constants = str(self._path), self._columns.constants
        return piece, digest_group(content, where, self._order, constants=constants, first=first)

    def _make_room(self) -> None:
        while len(self._coming) >= self._threads:
            self._write_next()

    def _write_next(self) -> None:
        self._write(*self._coming.popleft().result())

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
        self._make_room()
        # The last one here, where it is waited for anyway: for a file of one row group no thread is started.
        last = [self._encoded(*self._next_group())] if self._waiting_rows else []
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
            for coming in self._coming:
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
