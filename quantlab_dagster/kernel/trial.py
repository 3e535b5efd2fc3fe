"""Decoding one part alone, all of it: what remains of a merge when the process that did it has died of a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantlab_dagster.kernel.digest import row_hashes
from quantlab_dagster.kernel.frames import read_parts
from quantlab_dagster.kernel.survey import Surveyor

if TYPE_CHECKING:
    from quantlab_dagster.kernel.terms import Order, Part

__all__ = ["try_part"]

_ROWS_AT_ONCE = 1 << 18


def try_part(part: Part, order: Order, budget_bytes: int) -> None:
    """Survey and decode a part, as a merge would, and keep nothing of it.

    Args:
        part: to be tried. If it is what a decoder dies of, this does not return.
        order: of the merge.
        budget_bytes: what a row group may take.

    Raises:
        BadPart: it cannot be merged.
    """
    surveyor = Surveyor(order, budget_bytes=budget_bytes)
    surveyor.add([part])
    survey = surveyor.finish()
    [footer], [part] = survey.footers, survey.parts  # as it is read, which may be a copy
    start = np.zeros(1, dtype=np.int64)
    for part_slice in footer.slices(_ROWS_AT_ONCE):
        row_hashes(read_parts([part], survey.columns, start, survey.rows, part_slice=part_slice))
