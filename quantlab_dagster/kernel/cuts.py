"""Cutting a day into windows: disjoint, consecutive ranges of the total order (order value, position).

Pure arithmetic on the survey's arrays. Because a cut is a pair, a single time stamp shared by more rows than a window
may hold is cut by position, without a special case. Cuts come from the ranks of an evenly ranked sample of every run of
parts, which bounds the error of a window's size (Munro & Paterson 1980, "Selection and sorting with limited storage").
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from quantlab_dagster.kernel.ranks import stable_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantlab_dagster.kernel.survey import Survey

__all__ = ["Cut", "Window", "WindowPlan", "by_window", "plan_windows", "window_indices"]


_FEW_CUTS = 16
# Rows of so many windows may wait for later windows. They are there once; those of a window that is decoded, sorted and
# encoded are there more often (`budget`).
_MOST_WAITING = 4


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """A place in the total order: before the row with this order value and position."""

    key: int
    position: int


@dataclass(frozen=True, slots=True)
class Window:
    """Rows from `low` (inclusive) up to `high` (exclusive); None is open.

    Attributes:
        low: first row's place.
        high: the next window's first place.
        parts: indices of the parts whose first rows may be here, in key order. Each part is in one window.
    """

    low: Cut | None
    high: Cut | None
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """The windows of a day.

    Attributes:
        windows: in order; together they cover every row exactly once.
        distribute: whether so many rows of parts would wait for later windows that they must first be distributed into
            one run per window.
    """

    windows: tuple[Window, ...]
    distribute: bool

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The places between windows."""
        return tuple(window.high for window in self.windows if window.high is not None)


def plan_windows(survey: Survey, window_rows: int) -> WindowPlan:
    """Cut the day into windows of about `window_rows` rows.

    The survey's sample decides where; a day no larger than 1.25 windows stays whole.
    """
    total = survey.total_rows
    count = 1 if total <= window_rows * 5 // 4 else -(-total // window_rows)
    cuts = _cuts(survey, count)
    filled = np.flatnonzero(survey.rows)
    rows, first = survey.rows[filled], survey.first_positions[filled]
    opened = window_indices(cuts, survey.minima[filled], first)
    closed = window_indices(cuts, survey.maxima[filled], first + rows - 1)
    bounds: list[Cut | None] = [None, *cuts, None]
    windows = tuple(
        Window(low, high, tuple(filled[opened == index].tolist())) for index, (low, high) in enumerate(pairwise(bounds))
    )
    # Rows of the parts that reach from before a cut to behind it.
    change = np.bincount(opened, rows, len(windows)) - np.bincount(closed, rows, len(windows))
    waiting = np.cumsum(change)
    return WindowPlan(windows, distribute=bool(waiting.max() > _MOST_WAITING * max(window_rows, total // len(windows))))


def window_indices(cuts: Sequence[Cut], keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Which window each row belongs to: by comparing with a few cuts, or by binary search among many.

    Args:
        cuts: in order.
        keys: of the rows, int64.
        positions: of the rows, int64.

    Returns:
        Indices, int64, as many as there are rows.
    """
    cut_keys = np.array([cut.key for cut in cuts], dtype=np.int64)
    cut_positions = np.array([cut.position for cut in cuts], dtype=np.int64)
    if len(keys):
        least = int(np.searchsorted(cut_keys, keys.min(), side="left"))
        near = cuts[least : int(np.searchsorted(cut_keys, keys.max(), side="right"))]
        if len(near) <= _FEW_CUTS:
            window = np.full(len(keys), least, dtype=np.int64)
            for cut in near:
                window += (keys > cut.key) | ((keys == cut.key) & (positions >= cut.position))
            return window
    window = np.searchsorted(cut_keys, keys, side="left")
    last = np.searchsorted(cut_keys, keys, side="right")
    # Rows that share their order value with cuts: those cuts count that are at or before their position.
    for low, high in np.unique(np.stack((window, last))[:, window < last], axis=1).T.tolist():
        tied = np.flatnonzero((window == low) & (last == high))
        window[tied] = low + np.searchsorted(cut_positions[low:high], positions[tied], side="right")
    return window


def by_window(frame: pl.DataFrame, indices: np.ndarray) -> Iterator[tuple[int, pl.DataFrame]]:
    """The rows of each window that some belong to, in the order in which they are; the windows in any.

    Args:
        frame: any rows.
        indices: the window of each, int64.
    """
    counts = np.bincount(indices)
    most = int(counts.argmax()) if len(counts) else 0
    if len(counts) and 2 * counts[most] > len(indices) > counts[most]:  # then leaving the others out is faster
        belong = indices == most
        yield most, frame.filter(pl.Series(belong))
        frame, indices = frame.filter(pl.Series(~belong)), indices[~belong]
        counts[most] = 0
    [present] = counts.nonzero()
    if len(present) > 1:
        frame = frame[pl.Series(stable_order(indices))]
    start = 0
    for window in present.tolist():
        yield window, frame.slice(start, int(counts[window]))  # of one frame, which stays as long as one of them does
        start += int(counts[window])


def _cuts(survey: Survey, count: int) -> list[Cut]:
    ranks = np.unique(np.arange(1, count) * len(survey.sample_keys) // count)
    cuts = {Cut(int(survey.sample_keys[i]), int(survey.sample_positions[i])) for i in ranks if i}
    return sorted(cuts)
