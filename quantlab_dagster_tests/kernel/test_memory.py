"""What is in memory at once is bounded by bytes, whatever parts and rows are like."""

from __future__ import annotations

from threading import Barrier, Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from quantlab_dagster.kernel.frames import read_parts
from quantlab_dagster.kernel.spread import SpreadWindows
from quantlab_dagster_tests.kernel.building import compact, part_of

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from quantlab_dagster.kernel.parts import Part

# ---- distribution into runs ------------------------------------------------------------------------------------------

_ROWS = 12_000


def shuffled_part(row_group_rows: int) -> Part:
    ts_event = np.random.default_rng(8).permutation(_ROWS)
    return part_of("a", pa.table({"ts_event": ts_event, "price": ts_event / 8}), row_group_size=row_group_rows)


@pytest.mark.guards("memory-grows")
def test_row_groups_larger_than_the_share_are_distributed_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are decoded whole: threads must not multiply them."""
    under_way: list[int] = [0]
    counting, append = Lock(), SpreadWindows._append

    def decoded(*arguments: Any, **options: Any) -> pl.DataFrame:
        frame = read_parts(*arguments, **options)
        with counting:
            under_way.append(under_way[-1] + frame.height)
        return frame

    def appended(self: SpreadWindows, batch: Any) -> None:
        append(self, batch)
        with counting:
            under_way.append(under_way[-1] - len(batch.hashes))

    monkeypatch.setattr("quantlab_dagster.kernel.spread.read_parts", decoded)
    monkeypatch.setattr(SpreadWindows, "_append", appended)
    merged = compact([shuffled_part(2_000)], tmp_path, stride=16, budget_bytes=400_000, threads=4).merged
    assert merged.distributed
    assert merged.rows == _ROWS
    assert max(under_way) == 2_000


def test_row_groups_within_the_share_are_distributed_by_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Barrier(2)

    def decoded(*arguments: Any, **options: Any) -> pl.DataFrame:
        together.wait(30)  # broken where one is decoded after the other
        return read_parts(*arguments, **options)

    monkeypatch.setattr("quantlab_dagster.kernel.spread.read_parts", decoded)
    merged = compact([shuffled_part(100)], tmp_path, stride=16, budget_bytes=1_200_000, threads=2).merged
    assert merged.distributed
    assert merged.rows == _ROWS
