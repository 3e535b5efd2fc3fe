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

if TYPE_CHECKING:
    from quantlab_dagster.kernel.survey import Survey

__all__ = ["Cut", "Window", "WindowPlan", "plan_windows"]

# Reading overlapping parts again in every window they reach into costs decoding; writing everything to runs costs
# about as much as decoding it once more. So direct reading may decode this many times the rows of the day.
_DIRECT_READ_LIMIT = 1.5


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
        parts: indices of the parts that may hold such rows, in key order.
    """

    low: Cut | None
    high: Cut | None
    parts: tuple[int, ...]

    def contains(self, key: str, position: str) -> pl.Expr:
        """Which rows of a frame lie in the window, given the names of the order and the position column."""
        inside = pl.lit(value=True)
        if self.low is not None:
            at = pl.lit(self.low.key, dtype=pl.Int64)
            inside &= (pl.col(key) > at) | ((pl.col(key) == at) & (pl.col(position) >= self.low.position))
        if self.high is not None:
            at = pl.lit(self.high.key, dtype=pl.Int64)
            inside &= (pl.col(key) < at) | ((pl.col(key) == at) & (pl.col(position) < self.high.position))
        return inside


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """The windows of a day.

    Attributes:
        windows: in order; together they cover every row exactly once.
        distribute: whether too many parts reach into too many windows for reading them once per window, so that
            they must first be distributed into one run per window.
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
    bounds: list[Cut | None] = [None, *cuts, None]
    windows = tuple(
        Window(low, high, tuple(_overlapping(survey, low, high).tolist())) for low, high in pairwise(bounds)
    )
    decoded = np.array([survey.rows[list(window.parts)].sum() for window in windows])
    distribute = len(windows) > 1 and bool(
        decoded.sum() > _DIRECT_READ_LIMIT * total or decoded.max() > 2 * max(window_rows, total // len(windows))
    )
    return WindowPlan(windows, distribute)


def _cuts(survey: Survey, count: int) -> list[Cut]:
    ranks = np.unique(np.arange(1, count) * len(survey.sample_keys) // count)
    cuts = {Cut(int(survey.sample_keys[i]), int(survey.sample_positions[i])) for i in ranks if i}
    return sorted(cuts)


def _overlapping(survey: Survey, low: Cut | None, high: Cut | None) -> np.ndarray:
    """Indices of the parts that may hold rows of [low, high)."""
    may = survey.rows > 0
    if low is not None:
        last = survey.first_positions + survey.rows - 1
        may &= (survey.maxima > low.key) | ((survey.maxima == low.key) & (last >= low.position))
    if high is not None:
        may &= (survey.minima < high.key) | ((survey.minima == high.key) & (survey.first_positions < high.position))
    return np.flatnonzero(may)
