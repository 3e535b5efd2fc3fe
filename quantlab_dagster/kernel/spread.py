"""Distribution into runs, for days of which too many rows would wait for later windows.

That is one huge unsorted part, or every part spanning the whole day. Each part is decoded once, its rows are appended
to the run of their window on local disk, and a window is then read from its run alone (the distribution pass of an
external bucket sort, Knuth TAOCP 3, 5.4.9).
"""

from __future__ import annotations

import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa

from quantlab_dagster.errors import Cancelled, MachineFault
from quantlab_dagster.kernel.cuts import by_window, window_indices
from quantlab_dagster.kernel.digest import HASH, add_hashes, hashed
from quantlab_dagster.kernel.frames import POSITION, read_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from quantlab_dagster.kernel.cuts import WindowPlan
    from quantlab_dagster.kernel.survey import Survey

__all__ = ["SpreadWindows"]

# Rows of so many times `batch_rows` may be under way; above that, one batch, which is a single row group then.
_MOST_UNDER_WAY = 2


class SpreadWindows:
    """The windows of a day, read from runs.

    Args:
        survey: of the day.
        plan: its windows.
        scratch: directory for the runs, one Arrow stream after another in one file per window; removed as they are
            read.
        batch_rows: how many rows to decode at once; a single row group may be larger, and is then decoded by itself.
        threads: how many batches are decoded and taken apart at once, each of its share of those rows.
        cancelled: asked between batches.

    Raises:
        Cancelled: on iteration, as asked.
        MachineFault: on iteration, a run does not hold any more what was written to it.
    """

    def __init__(
        self,
        survey: Survey,
        plan: WindowPlan,
        scratch: Path,
        batch_rows: int,
        cancelled: Callable[[], bool],
        threads: int,
    ) -> None:
        self._survey = survey
        self._plan = plan
        self._scratch = scratch
        self._batch_rows = max(1, batch_rows // threads)
        self._most_rows = _MOST_UNDER_WAY * batch_rows
        self._threads = threads
        self._cancelled = cancelled
        self._checksums: dict[int, int] = {}
        self.count = len(plan.windows)
        self.content = 0

    def __iter__(self) -> Generator[pl.DataFrame]:
        try:
            self._distribute()
            for index in range(len(self._plan.windows)):
                path = self._path(index)
                if path.exists():
                    yield _read_run(path, self._checksums[index])
                    path.unlink()
        finally:
            for index in range(len(self._plan.windows)):
                self._path(index).unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        return self._scratch / f"run-{index:06d}.arrows"

    def _distribute(self) -> None:
        """Several batches at once; their rows are appended in their order."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="spread") as pool:
            coming: deque[tuple[int, Future[_Batch]]] = deque()
            under_way = 0
            try:
                for rows, decode in self._batches():
                    if self._cancelled():
                        raise Cancelled
                    # One more than are in work: this thread writes meanwhile. Row groups, which are not cut, may be
                    # as large as the budget: then one after the other.
                    while coming and (len(coming) > self._threads or under_way + rows > self._most_rows):
                        under_way -= self._append_next(coming)
                    coming.append((rows, pool.submit(self._taken_apart, decode)))
                    under_way += rows
                while coming:
                    self._append_next(coming)
            finally:
                for _, batch in coming:
                    batch.cancel()

    def _append_next(self, coming: deque[tuple[int, Future[_Batch]]]) -> int:
        """Append the rows of the first batch, and return how many they are; nothing holds them then."""
        rows, batch = coming.popleft()
        self._append(batch.result())
        return rows

    def _taken_apart(self, decode: Callable[[], pl.DataFrame]) -> _Batch:
        """What goes to which run; in a thread, so that nothing of this is changed."""
        columns = self._survey.columns
        frame = hashed(decode(), columns)
        return _Batch(frame[columns.helper(HASH)], list(by_window(frame, self._window_of(frame))))

    def _append(self, batch: _Batch) -> None:
        self.content = add_hashes(self.content, batch.hashes)
        for window, rows in batch.windows:
            table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
            with self._path(window).open("ab") as file:
                summed = _Summed(file, self._checksums.get(window, 0))
                with pa.ipc.new_stream(pa.PythonFile(summed, "w"), table.schema) as stream:
                    stream.write_table(table)
            # Not only against another value: Arrow may end the process over a stream that is damaged.
            self._checksums[window] = summed.checksum

    def _window_of(self, frame: pl.DataFrame) -> np.ndarray:
        """Which window each row belongs to."""
        keys = frame.select(self._survey.order.key()).to_series().to_numpy()
        positions = frame[self._survey.columns.helper(POSITION)].to_numpy()
        return window_indices(self._plan.cuts, keys, positions)

    def _batches(self) -> Iterator[tuple[int, Callable[[], pl.DataFrame]]]:
        """What decodes all rows of all parts in position order, in frames of about a thread's share of rows each."""
        survey = self._survey
        waiting: list[int] = []
        for index in np.flatnonzero(survey.rows).tolist():
            rows = int(survey.rows[index])
            if waiting and int(survey.rows[waiting].sum()) + rows > self._batch_rows:
                yield int(survey.rows[waiting].sum()), partial(self._read, waiting)
                waiting = []
            if rows > self._batch_rows:
                for part_slice in survey.footers[index].slices(self._batch_rows):
                    decode = partial(
                        read_parts,
                        [survey.parts[index]],
                        survey.columns,
                        survey.first_positions[[index]],
                        survey.rows[[index]],
                        part_slice=part_slice,
                    )
                    yield part_slice[1], decode
            else:
                waiting.append(index)
        if waiting:
            yield int(survey.rows[waiting].sum()), partial(self._read, waiting)

    def _read(self, indices: list[int]) -> pl.DataFrame:
        survey = self._survey
        return read_parts(
            [survey.parts[i] for i in indices],
            survey.columns,
            survey.first_positions[indices],
            survey.rows[indices],
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that were decoded together: the hash of each, and those of each window."""

    hashes: pl.Series
    windows: list[tuple[int, pl.DataFrame]]


class _Summed:
    """What PyArrow takes for a file: a file, and the checksum of what goes into it, without a copy of it."""

    closed = False

    def __init__(self, file: BinaryIO, checksum: int) -> None:
        self._file = file
        self.checksum = checksum

    def write(self, content: Any) -> int:
        """Write bytes, or what has some."""
        self.checksum = zlib.crc32(content, self.checksum)
        return self._file.write(content)

    def flush(self) -> None:
        """Nothing waits here."""


def _read_run(path: Path, checksum: int) -> pl.DataFrame:
    content = path.read_bytes()
    if zlib.crc32(content) != checksum:
        cause = "this temporary file holds other bytes than were written to it"
        raise MachineFault(str(path), cause, "Check this machine's memory and disk, or set QUANTLAB_SCRATCH_DIR")
    source = pa.BufferReader(content)
    tables = []
    while source.tell() < len(content):
        tables.append(pa.ipc.open_stream(source).read_all())
    table = pa.concat_tables(tables)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # a table with columns is never a Series
    frame.columns = table.column_names  # Polars takes an empty name for none
    return frame
