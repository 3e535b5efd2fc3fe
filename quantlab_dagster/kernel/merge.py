"""The windowed merge: the one algorithm for every size and both lakes.

Per window: decode the parts that begin in it, hash their rows, keep the window's, sort them by the order column and
their position, number them on, hand them to the writer. Windows are decoded ahead, and row groups encoded behind, each
on threads of their own. What the writer reads back of each row group must be exactly the rows of the parts, by the
hashes they had when they were decoded, in exactly the order in which they were sorted.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import polars as pl

from quantlab_dagster.errors import AuditFailed, Cancelled
from quantlab_dagster.kernel.ahead import ahead
from quantlab_dagster.kernel.audit import Ledger, audit
from quantlab_dagster.kernel.budget import DEFAULT_BUDGET_BYTES, release_memory, row_bytes, window_rows
from quantlab_dagster.kernel.columns import SEQ
from quantlab_dagster.kernel.cuts import plan_windows
from quantlab_dagster.kernel.digest import HASH, add_hashes, hashed
from quantlab_dagster.kernel.frames import POSITION
from quantlab_dagster.kernel.parts import sound_copies
from quantlab_dagster.kernel.ranks import stable_order
from quantlab_dagster.kernel.room import check_room
from quantlab_dagster.kernel.spread import SpreadWindows
from quantlab_dagster.kernel.survey import KEPT_SHARE
from quantlab_dagster.kernel.sweep import SweptWindows
from quantlab_dagster.kernel.terms import Merged
from quantlab_dagster.kernel.writer import ROW_GROUP_ROWS, SortedFileWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    import numpy as np

    from quantlab_dagster.kernel.survey import Survey
    from quantlab_dagster.kernel.terms import Observer

__all__ = ["Merged", "merge"]


class Windows(Protocol):
    """Where the rows of a window come from: what the survey kept, the parts, or runs distributed from them."""

    count: int
    """How many there are."""
    content: int
    """Hash of all rows decoded from the parts, each counted once."""

    def __iter__(self) -> Generator[pl.DataFrame]:
        """One frame per window: varying columns, position and hash (`hashed`), in position order."""
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
    threads: int = 2,
    split: bool = True,
    observer: Observer | None = None,
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
        row_group_rows: rows per row group of the file, where the usual number does not fit; of wide rows fewer.
        threads: how many row groups are encoded, and batches distributed, at once; they do not show in the bytes.
        split: whether floats may be split into streams of bytes (`encodings`).
        observer: watches the rows as they are handed to the file.
        cancelled: asked between windows; when it says yes the merge stops.

    Raises:
        BadPart: a part cannot be decoded, or contradicts its footer.
        AuditFailed: the file is not proved to be right. This is a bug or broken hardware.
        Cancelled: as asked.
        MachineFault: what lay on the disk was damaged there.
    """
    with sound_copies(survey.parts, always=True):
        windows = _windows(survey, scratch, budget_bytes, row_group_rows or ROW_GROUP_ROWS, threads, cancelled)
        ledger = Ledger()
        observation = observer.begin(survey.columns.constants) if observer is not None else None
        with (
            SortedFileWriter(
                output,
                survey.columns,
                survey.order,
                metadata,
                row_group_rows=row_group_rows,
                threads=threads,
                budget_bytes=budget_bytes,
                split=split,
            ) as writer,
            closing(ahead(iter(windows)) if windows.count > 1 else iter(windows)) as frames,
        ):
            for frame in frames:
                if cancelled():
                    raise Cancelled
                ordered = _ordered(frame, survey)
                del frame  # each of these is as large as a window, and the next ones are on their way
                ledger.record(ordered, survey, bucket_width)
                if observation is not None:
                    observation.see(ordered[survey.columns.varying], ordered[survey.columns.helper(HASH)])
                writer.append(_numbered(ordered, survey, ledger.rows - ordered.height))
                del ordered
        release_memory(survey)
        digest = writer.written.digest
        audit(output, survey, windows.content, ledger, digest)
    return Merged(
        rows=digest.rows,
        key_min=digest.key_min,
        key_max=digest.key_max,
        columns=survey.columns.described(numbered=survey.order.numbered),
        widened=dict(survey.columns.widened),
        size_bytes=output.stat().st_size,
        windows=windows.count,
        distributed=isinstance(windows, SpreadWindows),
        histogram=tuple(sorted(ledger.histogram.items())),
        digest=digest,
        sha256=writer.written.sha256,
        seen=observation.result() if observation is not None else None,
    )


def _windows(
    survey: Survey, scratch: Path, budget_bytes: int, row_group_rows: int, threads: int, cancelled: Callable[[], bool]
) -> Windows:
    if survey.decoded is not None and survey.decoded.estimated_size() <= budget_bytes // KEPT_SHARE:
        return _Whole(survey, survey.decoded)
    bytes_a_row = row_bytes(survey)
    rows = window_rows(bytes_a_row, budget_bytes, row_group_rows)
    plan = plan_windows(survey, rows)
    if not plan.distribute:
        return SweptWindows(survey, plan)
    check_room(scratch, bytes_a_row * int(survey.rows.sum()), survey.parts[0].key)  # they all lie there, decoded
    return SpreadWindows(survey, plan, scratch, rows, cancelled, threads)


class _Whole:
    """One window of all rows, which the survey has kept."""

    count = 1

    def __init__(self, survey: Survey, decoded: pl.DataFrame) -> None:
        self._survey = survey
        self._decoded = decoded
        self.content = 0

    def __iter__(self) -> Generator[pl.DataFrame]:
        frame = hashed(self._decoded, self._survey.columns)
        self.content = add_hashes(0, frame[self._survey.columns.helper(HASH)])
        yield frame


def _ordered(frame: pl.DataFrame, survey: Survey) -> pl.DataFrame:
    """Sort a window and prove that (order value, position) strictly increases: ties are in order, nothing is twice."""
    position = survey.columns.helper(POSITION)
    # By the key, not the column: a null and the smallest integer are equal, and tie by position.
    places = frame.select(survey.order.key().alias("key"), pl.col(position).alias("position"))
    keys, positions = places["key"].to_numpy(), places["position"].to_numpy()
    if not _is_total_order(keys, positions):
        # Only the places are sorted; the rows are gathered once.
        rows = _order(keys, positions)
        frame = frame[pl.Series(rows)]
        if not _is_total_order(keys[rows], positions[rows]):
            cause = "a window is not in the total order after sorting"
            raise AuditFailed(survey.order.column, cause, "Please report this")
    return frame


def _order(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The indices that sort rows by (key, position)."""
    if bool((positions[1:] > positions[:-1]).all()):  # but where a part begins after one that follows it
        return stable_order(keys)
    by_position = stable_order(positions)
    return by_position[stable_order(keys[by_position])]


def _is_total_order(keys: np.ndarray, positions: np.ndarray) -> bool:
    later = keys[1:] > keys[:-1]
    tied_in_order = (keys[1:] == keys[:-1]) & (positions[1:] > positions[:-1])
    return bool((later | tied_in_order).all())


def _numbered(frame: pl.DataFrame, survey: Survey, first: int) -> pl.DataFrame:
    """What goes to the writer: the varying columns, and `seq` after the order column where the file has it.

    Args:
        frame: rows of a window, in order.
        survey: of all parts.
        first: how many rows come before them.
    """
    frame = frame[survey.columns.varying]
    if not survey.order.numbered:
        return frame
    numbers = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True).alias(SEQ)
    return frame.insert_column(frame.columns.index(survey.order.column) + 1, numbers)
