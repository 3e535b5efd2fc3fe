"""One sweep over the windows, in which each part is decoded once: for the window in which its first row may be.

Its rows of later windows wait in memory until those come. How many that may be is known before (`plan_windows`): parts
overlap where collectors flush, and few rows are late, so that it is little; where it is not, rows go through runs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from quantlab_dagster.kernel.cuts import by_window, window_indices
from quantlab_dagster.kernel.digest import HASH, add_hashes, hashed
from quantlab_dagster.kernel.frames import POSITION, read_parts

if TYPE_CHECKING:
    from collections.abc import Generator

    from quantlab_dagster.kernel.cuts import Window, WindowPlan
    from quantlab_dagster.kernel.survey import Survey

__all__ = ["SweptWindows"]


class SweptWindows:
    """The windows of a day, read from its parts.

    Args:
        survey: of the day.
        plan: its windows.
    """

    def __init__(self, survey: Survey, plan: WindowPlan) -> None:
        self._survey = survey
        self._plan = plan
        self.count = len(plan.windows)
        self.content = 0

    def __iter__(self) -> Generator[pl.DataFrame]:
        waiting: dict[int, list[pl.DataFrame]] = defaultdict(list)
        for index, window in enumerate(self._plan.windows):
            if window.parts:
                frame = self._decoded(window)
                for later, rows in by_window(frame, self._window_of(frame)):
                    waiting[later].append(rows)
                del frame, rows
            if index in waiting:
                yield pl.concat(waiting.pop(index), rechunk=True)

    def _decoded(self, window: Window) -> pl.DataFrame:
        """The rows of the parts that begin in a window."""
        survey, parts = self._survey, np.array(window.parts)
        decoded = read_parts(
            [survey.parts[i] for i in window.parts], survey.columns, survey.first_positions[parts], survey.rows[parts]
        )
        frame = hashed(decoded, survey.columns)
        self.content = add_hashes(self.content, frame[survey.columns.helper(HASH)])
        return frame

    def _window_of(self, frame: pl.DataFrame) -> np.ndarray:
        """Which window each row belongs to."""
        keys = frame.select(self._survey.order.key()).to_series().to_numpy()
        positions = frame[self._survey.columns.helper(POSITION)].to_numpy()
        return window_indices(self._plan.cuts, keys, positions)
