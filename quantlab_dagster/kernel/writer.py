"""Writing: frames in, one Parquet file out, whose bytes depend on the rows alone and not on how they arrive."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.kernel.arrays import retyped
from quantlab_dagster.kernel.columns import SEQ
from quantlab_dagster.kernel.layout import ARROW_SCHEMA, restored, store_type
from quantlab_dagster.kernel.leaves import is_ordered_otherwise
from quantlab_dagster.kernel.parts import footer_bytes

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from quantlab_dagster.kernel.columns import Columns
    from quantlab_dagster.kernel.leaves import ColumnType, Leaf
    from quantlab_dagster.kernel.survey import Order

__all__ = ["ROW_GROUP_ROWS", "SortedFileWriter"]

ROW_GROUP_ROWS = 262_144
"""Rows per row group: a measured trade between size and what a reader of one minute must fetch (benchmarks/)."""

_OLDEST = pl.CompatLevel.oldest()  # large_string rather than string views, which the writer does not take


class SortedFileWriter:
    """Writes frames of sorted rows, cut into row groups of fixed size whatever the frames' sizes are.

    `sorting_columns` is declared in the file because the merge proves the order before anyone sees the file.

    Args:
        path: the file to write.
        columns: the united columns; constant ones are added here.
        order: decides the declared sorting columns, and whether `seq` follows the order column.
        metadata: further key-value pairs for the file's own metadata. Nothing in it may depend on the clock.
        row_group_rows: rows per row group, where the usual number does not fit.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        order: Order,
        metadata: dict[str, str] | None = None,
        *,
        row_group_rows: int | None = None,
    ) -> None:
        self._group_rows = row_group_rows or ROW_GROUP_ROWS
        self._path = path
        self._columns = columns
        self._types = columns.file_types(numbered=order.numbered)
        self._schema = _arrow_schema(columns, self._types)
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._writer = pq.ParquetWriter(path, self._schema, **_writer_options(self._schema, columns, order))
        pairs = columns.metadata | _own_arrow_schema(self._types)
        pairs |= {key.encode(): value.encode() for key, value in (metadata or {}).items()}
        if pairs:
            # Not as metadata of the schema, which goes the way of Arrow's own schema: it is not stored.
            self._writer.add_key_value_metadata(pairs)

    def append(self, frame: pl.DataFrame) -> None:
        """Take the next rows: the varying columns and `seq`, in order. Writes whole row groups as they fill."""
        self._waiting.append(frame)
        self._waiting_rows += frame.height
        while self._waiting_rows >= self._group_rows:
            self._write_group()

    def _write_group(self) -> None:
        group: list[pl.DataFrame] = []
        missing = min(self._group_rows, self._waiting_rows)
        self._waiting_rows -= missing
        while missing:
            frame = self._waiting.pop(0)
            if frame.height > missing:
                self._waiting.insert(0, frame.slice(missing))
                frame = frame.slice(0, missing)
            group.append(frame)
            missing -= frame.height
        # One chunk a column: the encoder ends pages at chunk boundaries, which would show the windows in the bytes.
        table = self._table(pl.concat(group, rechunk=True))
        self._writer.write_table(table, row_group_size=self._group_rows)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self._waiting_rows:
                self._write_group()
        finally:
            self._writer.close()
        if error is None:
            _restore(self._path, [leaf for one in self._types.values() for leaf in one.leaves])


def _restore(path: Path, leaves: list[Leaf]) -> None:
    """Say of the leaves what they are, where PyArrow wrote them as the bytes they are made of."""
    written = footer_bytes(path)
    footer = restored(written, leaves)
    if footer is None:
        return
    with path.open("r+b") as file:
        file.seek(-len(written) - 8, io.SEEK_END)
        file.write(footer + len(footer).to_bytes(4, "little") + b"PAR1")
        file.truncate()


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
    int96 = set(columns.int96)
    integers = [field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type)]
    delta = [name for name in integers if name not in int96]
    encoded = set(delta)
    flat = [field.name for field in schema if field.name not in encoded and not pa.types.is_nested(field.type)]
    return {
        "compression": "zstd",
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
        "use_dictionary": flat,
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
