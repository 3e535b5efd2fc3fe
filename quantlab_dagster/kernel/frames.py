"""Decoding: parts in, one frame of the united columns out, each row knowing its position in the day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from quantlab_dagster.errors import CorruptPart
from quantlab_dagster.kernel.faults import raise_machine_fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.columns import Columns
    from quantlab_dagster.kernel.parts import Part

__all__ = ["POSITION", "UNREADABLE", "read_parts", "scan"]

POSITION = "position"
"""Base name of the helper column with a row's position in the day: Int64, the number of rows before it in
(part, row) order. (order column, position) is the total order of a day."""

# What Polars raises for damaged input. A panic of its Rust core is no Exception in Python.
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)

# Lossless casts only: the others (`integer_cast="allow-float"`, `extra_columns="ignore"`) lose data silently.
_LOSSLESS = pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast", categorical_to_string="allow")


def scan(parts: Sequence[Part], dtypes: dict[str, pl.DataType], row_index: str) -> pl.LazyFrame:
    """One scan over all parts, in order, with the given columns and a row index over their concatenation."""
    sources: list[bytes] | list[Path] = [part.source for part in parts]  # type: ignore[assignment]
    return pl.scan_parquet(
        sources,
        schema=dtypes,
        missing_columns="insert",
        extra_columns="raise",
        cast_options=_LOSSLESS,
        row_index_name=row_index,
        glob=False,
        hive_partitioning=False,
        cache=False,
    )


def read_parts(
    parts: Sequence[Part],
    columns: Columns,
    first_positions: np.ndarray,
    rows: np.ndarray,
    *,
    part_slice: tuple[int, int] | None = None,
) -> pl.DataFrame:
    """Decode the varying columns of parts, and add each row's position in the day.

    Args:
        parts: in key order, none of them without rows.
        columns: the united columns.
        first_positions: position of each part's first row, int64, shape (parts,).
        rows: rows that each part's footer declares, int64, shape (parts,).
        part_slice: (offset, length) to read rows of one part only; then `parts` holds just that part.

    Returns:
        The varying columns and the position column (Int64), in position order.

    Raises:
        CorruptPart: naming the part that cannot be decoded, or that contradicts its own footer.
    """
    position = columns.helper(POSITION)
    try:
        lazy = scan(parts, columns.dtypes, position).select(*columns.varying, position)
        if part_slice is not None:
            lazy = lazy.slice(*part_slice)
        frame = lazy.collect(engine="streaming")
    except UNREADABLE as error:
        raise blame(parts, rows, columns, error) from error
    expected = int(rows.sum()) if part_slice is None else part_slice[1]
    if frame.height != expected:
        raise blame(parts, rows, columns, f"{frame.height} rows were decoded where the footers declare {expected}")
    if part_slice is None:
        starts = np.concatenate(([0], np.cumsum(rows)[:-1]))
        shift = pl.Series(np.repeat(first_positions - starts, rows))
    else:
        shift = pl.Series([int(first_positions[0])], dtype=pl.Int64)
    return frame.with_columns((pl.col(position).cast(pl.Int64) + shift).alias(position))


def blame(parts: Sequence[Part], rows: np.ndarray, columns: Columns, error: object) -> CorruptPart:
    """Find the part that cannot be read: with many buffers in one scan, Polars does not say which it was.

    Args:
        parts: those read together.
        rows: rows that each part's footer declares.
        columns: the united columns.
        error: what happened when they were read together.

    Raises:
        MachineFault: it is the fault of none.
    """
    if isinstance(error, BaseException):
        raise_machine_fault(error, parts[0].key)
    for part, expected in zip(parts, rows.tolist(), strict=True):
        # Decodes every column, and holds none of them: the culprit may be huge.
        lazy = scan([part], columns.dtypes, columns.helper(POSITION))
        counts = lazy.select(pl.all().null_count(), pl.len().alias(columns.helper("rows")))
        try:
            decoded = counts.collect(engine="streaming")[columns.helper("rows")][0]
        except UNREADABLE as own_error:
            raise_machine_fault(own_error, part.key)
            return CorruptPart(part.key, f"cannot be decoded ({_brief(own_error)})")
        if decoded != expected:
            return CorruptPart(part.key, f"{decoded} rows were decoded where the footer declares {expected}")
    names = parts[0].key if len(parts) == 1 else f"{parts[0].key} … {parts[-1].key}"
    return CorruptPart(names, f"cannot be decoded ({_brief(error)})")


def _brief(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
