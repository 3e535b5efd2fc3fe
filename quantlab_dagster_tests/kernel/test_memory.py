"""What is in memory at once is bounded by bytes, whatever parts and rows are like."""

from __future__ import annotations

from itertools import pairwise
from threading import Barrier, Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.kernel.budget import row_bytes
from quantlab_dagster.kernel.frames import read_parts
from quantlab_dagster.kernel.sizes import row_sizes
from quantlab_dagster.kernel.spread import SpreadWindows
from quantlab_dagster.kernel.survey import KEPT_SHARE, Order, Surveyor
from quantlab_dagster.kernel.writer import ROW_GROUP_BYTES, ROW_GROUP_ROWS, SortedFileWriter
from quantlab_dagster_tests.kernel.building import compact, part_of, survey_of

if TYPE_CHECKING:
    from pathlib import Path

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


# ---- row groups of wide rows -----------------------------------------------------------------------------------------


def row_groups(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]


def text_parts(rows: int) -> list[Part]:
    """Parts of texts that are few, so that pages and decoders hold each once, and of very different lengths."""
    texts = ["", "x" * 100, "y" * 2_000, None]
    rng = np.random.default_rng(9)
    return [
        part_of(
            f"{at:02}",
            pa.table(
                {
                    "ts_event": rng.integers(at * 50, at * 50 + 100, rows),
                    "text": [texts[one] for one in rng.integers(0, 4, rows)],
                    "list": [[texts[one]] * 2 for one in rng.integers(0, 4, rows)],
                }
            ),
        )
        for at in range(8)
    ]


@pytest.mark.guards("memory-grows", "bytes-vary")
def test_row_groups_of_wide_rows_end_by_bytes_whatever_the_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most_bytes = 20_000
    monkeypatch.setattr("quantlab_dagster.kernel.writer.ROW_GROUP_BYTES", most_bytes)
    made = [
        compact(text_parts(100), tmp_path, stride=7, budget_bytes=budget_bytes, threads=threads, name=f"{budget_bytes}")
        for budget_bytes, threads in [(512 << 20, 1), (4 << 20, 2), (100_000, 3), (1, 4)]
    ]
    assert len({one.merged.windows for one in made}) > 2
    assert len({one.data for one in made}) == 1
    frame = pl.read_parquet(made[0].path)
    starts = np.cumsum([0, *row_groups(made[0].path)])
    sizes = [int(row_sizes(frame[low:high]).sum()) for low, high in pairwise(starts.tolist())]
    assert max(sizes) <= most_bytes
    assert min(size + after for size, after in pairwise(sizes)) > most_bytes, "none is needlessly small"


def test_a_row_that_is_larger_than_a_row_group_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantlab_dagster.kernel.writer.ROW_GROUP_BYTES", 1_000)
    table = pa.table({"ts_event": range(6), "text": ["a", "b" * 5_000, "c" * 5_000, "d", "e", "f" * 5_000]})
    assert row_groups(compact([part_of("a", table)], tmp_path).path) == [1, 1, 1, 2, 1]


def test_rows_of_four_hundred_bytes_are_no_wide_rows() -> None:
    row = pl.DataFrame({f"c{at}": [0.5] for at in range(48)} | {"text": ["x" * 50]})
    assert int(row_sizes(row)[0]) * ROW_GROUP_ROWS <= ROW_GROUP_BYTES


def test_sizes_of_rows_are_those_of_their_values_however_they_are_cut() -> None:
    frame = pl.DataFrame(
        {
            "number": [1, None, 3],
            "text": ["ab", None, ""],
            "list": [["x", None], None, []],
            "pair": [{"a": 1, "b": "yz"}, None, {"a": None, "b": None}],
            "fixed": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.Int32, 2)),
            "bytes": [b"abc", None, b""],
        }
    )
    expected = [8 + 10 + (8 + 17) + 18 + 16 + 11, 8 + 8 + 8 + 16 + 8 + 8, 8 + 8 + 8 + 16 + 16 + 8]
    assert row_sizes(frame).tolist() == expected
    assert [int(row_sizes(frame[at : at + 1])[0]) for at in range(3)] == expected
    assert not row_sizes(frame[:0]).size


def test_wide_row_groups_are_encoded_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantlab_dagster.kernel.writer.ROW_GROUP_BYTES", 20_000)
    in_work, most, counting, encode = 0, 0, Lock(), SortedFileWriter._encoded

    def encoded(self: SortedFileWriter, group: Any) -> Any:
        nonlocal in_work, most
        with counting:
            in_work += 1
            most = max(most, in_work)
        done = encode(self, group)
        with counting:
            in_work -= 1
        return done

    monkeypatch.setattr(SortedFileWriter, "_encoded", encoded)
    compact(text_parts(100), tmp_path, budget_bytes=20_000, threads=4)
    assert most == 1
    compact(text_parts(100), tmp_path, budget_bytes=512 << 20, threads=4)
    assert most > 1


# ---- parts of few rows that are wide ---------------------------------------------------------------------------------


def narrow_and_wide_parts(parts: int) -> list[Part]:
    """Parts of many narrow rows, and as many of few rows of long texts."""
    narrow = pa.table({"ts_event": range(1_100), "text": ["x"] * 1_100})
    wide = pa.table({"ts_event": range(20), "text": [f"{at}" * 10_000 for at in range(20)]})
    return [part_of(f"{at:02}", wide if at % 2 else narrow) for at in range(2 * parts)]


def test_wide_rows_of_parts_of_few_rows_count_by_their_share() -> None:
    decoded = 10 * 20 * 15_000  # at least
    assert row_bytes(survey_of(narrow_and_wide_parts(10))) > decoded / (10 * 1_120)


def test_a_text_that_seems_to_be_a_label_is_not_scanned_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = watched(monkeypatch, "_order_frame")
    budget_bytes = 4 << 20
    surveyor = Surveyor(Order(), budget_bytes=budget_bytes, total_bytes=1 << 60)
    surveyor.add(narrow_and_wide_parts(10))
    assert not surveyor.finish().columns.constants
    assert max(frame.estimated_size() for frame in scanned) < budget_bytes // 4
