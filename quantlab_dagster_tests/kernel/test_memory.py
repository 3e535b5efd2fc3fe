"""What is in memory at once is bounded by bytes, whatever parts and rows are like."""

from __future__ import annotations

from threading import Barrier, Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from quantlab_dagster.kernel.frames import read_parts
from quantlab_dagster.kernel.spread import SpreadWindows
from quantlab_dagster.kernel.survey import KEPT_SHARE, Order, Surveyor
from quantlab_dagster_tests.kernel.building import compact, part_of, survey_of

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


# ---- the survey ------------------------------------------------------------------------------------------------------

_WIDE = 200


def watched(monkeypatch: pytest.MonkeyPatch, method: str) -> list[pl.DataFrame]:
    """The frames that a method of surveyors returns."""
    frames: list[pl.DataFrame] = []
    original = getattr(Surveyor, method)

    def told(self: Surveyor, *arguments: Any) -> pl.DataFrame | None:
        frame: pl.DataFrame | None = original(self, *arguments)
        if frame is not None:
            frames.append(frame)
        return frame

    monkeypatch.setattr(Surveyor, method, told)
    return frames


def wide_part(key: str, value: int | None, rows: int = 100, row_group_rows: int = 100) -> Part:
    """A part of many columns that hold one value, or none: its pages declare next to nothing."""
    names = [f"c{at}" for at in range(_WIDE)]
    columns = {name: pa.repeat(pa.scalar(value, pa.int64()), rows) for name in names}
    return part_of(key, pa.table({"ts_event": range(rows), **columns}), row_group_size=row_group_rows)


@pytest.mark.guards("memory-grows")
def test_what_is_decoded_is_kept_by_what_it_takes_and_not_by_what_its_pages_declare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [wide_part(f"{at:02}", None) for at in range(10)]
    decoded_bytes = 10 * 100 * (_WIDE + 1) * 8
    assert decoded_bytes > 4 * sum(footer.uncompressed_bytes for footer in survey_of(parts).footers)
    for budget_bytes in (KEPT_SHARE * decoded_bytes * 9 // 10, KEPT_SHARE * decoded_bytes * 2):
        decoded = watched(monkeypatch, "_kept_frame")
        surveyor = Surveyor(Order(), budget_bytes=budget_bytes)
        surveyor.add(parts)
        assert (surveyor.finish().decoded is not None) == (budget_bytes > KEPT_SHARE * decoded_bytes)
        assert sum(frame.estimated_size() for frame in decoded) <= budget_bytes // KEPT_SHARE


@pytest.mark.parametrize("parts", [10, 1], ids=["many parts", "one part"])
def test_no_more_of_wide_rows_is_scanned_at_once_than_the_budget_allows(
    monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Each of these columns may be constant, and is looked at to its end."""
    rows = 1_000 // parts
    budget_bytes = 2 << 20
    scanned = watched(monkeypatch, "_order_frame")
    surveyor = Surveyor(Order(), budget_bytes=budget_bytes, total_bytes=1 << 60, threads=4)
    surveyor.add([wide_part(f"{at:02}", 7, rows, 50) for at in range(parts)])
    assert len(surveyor.finish().columns.constants) == _WIDE
    assert sum(frame.height for frame in scanned) == 1_000
    assert max(frame.estimated_size() for frame in scanned) < budget_bytes // 8
