"""How much memory a merge takes: how many rows a window may have, and giving back what allocators keep."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from quantlab_dagster.kernel.frames import read_parts
from quantlab_dagster.kernel.terms import DEFAULT_BUDGET_BYTES
from quantlab_dagster.kernel.writer import ROW_GROUP_BYTES, ROW_GROUP_ROWS

if TYPE_CHECKING:
    from quantlab_dagster.kernel.survey import Survey

__all__ = ["DEFAULT_BUDGET_BYTES", "release_memory", "row_bytes", "window_rows"]

_LARGE_BYTES = 16 << 20
_C = ctypes.CDLL(None)

# Measured on the real-size day (benchmarks/): peak memory grows by 4.6 copies of a window (decoded, sorted, waiting for
# the encoder, the sort's own), above about 160 MB that no window size changes. Windows of fewer rows than would fit
# are no slower, and leave room for what allocators keep.
_COPIES_OF_WINDOW = 11
_COPIES_OF_ROW_GROUP = 2
_FIXED_BYTES = 128 << 20
_HELPER_BYTES = 24  # position, hash, sort index


def window_rows(row_bytes: int, budget_bytes: int, row_group_rows: int = ROW_GROUP_ROWS) -> int:
    """How many rows a window may have.

    Args:
        row_bytes: decoded size of a row's varying columns.
        budget_bytes: memory for the merge, without the compressed parts.
        row_group_rows: rows that the writer holds until they fill a row group.
    """
    row = row_bytes + _HELPER_BYTES
    row_group_bytes = min(row_group_rows * row, ROW_GROUP_BYTES)
    available = budget_bytes - _FIXED_BYTES - _COPIES_OF_ROW_GROUP * row_group_bytes
    # Never less than an eighth of the budget: what is fixed may not starve the windows.
    return max(1, max(available, budget_bytes // 8) // (_COPIES_OF_WINDOW * row))


def release_memory(survey: Survey) -> None:
    """Give back what allocators keep for later, after a large merge.

    Arrow's keeps 400 MB after writing 2.5 million wide rows, and that of the C library, in the arenas of threads that
    have ended, 100 MB more with each such merge (benchmarks/README.md).
    """
    if survey.total_bytes < _LARGE_BYTES:
        return
    pa.default_memory_pool().release_unused()
    trim = getattr(_C, "malloc_trim", None)  # GNU only
    if trim is not None:
        trim(0)


def row_bytes(survey: Survey) -> int:
    """Decoded bytes of a row's varying columns, measured on the parts with the largest rows.

    Parts of very few rows count by their share of all rows: one odd row must not shrink every window, and many that are
    wide must not be overlooked.
    """
    filled = np.flatnonzero(survey.rows)
    if not filled.size:
        return 1
    usual = survey.rows[filled] * 2 >= np.median(survey.rows[filled])
    few = filled[~usual]
    rows = int(survey.rows[few].sum())
    least, total = _most_row_bytes(survey, filled[usual]), survey.total_rows
    return least if not rows else max(least, (least * (total - rows) + _most_row_bytes(survey, few) * rows) // total)


def _most_row_bytes(survey: Survey, indices: np.ndarray) -> int:
    density = np.array([survey.parts[i].size_bytes for i in indices]) / survey.rows[indices]
    densest = indices[np.argsort(-density, kind="stable")[:3]]
    longest = indices[np.argmax(survey.rows[indices])]
    return max(_measured_row_bytes(survey, index) for index in {*densest.tolist(), int(longest)})


def _measured_row_bytes(survey: Survey, index: int) -> int:
    offset, length = next(survey.footers[index].slices(1))
    frame = read_parts(
        [survey.parts[index]],
        survey.columns,
        survey.first_positions[[index]],
        survey.rows[[index]],
        part_slice=None if length == survey.rows[index] else (offset, length),
    )
    return max(1, int(frame.to_arrow(compat_level=pl.CompatLevel.oldest()).nbytes) // frame.height)
