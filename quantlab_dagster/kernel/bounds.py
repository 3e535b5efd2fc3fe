"""Bounds before decoding: what a part declares of itself is compared with its size and with the budget.

A part of 221 bytes can declare a hundred million rows of one run, and a decoder would make them. Headers are not
believed, and cannot all be checked before the pages are read: what gets past this meets the memory limit of the
process that decodes (work/guard.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from quantlab_dagster.errors import CorruptPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polars.datatypes import DataTypeClass

    from quantlab_dagster.kernel.terms import Part

__all__ = ["check_rows", "check_shape", "check_width", "least_row_bytes"]

# A column of a million equal values takes about a hundred bytes; a thousand times fewer rows a byte are usual.
FREE_ROWS = 1 << 20
ROWS_PER_BYTE = 1 << 12
MOST_COLUMNS = 10_000
MOST_CHUNKS = 1_000_000
# Below this no budget is too small: a few parts of the usual size are decoded together anyway.
LEAST_SHARE_BYTES = 64 << 20

_VIEW_BYTES = 16  # of a string or binary value, however short
_OFFSET_BYTES = 8
_FIXED_BYTES: dict[object, int] = {
    pl.Boolean: 1,
    pl.Int8: 1,
    pl.UInt8: 1,
    pl.Int16: 2,
    pl.UInt16: 2,
    pl.Int32: 4,
    pl.UInt32: 4,
    pl.Float32: 4,
    pl.Date: 4,
    pl.Int128: 16,
    pl.UInt128: 16,
    pl.Decimal: 16,
    pl.String: _VIEW_BYTES,
    pl.Binary: _VIEW_BYTES,
    pl.Categorical: 4,
    pl.Enum: 1,
    pl.Null: 0,
}


def check_shape(part: Part, columns: int, row_groups: int) -> None:
    """Refuse a part of more columns than anything here would get through in time.

    Raises:
        CorruptPart: with the figures.
    """
    if columns > MOST_COLUMNS or columns * row_groups > MOST_CHUNKS:
        cause = (
            f"declares {columns:,} columns in {row_groups:,} row groups; at most {MOST_COLUMNS:,} columns and "
            f"{MOST_CHUNKS:,} column chunks are read"
        )
        raise CorruptPart(part.key, cause)


def check_rows(part: Part, rows: int, row_groups: Sequence[int]) -> None:
    """Refuse a part whose number of rows contradicts itself, or is out of all proportion to its size.

    Raises:
        CorruptPart: with the figures.
    """
    if min(row_groups, default=0) < 0 or sum(row_groups) != rows:
        cause = f"its row groups of {tuple(row_groups)} rows do not add up to the {rows} that it declares"
        raise CorruptPart(part.key, cause)
    most = FREE_ROWS + ROWS_PER_BYTE * part.size_bytes
    if rows > most:
        cause = (
            f"declares {rows:,} rows in {len(row_groups)} row groups of {part.size_bytes:,} bytes together; "
            f"at most {most:,} are read of a part of that size"
        )
        raise CorruptPart(part.key, cause)


def check_width(part: Part, row_groups: Sequence[int], row_bytes: int, budget_bytes: int) -> None:
    """Refuse a part whose largest row group takes more than the budget, whatever its values are.

    A row group is the least that is decoded at once; a larger part is streamed, row group by row group.

    Args:
        part: it.
        row_groups: rows of each.
        row_bytes: what a row takes at least (`least_row_bytes` of its columns).
        budget_bytes: what a row group may take.

    Raises:
        CorruptPart: with the figures.
    """
    share = max(LEAST_SHARE_BYTES, budget_bytes)
    largest = max(row_groups, default=0)
    if largest * row_bytes > share:
        cause = (
            f"declares {largest:,} rows of at least {row_bytes:,} bytes in one row group: {largest * row_bytes:,} "
            f"bytes, where a row group may take {share:,}; a larger memory budget allows for it"
        )
        raise CorruptPart(part.key, cause)


def least_row_bytes(dtype: pl.DataType | DataTypeClass) -> int:
    """Bytes that one decoded value takes at least, whatever it is."""
    if isinstance(dtype, pl.Struct):
        return sum((least_row_bytes(field.dtype) for field in dtype.fields), 0)
    if isinstance(dtype, pl.Array):
        return dtype.size * least_row_bytes(dtype.inner)
    if isinstance(dtype, (pl.List, pl.Map)):
        return _OFFSET_BYTES
    return _FIXED_BYTES.get(dtype.base_type(), 8)
