"""Every mishap between the parts and the file on the disk is found before anything is published."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import AuditFailed
from quantlab_dagster.kernel import budget, frames, spread, survey, sweep, writer
from quantlab_dagster.kernel import merge as merging
from quantlab_dagster.kernel.digest import digest_file, digest_group
from quantlab_dagster.kernel.stitch import Piece, Stitcher, check_stitched
from quantlab_dagster.kernel.sweep import SweptWindows
from quantlab_dagster.kernel.thrift import integer_bytes
from quantlab_dagster.kernel.writer import SortedFileWriter
from quantlab_dagster_tests.kernel.building import (
    Compacted,
    compact,
    survey_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from quantlab_dagster.kernel.cuts import Window
    from quantlab_dagster.kernel.digest import FileDigest
    from quantlab_dagster.kernel.survey import Survey
from quantlab_dagster_tests.kernel.test_bad_parts import ONE_WINDOW, PARTS, ROWS, RUNS, WINDOWS, day, replace_column


def compact_day(directory: Path, budget_bytes: int = ONE_WINDOW) -> Compacted:
    return compact(day(), directory, budget_bytes=budget_bytes, stride=8)


def without_first(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.slice(1)


def first_twice(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame.slice(0, 1), frame])


def first_instead_of_second(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame.slice(0, 1), frame.slice(0, 1), frame.slice(2)])


def prices_swapped(frame: pl.DataFrame) -> pl.DataFrame:
    """The sum of every column is what it was."""
    prices = frame["price"].to_list()
    prices[0], prices[-1] = prices[-1], prices[0]
    return frame.with_columns(pl.Series("price", prices))


def price_altered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(1.0).otherwise("price").alias("price"))


MISHAPS = [without_first, first_twice, first_instead_of_second, prices_swapped, price_altered]


def test_the_days_of_these_tests_take_both_paths(tmp_path: Path) -> None:
    windows, through_runs = compact_day(tmp_path, WINDOWS).merged, compact_day(tmp_path, RUNS).merged
    assert (windows.windows > 1, windows.distributed) == (True, False)
    assert (through_runs.windows > 1, through_runs.distributed) == (True, True)


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize("mishap", MISHAPS)
def test_mishap_between_parts_and_windows_is_found(
    mishap: Callable[[pl.DataFrame], pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SweptWindows._decoded

    def mistaken(self: SweptWindows, window: Window) -> pl.DataFrame:
        frame = read(self, window)
        return mishap(frame) if window.low is None else frame

    monkeypatch.setattr(SweptWindows, "_decoded", mistaken)
    with pytest.raises(AuditFailed):
        compact_day(tmp_path, WINDOWS)


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize("mishap", MISHAPS)
def test_mishap_between_parts_and_runs_is_found(
    mishap: Callable[[pl.DataFrame], pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = spread._read_run
    monkeypatch.setattr(spread, "_read_run", lambda *arguments: mishap(read(*arguments)))
    with pytest.raises(AuditFailed):
        compact_day(tmp_path, RUNS)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize("mishap", [without_first, first_twice, first_instead_of_second])
@pytest.mark.parametrize("budget_bytes", [ONE_WINDOW, RUNS], ids=["one window", "runs"])
def test_decoder_that_loses_or_doubles_rows_is_found(
    mishap: Callable[[pl.DataFrame], pl.DataFrame],
    budget_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter(range(1_000))
    read = frames.read_parts

    def mistaken(*arguments: Any, **more: Any) -> pl.DataFrame:
        frame = read(*arguments, **more)
        # The first two calls are those that measure rows.
        return mishap(frame) if next(calls) == 4 or budget_bytes == ONE_WINDOW else frame

    for module in (sweep, spread, budget):
        monkeypatch.setattr(module, "read_parts", mistaken)
    with pytest.raises(AuditFailed):
        compact_day(tmp_path, budget_bytes)


@pytest.mark.guards("tie-order")
def test_unstable_sort_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed = survey_of(day())  # sorts its sample
    monkeypatch.setattr(merging, "stable_order", lambda keys: len(keys) - 1 - np.argsort(keys[::-1], kind="stable"))
    with pytest.raises(AuditFailed, match="total order"):
        merging.merge(surveyed, tmp_path / "out", scratch=tmp_path)


@pytest.mark.guards("unsorted-called-sorted")
def test_sort_that_does_not_sort_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed = survey_of(day())
    monkeypatch.setattr(merging, "stable_order", lambda keys: np.arange(len(keys)))
    with pytest.raises(AuditFailed, match="total order"):
        merging.merge(surveyed, tmp_path / "out", scratch=tmp_path)


@pytest.fixture
def windows_in_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = SweptWindows.__iter__

    def backwards(self: SweptWindows) -> Iterator[pl.DataFrame]:
        yield from list(windows(self))[::-1]

    monkeypatch.setattr(SweptWindows, "__iter__", backwards)


@pytest.mark.guards("unsorted-called-sorted")
@pytest.mark.usefixtures("windows_in_wrong_order")
def test_windows_in_the_wrong_order_are_found(tmp_path: Path) -> None:
    """Each of them is sorted; this is how a day was once concatenated from sorted chunks."""
    with pytest.raises(AuditFailed, match="out of order"):
        compact_day(tmp_path, WINDOWS)


def tied_rows_swapped(frame: pl.DataFrame) -> pl.DataFrame:
    keys = frame["ts_event"].to_numpy()
    at = int(np.flatnonzero(keys[1:] == keys[:-1])[0])
    order = np.arange(frame.height)
    order[[at, at + 1]] = at + 1, at
    return frame[order]


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize(
    ("mishap", "finding"),
    [
        (
            tied_rows_swapped,
            r"^data.parquet: the rows of the file are not in the order of the windows; 2 rows of the file are mis\w+\.",
        ),
        (without_first, "450 rows in the parts, 450 in the windows, 449 in the file"),
        (first_twice, "450 rows in the parts, 450 in the windows, 451 in the file"),
        (prices_swapped, "the rows of the file are not the rows of the windows"),
        (price_altered, "the rows of the file are not the rows of the windows"),
    ],
)
def test_mishap_of_the_writer_is_found(
    mishap: Callable[[pl.DataFrame], pl.DataFrame], finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SortedFileWriter.append
    monkeypatch.setattr(SortedFileWriter, "append", lambda self, frame: append(self, mishap(frame)))
    with pytest.raises(AuditFailed, match=finding):
        compact_day(tmp_path)


@pytest.mark.guards("check-for-proof")
def test_misnumbered_rows_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = merging._numbered
    monkeypatch.setattr(merging, "_numbered", lambda frame, survey, first: numbered(frame, survey, first + 1))
    with pytest.raises(AuditFailed, match=f"{PARTS * ROWS} rows of the file are misnumbered"):
        compact_day(tmp_path)


@pytest.mark.guards("check-for-proof")
def test_wrong_label_in_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SortedFileWriter._table

    def relabelled(self: SortedFileWriter, frame: pl.DataFrame) -> pa.Table:
        labels = pa.array(["binance"] * (frame.height - 1) + ["bybit"]).dictionary_encode()
        return replace_column(table(self, frame), "venue", labels)

    monkeypatch.setattr(SortedFileWriter, "_table", relabelled)
    with pytest.raises(AuditFailed, match="'venue' does not hold 'binance'"):
        compact_day(tmp_path)


def file_changed_before_it_is_read_back(
    change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, directory: Path
) -> Compacted:
    def late(path: Path, *arguments: Any) -> str:
        change(path)
        return check_stitched(path, *arguments)

    monkeypatch.setattr(writer, "check_stitched", late)
    return compact_day(directory)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize("change", [cut_off, one_bit, emptied])
def test_file_damaged_on_the_disk_is_found(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuditFailed, match="holds other bytes") as caught:
        file_changed_before_it_is_read_back(change, monkeypatch, tmp_path)
    assert caught.value.where.endswith("data.parquet")


def footer_cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def other_rows_said(path: Path) -> None:
    """The same pages, and a footer that says of the row group that it has one row more."""
    data = path.read_bytes()
    rows = integer_bytes(PARTS * ROWS)
    assert len(integer_bytes(PARTS * ROWS + 1)) == len(rows)
    path.write_bytes(data[:-600] + data[-600:].replace(rows, integer_bytes(PARTS * ROWS + 1)))


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize(
    ("change", "finding"), [(footer_cut_off, "footer cannot be read back"), (other_rows_said, "footer does not say")]
)
def test_footer_damaged_on_the_disk_is_found(
    change: Callable[[Path], None], finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuditFailed, match=finding):
        file_changed_before_it_is_read_back(change, monkeypatch, tmp_path)


@pytest.mark.guards("check-for-proof")
def test_row_group_damaged_in_memory_before_it_is_read_back_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(content: pa.Buffer, *arguments: Any, **options: Any) -> FileDigest:
        damaged = bytearray(content)
        damaged[200] ^= 1
        return digest_group(pa.py_buffer(damaged), *arguments, **options)

    monkeypatch.setattr(writer, "digest_group", late)
    with pytest.raises(AuditFailed):
        compact_day(tmp_path)


@pytest.mark.guards("check-for-proof")
def test_row_group_damaged_in_memory_after_it_was_read_back_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Stitcher.append

    def late(self: Stitcher, piece: Piece) -> Piece:
        damaged = bytearray(piece.pages)
        damaged[200] ^= 1
        return append(self, replace(piece, pages=memoryview(damaged)))

    monkeypatch.setattr(Stitcher, "append", late)
    with pytest.raises(AuditFailed, match="holds other bytes"):
        compact_day(tmp_path)


def other_file(path: Path) -> None:
    """A sound file, and not the one that was written."""
    table = pq.read_table(path)
    pq.write_table(replace_column(table, "origin", pa.array(range(table.num_rows))), path)


def without_seq(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["seq"]), path)


@pytest.mark.guards("check-for-proof")
def test_file_exchanged_on_the_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuditFailed, match="holds other bytes"):
        file_changed_before_it_is_read_back(other_file, monkeypatch, tmp_path)


@pytest.mark.guards("check-for-proof")
def test_file_without_seq_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuditFailed, match="holds other bytes"):
        file_changed_before_it_is_read_back(without_seq, monkeypatch, tmp_path)


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compacted = file_changed_before_it_is_read_back(lambda _: None, monkeypatch, tmp_path)
    assert compacted.merged.rows == PARTS * ROWS


@pytest.mark.guards("unsorted-called-sorted")
def test_wrong_range_of_the_survey_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed = survey_of(day())
    key_range = surveyed.key_range
    assert key_range is not None

    def wrong(_: Survey) -> tuple[int, int]:
        return key_range[0], key_range[1] + 1

    monkeypatch.setattr(survey.Survey, "key_range", property(wrong))
    with pytest.raises(AuditFailed, match="range"):
        merging.merge(surveyed, tmp_path / "out", scratch=tmp_path)


@pytest.mark.guards("check-for-proof")
def test_the_checksum_of_a_row_group_is_taken_before_it_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that bytes which still have it are those that were read back."""
    done: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        really = getattr(writer, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            done.append(name)
            return really(*arguments, **options)

        return noted

    for name in ("take_apart", "digest_group"):
        monkeypatch.setattr(writer, name, noting(name))
    compact_day(tmp_path)
    assert done == ["take_apart", "digest_group"]


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize("column", [["x", None, "x"], ["x", "y", "x"], [None] * 3, ["y"] * 3])
def test_a_constant_column_that_does_not_hold_its_value_everywhere_is_found(
    tmp_path: Path, column: list[str | None]
) -> None:
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"ts_event": [1, 2, 3], "venue": pa.array(column, pa.string())}), path)
    with pytest.raises(AuditFailed, match="column 'venue' does not hold 'x' in every row"):
        digest_file(path, "ts_event", numbered=False, constants={"venue": "x"})
