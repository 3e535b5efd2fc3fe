"""How many bytes rows take when they are decoded, each by what it holds: never by how it came or is kept in memory.

Text that is there once for many rows in memory (a dictionary's) is not in the arrays that are encoded.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from quantlab_dagster.kernel.bounds import least_row_bytes

__all__ = ["row_sizes"]

_OFFSET_BYTES = 8

Int64Array = np.ndarray[tuple[int], np.dtype[np.int64]]


def row_sizes(frame: pl.DataFrame) -> Int64Array:
    """Bytes of each row: of what has a fixed width this, of texts, binary values and lists what is in them."""
    sizes = np.zeros(frame.height, dtype=np.int64)
    for column in frame.get_columns():
        sizes += _sizes(column)
    return sizes


def _sizes(values: pl.Series) -> Int64Array | int:
    """Of each value, or of all if they have one width."""
    values = values.alias("values")  # Polars takes some names for patterns
    dtype = values.dtype
    if dtype == pl.String:
        return _OFFSET_BYTES + _filled(values.str.len_bytes())
    if dtype == pl.Binary:
        return _OFFSET_BYTES + _filled(values.bin.size())
    if isinstance(dtype, pl.Struct):
        return sum(_sizes(values.struct.field(name)) for name in values.struct.fields)
    if isinstance(dtype, pl.Map):
        values = values.map.entries()
    elif isinstance(dtype, pl.Array):
        values = values.arr.to_list()
    elif not isinstance(dtype, pl.List):
        return least_row_bytes(dtype)
    ends = np.cumsum(_filled(values.list.len()))
    inner = values.explode(empty_as_null=False, keep_nulls=False)
    totals = np.concatenate(([0], np.cumsum(np.zeros(len(inner), dtype=np.int64) + _sizes(inner))))
    return _OFFSET_BYTES + np.diff(totals[ends], prepend=0)


def _filled(lengths: pl.Series) -> Int64Array:
    """Of what is not there: nothing."""
    return lengths.fill_null(0).to_numpy().astype(np.int64)
