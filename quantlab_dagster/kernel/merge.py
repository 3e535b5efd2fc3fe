"""The windowed merge: the one algorithm for every size and both lakes.

Per window: decode the parts that reach into it, keep the window's rows, sort them stably by the order column, number
them on, hand them to the encoder, which works while the next window is decoded. Afterwards the written file is read
back and must hold exactly the rows of the parts, in exactly the order they were written.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from quantlab_dagster.errors import AuditFailed, Cancelled
from quantlab_dagster.kernel.audit import Ledger, audit
from quantlab_dagster.kernel.budget import DEFAULT_BUDGET_BYTES, release_memory, row_bytes, window_rows
from quantlab_dagster.kernel.cuts import WindowPlan, plan_windows
from quantlab_dagster.kernel.digest import add_hashes, digest_file, row_hashes
from quantlab_dagster.kernel.frames import POSITION, read_parts
from quantlab_dagster.kernel.spread import SpreadWindows
from quantlab_dagster.kernel.sums import file_sha256
from quantlab_dagster.kernel.terms import Merged
from quantlab_dagster.kernel.writer import ROW_GROUP_ROWS, SortedFileWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from quantlab_dagster.kernel.columns import Columns
    from quantlab_dagster.kernel.cuts import Window
    from quantlab_dagster.kernel.survey import Survey

__all__ = ["Merged", "merge"]


class Windows(Protocol):
    """Where the rows of a window come from: the parts themselves, or runs distributed from them."""

    content: int
    """Hash of all rows decoded from the parts, each counted once."""

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """One frame per window: varying columns and position, in position order."""
        ...


def merge(
    survey: Survey,
    output: Path,
    *,
    scratch: Path,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    bucket_width: int | None = None,
    metadata: dict[str, str] | None = None,
    row_group_rows: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Merged:
    """Merge surveyed parts into one sorted, audited file.

    Args:
        survey: of all parts, in key order.
        output: file to write; what it held is replaced.
        scratch: existing directory for runs, needed only where parts overlap badly.
        budget_bytes: memory to stay within, beyond the compressed parts and what the process needs anyway. The least
            it can work with is a few times the largest row group among the parts.
        bucket_width: width of the histogram's buckets, in units of the order column.
        metadata: key-value pairs for the file.
        row_group_rows: rows per row group of the file, where the usual number does not fit.
        cancelled: asked between windows; when it says yes the merge stops.

    Raises:
        BadPart: a part cannot be decoded, or contradicts its footer.
        AuditFailed: the file is not proved to be right. This is a bug or broken hardware.
        Cancelled: as asked.
    """
    rows = window_rows(row_bytes(survey), budget_bytes, row_group_rows or ROW_GROUP_ROWS)
    plan = plan_windows(survey, rows)
    windows: Windows = (
        SpreadWindows(survey, plan, scratch, rows, cancelled) if plan.distribute else _Direct(survey, plan)
    )
    ledger = Ledger()
    with (
        SortedFileWriter(output, survey.columns, survey.order, metadata, row_group_rows=row_group_rows) as writer,
        ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder,
    ):
        encoding: Future[None] | None = None
        for frame in windows:
            if cancelled():
                raise Cancelled
            ordered = _ordered(frame, survey)
            ledger.record(ordered, survey, bucket_width)
            if encoding is not None:
                encoding.result()
            encoding = encoder.submit(writer.append, ordered.select(survey.columns.varying))
        if encoding is not None:
            encoding.result()
    release_memory(survey)
    sha256 = file_sha256(output)
    digest = digest_file(
        output, survey.order.column, numbered=survey.order.numbered, constants=survey.columns.constants
    )
    release_memory(survey)
    audit(output, survey, windows.content, ledger, digest)
    return Merged(
        rows=digest.rows,
        key_min=digest.key_min,
        key_max=digest.key_max,
        columns=_file_columns(survey),
        size_bytes=output.stat().st_size,
        windows=len(plan.windows),
        distributed=plan.distribute,
        histogram=tuple(sorted(ledger.histogram.items())),
        digest=digest,
        sha256=sha256,
    )


class _Direct:
    """Windows read straight from the parts that reach into them."""

    def __init__(self, survey: Survey, plan: WindowPlan) -> None:
        self._survey = survey
        self._plan = plan
        self.content = 0

    def __iter__(self) -> Iterator[pl.DataFrame]:
        seen = np.zeros(len(self._survey.parts), dtype=bool)
        for window in self._plan.windows:
            if window.parts:
                yield self._read(window, seen)

    def _read(self, window: Window, seen: np.ndarray) -> pl.DataFrame:
        survey = self._survey
        parts = np.array(window.parts)
        frame = read_parts(
            [survey.parts[i] for i in window.parts], survey.columns, survey.first_positions[parts], survey.rows[parts]
        )
        # A part that reaches into several windows is hashed as a whole where it is first met.
        hashes = row_hashes(frame.select(survey.columns.varying))
        if seen[parts].any():
            hashes = hashes.filter(pl.Series(np.repeat(~seen[parts], survey.rows[parts])))
        self.content = add_hashes(self.content, hashes)
        seen[parts] = True
        if window.low is None and window.high is None:
            return frame
        key, position = survey.columns.helper("key"), survey.columns.helper(POSITION)
        inside = frame.select(survey.order.key().alias(key), position).select(window.contains(key, position))
        return frame.filter(inside.to_series())


def _ordered(frame: pl.DataFrame, survey: Survey) -> pl.DataFrame:
    """Sort a window and prove that (order value, position) strictly increases: ties are in order, nothing is twice."""
    position = survey.columns.helper(POSITION)
    keys = frame.select(survey.order.key()).to_series()
    if not keys.is_sorted():
        # By the key, not the column: a null and the smallest integer are equal, and tie by position.
        frame = frame.sort(survey.order.key(), maintain_order=True)
        keys = frame.select(survey.order.key()).to_series()
    key_values, positions = keys.to_numpy(), frame[position].to_numpy()
    later = key_values[1:] > key_values[:-1]
    tied_in_order = (key_values[1:] == key_values[:-1]) & (positions[1:] > positions[:-1])
    if not (later | tied_in_order).all():
        raise AuditFailed(survey.order.column, "a window is not in the total order after sorting", "Please report this")
    return frame


def _file_columns(survey: Survey) -> dict[str, str]:
    columns: Columns = survey.columns
    result: dict[str, str] = {}
    for name, dtype in columns.dtypes.items():
        result[name] = str(dtype)
        if name == columns.order_by and survey.order.numbered:
            result["seq"] = "Int64"
    return result
