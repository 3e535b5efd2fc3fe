"""Writing: frames in, one Parquet file out, whose bytes depend on the rows alone and not on how they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.kernel.columns import SEQ

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from quantlab_dagster.kernel.columns import Columns
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
        self._columns = columns
        self._order = order
        self._schema = _arrow_schema(columns, order)
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._written_rows = 0
        self._writer = pq.ParquetWriter(path, self._schema, **_writer_options(self._schema, order))
        if metadata:
            # Not as metadata of the schema, which goes the way of Arrow's own schema: it is not stored.
            self._writer.add_key_value_metadata(metadata)

    def append(self, frame: pl.DataFrame) -> None:
        """Take the next rows: the varying columns, in order. Writes whole row groups as they fill."""
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
        self._written_rows += table.num_rows

    def _table(self, frame: pl.DataFrame) -> pa.Table:
        varying = frame.to_arrow(compat_level=_OLDEST)
        arrays: list[Any] = []
        for field in self._schema:
            if field.name == SEQ and self._order.numbered:
                first = self._written_rows
                arrays.append(pa.array(np.arange(first, first + frame.height, dtype=np.int64)))
            elif field.name in self._columns.constants:
                arrays.append(_constant_array(self._columns.constants[field.name], field.type, frame.height))
            else:
                arrays.append(varying.column(field.name))
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


def _arrow_schema(columns: Columns, order: Order) -> pa.Schema:
    empty = pl.DataFrame(schema=columns.dtypes).to_arrow(compat_level=_OLDEST)
    fields: list[pa.Field] = []
    nulls_only = _has_nulls_only(empty.schema)
    for field in empty.schema:
        if isinstance(columns.constants.get(field.name), str) and not nulls_only:
            # A dictionary with one entry: encoded without looking at a million equal strings.
            fields.append(pa.field(field.name, pa.dictionary(pa.int32(), pa.string())))
        else:
            fields.append(field)
        if field.name == columns.order_by and order.numbered:
            fields.append(pa.field(SEQ, pa.int64()))
    return pa.schema(fields)


def _has_nulls_only(schema: pa.Schema) -> bool:
    """Whether a column has no type of its own.

    Parquet makes Int32 of it, which could not be united with text when the file is merged again. Such a file keeps
    Arrow's schema, which must then be the one that readers should see.
    """
    return any(pa.types.is_null(field.type) for field in schema)


def _constant_array(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([value]))
    return pa.repeat(pa.scalar(value, type=kind), rows)


def _writer_options(schema: pa.Schema, order: Order) -> dict[str, Any]:
    names = [order.column, SEQ] if order.numbered else [order.column]
    delta = [field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type)]
    flat = [field.name for field in schema if field.name not in delta and not pa.types.is_nested(field.type)]
    return {
        "compression": "zstd",
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
        "use_dictionary": flat,
        "write_page_index": True,
        "write_page_checksum": True,
        "store_schema": _has_nulls_only(schema),
        "sorting_columns": pq.SortingColumn.from_ordering(schema, [(name, "ascending") for name in names], "at_start"),
    }
