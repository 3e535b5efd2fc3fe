"""Shapes of days that deserve a name, and what the merged file is like as a file."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import AuditFailed, Cancelled
from quantlab_dagster.kernel.budget import row_bytes, window_rows
from quantlab_dagster.kernel.columns import Columns, unite
from quantlab_dagster.kernel.digest import digest_file
from quantlab_dagster.kernel.merge import merge
from quantlab_dagster.kernel.survey import KEPT_SHARE, Order, Surveyor
from quantlab_dagster.kernel.writer import ROW_GROUP_ROWS
from quantlab_dagster_tests.kernel.building import (
    EVENTS,
    Compacted,
    compact,
    part_from,
    part_of,
    read_back,
    survey_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.kernel.parts import Part
    from quantlab_dagster.kernel.survey import Survey

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]

# -- Many parts ------------------------------------------------------------------------------------------------------

_STAMP = 0x5157_4552_5459_0000


def stamped_parts(ts_event: Ints) -> list[Part]:
    """Parts of two rows each in byte order of their keys, fast: one template, whose eight-byte values are replaced.

    Args:
        ts_event: int64, shape (parts, 2).

    Returns:
        Parts with the columns `ts_event` and `origin`, the number of the row over all parts.
    """
    stamps = [(_STAMP + value).to_bytes(8, "little") for value in range(4)]
    table = pa.table({"ts_event": [_STAMP, _STAMP + 1], "origin": [_STAMP + 2, _STAMP + 3]})
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    template = part_of("template", table, **plain).source
    assert isinstance(template, bytes)
    places = [template.index(stamp) for stamp in stamps]
    parts = []
    for index, key in enumerate(sorted((f"part-{number}" for number in range(len(ts_event))), key=str.encode)):
        data = bytearray(template)
        values = [*ts_event[index].tolist(), 2 * index, 2 * index + 1]
        for place, value in zip(places, values, strict=True):
            data[place : place + 8] = value.to_bytes(8, "little", signed=True)
        parts.append(part_from(key, bytes(data)))
    return parts


@pytest.mark.guards("four-digit-parts")
@pytest.mark.parametrize("budget_bytes", [512 << 20, 1 << 20], ids=["one window", "runs"])
def test_more_than_ten_thousand_parts(tmp_path: Path, budget_bytes: int) -> None:
    ts_event = np.random.default_rng(1).integers(-500, 500, (10_050, 2))
    parts = stamped_parts(ts_event)
    assert [part.key for part in parts[:4]] == ["part-0", "part-1", "part-10", "part-100"]
    compacted = compact(parts, tmp_path, budget_bytes=budget_bytes, stride=16)
    assert compacted.merged.distributed == (budget_bytes == 1 << 20)
    table = read_back(compacted.path)
    assert_merged(table, ts_event.ravel())


def assert_merged(table: pa.Table, ts_event: Ints, column: str = "ts_event") -> None:
    """The rows, whose column `origin` is their position in the day, are in the total order."""
    order = np.argsort(ts_event, kind="stable")
    assert (table["origin"].to_numpy() == order).all()
    assert (table[column].to_numpy() == ts_event[order]).all()
    if "seq" in table.column_names:
        assert table.column_names[table.column_names.index(column) + 1] == "seq"
        assert (table["seq"].to_numpy() == np.arange(len(order))).all()


def day_table(ts_event: Ints, first: int = 0) -> pa.Table:
    rows = len(ts_event)
    return pa.table({"ts_event": ts_event, "origin": np.arange(first, first + rows), "label": pa.repeat("x", rows)})


# -- Bad shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.guards("memory-grows")
def test_one_huge_unsorted_part_goes_through_runs(tmp_path: Path) -> None:
    ts_event = np.random.default_rng(2).integers(0, 50_000, 200_000)
    part = part_of("part", day_table(ts_event), row_group_size=7_000)
    compacted = compact([part], tmp_path, budget_bytes=24 << 20)
    assert compacted.merged.distributed
    assert 5 < compacted.merged.windows < 50
    assert_merged(read_back(compacted.path), ts_event)


def test_parts_that_all_span_the_day_go_through_runs(tmp_path: Path) -> None:
    ts_event = np.random.default_rng(3).integers(0, 5_000, 20_000)
    parts = [part_of(f"{start:06}", day_table(ts_event[start : start + 500], start)) for start in range(0, 20_000, 500)]
    compacted = compact(parts, tmp_path, budget_bytes=2 << 20, stride=16)
    assert compacted.merged.distributed
    assert compacted.merged.windows > 10
    assert_merged(read_back(compacted.path), ts_event)


def test_consecutive_parts_are_read_straight_into_windows(tmp_path: Path) -> None:
    ts_event = np.arange(20_000) // 3
    parts = [part_of(f"{start:06}", day_table(ts_event[start : start + 500], start)) for start in range(0, 20_000, 500)]
    compacted = compact(parts, tmp_path, budget_bytes=10 << 20, stride=16)
    assert not compacted.merged.distributed
    assert compacted.merged.windows > 5
    assert_merged(read_back(compacted.path), ts_event)


@pytest.mark.guards("memory-grows", "tie-order")
@pytest.mark.parametrize("value", [0, -(1 << 63), (1 << 63) - 1])
def test_one_time_stamp_of_more_rows_than_a_window(tmp_path: Path, value: int) -> None:
    ts_event = np.full(5_000, value, dtype=np.int64)
    parts = [part_of(f"{start:06}", day_table(ts_event[start : start + 100], start)) for start in range(0, 5_000, 100)]
    compacted = compact(parts, tmp_path, budget_bytes=2 << 20, stride=4)
    assert compacted.merged.windows > 5
    assert not compacted.merged.distributed  # cut by position, the windows are whole parts
    assert_merged(read_back(compacted.path), ts_event)
    assert (compacted.merged.key_min, compacted.merged.key_max) == (value, value)


def test_empty_parts_make_a_file_without_rows(tmp_path: Path) -> None:
    none = pa.table({"ts_event": pa.array([], pa.int64()), "price": pa.array([], pa.float64())})
    more = pa.table({"side": pa.array([], pa.int8()), "ts_event": pa.array([], pa.int32())})
    compacted = compact([part_of("a", none), part_of("b", more)], tmp_path, bucket_width=10)
    merged = compacted.merged
    assert (merged.rows, merged.key_min, merged.key_max, merged.histogram) == (0, None, None, ())
    assert merged.columns == {"ts_event": "Int64", "seq": "Int64", "price": "Float64", "side": "Int8"}
    table = read_back(compacted.path)
    assert table.num_rows == 0
    types = [pa.int64(), pa.int64(), pa.float64(), pa.int8()]
    assert table.schema.names == list(merged.columns)
    assert table.schema.types == types


@pytest.mark.guards("helper-names")
def test_helper_columns_give_way_to_the_data(tmp_path: Path) -> None:
    names = ["position", "_position", "key", "window", "row", "index", "len", "rows"]
    ts_event = np.random.default_rng(4).integers(0, 9, 3_000)
    columns = {"ts_event": ts_event, "origin": np.arange(3_000)} | {name: np.arange(3_000) % 7 for name in names}
    table = pa.table(columns)
    for budget_bytes in (512 << 20, 1 << 20):
        compacted = compact([part_of("a", table, row_group_size=100)], tmp_path, budget_bytes=budget_bytes, stride=8)
        found = read_back(compacted.path)
        assert found.column_names == ["ts_event", "seq", "origin", *names]
        assert_merged(found, ts_event)
        assert (found["window"].to_numpy() == found["origin"].to_numpy() % 7).all()


def test_nulls_of_the_order_column_come_first_and_tie_with_the_smallest_integer(tmp_path: Path) -> None:
    smallest = -(1 << 63)
    first = pa.table({"timestamp_ms": pa.array([3, smallest, None, 1]), "origin": [0, 1, 2, 3]})
    second = pa.table({"timestamp_ms": pa.array([None, 1, smallest]), "origin": [4, 5, 6]})
    compacted = compact([part_of("a", first), part_of("b", second)], tmp_path, order=EVENTS, bucket_width=2)
    table = read_back(compacted.path)
    assert table["origin"].to_pylist() == [1, 2, 4, 6, 3, 5, 0]
    assert table["timestamp_ms"].to_pylist() == [smallest, None, None, smallest, 1, 1, 3]
    assert compacted.merged.histogram == ((smallest // 2, 2), (0, 2), (1, 1))
    assert (compacted.merged.key_min, compacted.merged.digest.nulls) == (smallest, 2)


def test_buckets_of_negative_time_stamps_are_floored(tmp_path: Path) -> None:
    table = pa.table({"ts_event": pa.array([-11, -10, -1, 0, 9, 10])})
    merged = compact([part_of("a", table)], tmp_path, bucket_width=10).merged
    assert merged.histogram == ((-2, 1), (-1, 2), (0, 2), (1, 1))


@pytest.mark.guards("statistics-believed")
def test_labels_are_found_without_statistics_and_only_where_they_hold(tmp_path: Path) -> None:
    wide, narrow = pa.array([300, 300], pa.int64()), pa.array([3, 3], pa.int8())
    first = pa.table({"ts_event": [1, 2], "same": ["x", "x"], "widens": wide, "long": ["y" * 99] * 2, "gone": [1, 1]})
    second = pa.table({"ts_event": [3, 4], "same": ["x", "x"], "widens": narrow, "long": ["y" * 99] * 2})
    parts = [part_of("a", first, write_statistics=False), part_of("b", second, write_statistics=False)]
    survey = survey_of(parts)
    assert survey.columns.constants == {"same": "x"}
    table = read_back(compact(parts, tmp_path).path)
    assert table["widens"].to_pylist() == [300, 300, 3, 3]
    assert table["gone"].to_pylist() == [1, 1, None, None]


def test_spellings_of_text_and_nothing_at_all_unite(tmp_path: Path) -> None:
    """Found by Hypothesis: a column of nulls beside a dictionary was hashed as a dictionary, and read back as text."""
    columns = [pa.nulls(2), pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None], pa.large_string())]
    parts = [part_of(f"{at}", pa.table({"ts_event": [at, at], "x": column})) for at, column in enumerate(columns)]
    for chosen in itertools.permutations(range(3)):
        in_order = [replace(parts[index], key=f"{at}") for at, index in enumerate(chosen)]
        table = read_back(compact(in_order, tmp_path).path)
        assert table["x"].to_pylist() == [None, None, "a", "b", "c", None]
        assert table.schema.field("x").type == pa.string()


@pytest.mark.guards("nulls-merged-again")
def test_a_column_of_nothing_but_nulls_can_be_merged_again(tmp_path: Path) -> None:
    """Parquet knows no type without values, and readers make Int32 of it, which does not unite with text."""
    nulls = {"label": ["same"] * 3, "carrier": pa.nulls(3)}
    once = compact(
        [part_of(key, pa.table({"timestamp_ms": [3, None, 1], **nulls})) for key in ("a", "b")], tmp_path, order=EVENTS
    )
    text = part_of("new", pa.table({"timestamp_ms": [2], "label": ["same"], "carrier": ["one"]}))
    again = compact([part_from("c", once.data), text], tmp_path, order=EVENTS, name="again.parquet")
    assert once.merged.columns["carrier"] == "Null"
    assert again.merged.columns == {"timestamp_ms": "Int64", "label": "String", "carrier": "String"}
    table = pq.read_table(again.path)
    assert table["timestamp_ms"].to_pylist() == [None, None, 1, 1, 2, 3, 3]
    assert table["carrier"].to_pylist() == [None, None, None, None, "one", None, None]
    assert set(table["label"].to_pylist()) == {"same"}


def test_a_label_that_ends_in_a_later_scan_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey reads parts in runs, and the first rows of the day alone prove nothing."""
    monkeypatch.setattr("quantlab_dagster.kernel.survey._ROWS_PER_SCAN", 10)
    labels = ["x"] * 50 + ["y"] + ["x"] * 9
    parts = [
        part_of(f"{at:02}", pa.table({"ts_event": [at], "label": [label], "venue": ["v"]}))
        for at, label in enumerate(labels)
    ]
    big = pa.table({"ts_event": range(60, 90), "label": ["x"] * 29 + ["z"], "venue": ["v"] * 30})
    parts.append(part_of("60", big, row_group_size=4))
    assert survey_of(parts).columns.constants == {"venue": "v"}
    assert read_back(compact(parts, tmp_path).path)["label"].to_pylist() == labels + ["x"] * 29 + ["z"]


# -- The file --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Compacted:
    """A day of 600,000 trades in six parts."""
    rng = np.random.default_rng(5)
    rows = 600_000
    ts_event = np.sort(rng.integers(0, 200_000, rows)) + rng.integers(0, 30, rows)
    table = pa.table(
        {
            "ts_event": ts_event,
            "ts_recv": ts_event + 7,
            "symbol": pa.repeat("ADAUSDT", rows),
            "stream_version": np.ones(rows, np.int8),
            "price": rng.integers(3_900, 4_000, rows) / 10_000,
            "side": rng.choice(np.array([-1, 1], np.int8), rows),
            "maker": pa.array(rng.random(rows) < 0.5),
            "trade_id": pa.array(rng.choice(np.array(["a", "b", "c"]), rows)),
            "time": pa.array(ts_event, pa.timestamp("us")),
        }
    )
    parts = [part_of(f"{start:06}", table.slice(start, 100_000)) for start in range(0, rows, 100_000)]
    return compact(parts, tmp_path_factory.mktemp("large"), budget_bytes=300 << 20)


@pytest.fixture(scope="module")
def metadata(large: Compacted) -> pq.FileMetaData:
    return pq.read_metadata(large.path)


def chunks(metadata: pq.FileMetaData) -> list[pq.ColumnChunkMetaData]:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return [group.column(index) for group in groups for index in range(metadata.num_columns)]


def test_several_windows_made_it(large: Compacted) -> None:
    assert large.merged.windows > 1
    assert large.merged.rows == 600_000


def test_row_groups_are_of_fixed_size_but_the_last(metadata: pq.FileMetaData) -> None:
    rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert rows == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 600_000 - 2 * ROW_GROUP_ROWS]


def test_what_increases_is_delta_encoded_and_what_has_few_values_by_dictionary(metadata: pq.FileMetaData) -> None:
    for chunk in chunks(metadata):
        if chunk.path_in_schema in {"ts_event", "seq", "ts_recv", "time"}:
            assert "DELTA_BINARY_PACKED" in chunk.encodings
            assert not chunk.has_dictionary_page
        elif chunk.path_in_schema not in {"maker", "stream_version"}:  # one bit each already; one value
            assert "RLE_DICTIONARY" in chunk.encodings
            assert chunk.has_dictionary_page


def test_compression_page_index_and_statistics(metadata: pq.FileMetaData) -> None:
    for chunk in chunks(metadata):
        assert chunk.compression == "ZSTD"
        assert chunk.has_offset_index
        assert chunk.has_column_index
        assert chunk.statistics.has_min_max


@pytest.mark.guards("declared-order")
def test_the_declared_order_is_the_order(metadata: pq.FileMetaData, large: Compacted) -> None:
    for index in range(metadata.num_row_groups):
        declared = metadata.row_group(index).sorting_columns
        named = [(metadata.schema.column(column.column_index).name, column.descending) for column in declared]
        assert named == [("ts_event", False), ("seq", False)]
        assert all(column.nulls_first for column in declared)
    frame = pl.read_parquet(large.path)
    assert frame["ts_event"].is_sorted()
    assert (frame["seq"] == pl.int_range(frame.height, eager=True)).all()


def test_no_schema_but_parquets_own_and_no_clock(metadata: pq.FileMetaData) -> None:
    assert metadata.metadata is None
    assert metadata.created_by.startswith("parquet-cpp-arrow version")


def test_page_checksums_are_there_and_verified(large: Compacted, tmp_path: Path) -> None:
    assert read_back(large.path).num_rows == 600_000
    digest_file(large.path, "ts_event")
    data = bytearray(large.data)
    # Within the pages of the first column, whose compressed bytes nothing else protects.
    data[5_000] ^= 1
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(data)
    with pytest.raises(AuditFailed, match="CRC"):
        digest_file(damaged, "ts_event")


@pytest.mark.parametrize(
    ("ts_event", "inversions"),
    [
        ([1, 2, 3, 4, 5, 6], 0),
        ([1, 1, 1, 1, 1, 1], 0),
        ([1, 3, 2, 4, 5, 6], 1),
        ([1, 2, 3, 0, 5, 6], 1),
        ([6, 5, 4, 3, 2, 1], 5),
    ],
)
def test_a_digest_counts_inversions_between_batches_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ts_event: list[int], inversions: int
) -> None:
    monkeypatch.setattr("quantlab_dagster.kernel.digest._BATCH_ROWS", 3)
    pq.write_table(pa.table({"ts_event": ts_event, "seq": [0, 1, 2, 3, 5, 4]}), tmp_path / "file")
    digest = digest_file(tmp_path / "file", "ts_event")
    assert (digest.rows, digest.inversions, digest.misnumbered, digest.nulls) == (6, inversions, 2, 0)
    assert (digest.key_min, digest.key_max) == (ts_event[0], ts_event[-1])
    plain = digest_file(tmp_path / "file", "ts_event", numbered=False)
    assert plain.misnumbered == 0
    assert plain.content != digest.content


@pytest.mark.guards("declared-order")
def test_the_declared_order_survives_nested_columns(tmp_path: Path) -> None:
    """A leaf's number is not its column's number where a column before it is a struct."""
    table = pa.table({"book": pa.array([{"bid": 1, "ask": 2}] * 3), "ts_event": [3, 1, 2]})
    compacted = compact([part_of("a", table)], tmp_path)
    metadata = pq.read_metadata(compacted.path)
    declared = metadata.row_group(0).sorting_columns
    assert [metadata.schema.column(column.column_index).path for column in declared] == ["ts_event", "seq"]


def test_metadata_goes_into_the_file(tmp_path: Path) -> None:
    survey = survey_of([part_of("a", pa.table({"ts_event": [1]}))])
    merge(survey, tmp_path / "out", scratch=tmp_path, metadata={"inputs": "a,b"})
    assert pq.read_metadata(tmp_path / "out").metadata == {b"inputs": b"a,b"}


@pytest.mark.guards("declared-order")
def test_events_declare_their_own_order(tmp_path: Path) -> None:
    compacted = compact([part_of("a", pa.table({"id": ["x"], "timestamp_ms": [1]}))], tmp_path, order=EVENTS)
    metadata = pq.read_metadata(compacted.path)
    assert metadata.schema.names == ["id", "timestamp_ms"]
    declared = metadata.row_group(0).sorting_columns
    assert [(column.column_index, column.nulls_first) for column in declared] == [(1, True)]


def test_seq_is_an_ordinary_column_where_rows_are_not_numbered(tmp_path: Path) -> None:
    table = pa.table({"timestamp_ms": [2, 1], "seq": [10, 11]})
    compacted = compact([part_of("a", table)], tmp_path, order=EVENTS)
    assert read_back(compacted.path).to_pydict() == {"timestamp_ms": [1, 2], "seq": [11, 10]}


# -- Stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [1, 5, 6])
@pytest.mark.parametrize("shuffled", [False, True], ids=["windows", "runs"])
def test_cancelled_merge_stops_and_leaves_no_runs(tmp_path: Path, call: int, *, shuffled: bool) -> None:
    ts_event = np.arange(10_000)
    if shuffled:
        np.random.default_rng(6).shuffle(ts_event)
    parts = [part_of(f"{start:06}", day_table(ts_event[start : start + 250], start)) for start in range(0, 10_000, 250)]
    survey = survey_of(parts, stride=16)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    calls = itertools.count(1)
    most = 0

    def cancelled() -> bool:
        nonlocal most
        most = max(most, len(list(scratch.iterdir())))
        return next(calls) >= call

    with pytest.raises(Cancelled):
        merge(survey, tmp_path / "out", scratch=scratch, budget_bytes=4 << 20, cancelled=cancelled)
    assert not list(scratch.iterdir())
    assert next(calls) == call + 1  # it did not go on asking
    assert (most > 0) == (shuffled and call > 4)  # three batches are under way before one is on the disk


def test_cancelled_while_reading_runs(tmp_path: Path) -> None:
    ts_event = np.random.default_rng(7).permutation(10_000)
    survey = survey_of([part_of("a", day_table(ts_event), row_group_size=500)], stride=16)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    runs: list[int] = []

    def cancelled() -> bool:
        runs.append(len(list(scratch.iterdir())))
        return len(runs) > 2 and runs[-1] < runs[-2]  # a run was read, and is gone

    with pytest.raises(Cancelled):
        merge(survey, tmp_path / "out", scratch=scratch, budget_bytes=4 << 20, cancelled=cancelled)
    assert max(runs) > 2
    assert not list(scratch.iterdir())


# -- Memory ----------------------------------------------------------------------------------------------------------


def test_rows_of_a_window_follow_the_budget() -> None:
    assert window_rows(80, 512 << 20) > 100_000
    assert window_rows(80, 1 << 30) > window_rows(80, 512 << 20) > window_rows(160, 512 << 20)
    assert window_rows(1, 1) == 1


def test_row_bytes_are_those_of_the_varying_columns() -> None:
    table = pa.table({"ts_event": range(1_000), "price": np.arange(1_000.0), "label": ["x"] * 1_000})
    # Two columns of eight bytes and the position.
    assert row_bytes(survey_of([part_of("a", table)])) == pytest.approx(24, abs=1)
    assert row_bytes(survey_of([part_of("a", table.slice(0, 0))])) == 1


@pytest.mark.parametrize(("scan_rows", "times"), [(1_000, 1), (10, 3)], ids=["one run", "two runs"])
def test_schemas_of_one_run_are_united_once(scan_rows: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several, each by itself and then all of them."""
    united: list[int] = []

    def told(parts: list[Part], *arguments: Any, **options: Any) -> Columns:
        united.append(len(parts))
        return unite(parts, *arguments, **options)

    monkeypatch.setattr("quantlab_dagster.kernel.survey.unite", told)
    monkeypatch.setattr("quantlab_dagster.kernel.survey._ROWS_PER_SCAN", scan_rows)
    tables = [pa.table({"ts_event": range(10), "label": ["x"] * 10, name: range(10)}) for name in ("a", "b")]
    parts = [part_of(f"part-{at}", table) for at, table in enumerate(tables)]
    found = survey_of(parts, order=Order(numbered=False), keep=True)
    assert len(united) == times
    assert found.columns.varying == ["ts_event", "a", "b"]
    assert found.columns.constants == {"label": "x"}
    assert survey_of(parts, keep=True).columns.dtypes == found.columns.dtypes  # with numbers, that is asked again


def test_a_large_part_is_surveyed_in_slices_whatever_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantlab_dagster.kernel.survey._ROWS_PER_SCAN", 100)
    scanned: list[int] = []
    order_frame = Surveyor._order_frame

    def spy(self: Surveyor, *arguments: Any) -> pl.DataFrame:
        frame = order_frame(self, *arguments)
        scanned.append(frame.height)
        return frame

    monkeypatch.setattr(Surveyor, "_order_frame", spy)
    small = pa.table({"ts_event": range(10)})
    large = part_of("c", pa.table({"ts_event": range(1_000)}), row_group_size=60)
    survey = survey_of([part_of("a", small), part_of("b", small), large, part_of("d", small)])
    assert sorted(scanned) == sorted([20, *[120] * 8, 40, 10]), "runs are scanned side by side"
    assert survey.key_range == (0, 999)


def test_one_odd_row_does_not_shrink_the_windows() -> None:
    usual = pa.table({"ts_event": range(1_000), "text": [f"{at}" for at in range(1_000)]})
    odd = pa.table({"ts_event": [1], "text": ["x" * 100_000]})
    assert row_bytes(survey_of([part_of("a", odd), part_of("b", usual), part_of("c", usual)])) < 100


# ---- what the survey keeps -------------------------------------------------------------------------------------------


def test_what_was_decoded_of_a_small_day_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"ts_event": [3, 1, 2], "venue": ["x", "x", "x"]})
    survey = survey_of([part_of("a", table), part_of("b", table)], keep=True)
    assert survey.decoded is not None
    assert survey.decoded.columns == ["ts_event", "position"], "constant columns need no place"

    def again(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("quantlab_dagster.kernel.sweep.read_parts", again)
    monkeypatch.setattr("quantlab_dagster.kernel.budget.read_parts", again)
    assert merge(survey, tmp_path / "out", scratch=tmp_path).rows == 6
    with pytest.raises(AssertionError, match="decoded again"):
        merge(survey, tmp_path / "out", scratch=tmp_path, budget_bytes=KEPT_SHARE * 6 * 16 - 1)


@pytest.mark.parametrize("more", [pa.table({"ts_event": [4], "n": [1 << 40]}), pa.table({"ts_event": [4], "m": [1]})])
def test_what_was_decoded_is_not_kept_if_the_columns_are_others_in_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: pa.Table
) -> None:
    monkeypatch.setattr("quantlab_dagster.kernel.survey._ROWS_PER_SCAN", 2)
    table = pa.table({"ts_event": [1, 2], "n": pa.array([1, 2], pa.int32())})
    parts = [part_of("a", table), part_of("b", more)]
    assert survey_of(parts[:1] * 2, keep=True).decoded is not None
    assert survey_of(parts, keep=True).decoded is None
    assert read_back(compact(parts, tmp_path, keep=True).path)["n"].to_pylist()[:2] == [1, 2]


def test_no_more_is_kept_than_the_share() -> None:
    table = pa.table({"ts_event": range(1_000), "n": [float(number) for number in range(1_000)]})
    part = part_of("a", table)
    decoded = 3 * 8 * 1_000  # with the position

    def surveyed(budget_bytes: int, *, total_bytes: int = 0, elsewhere: int = 0) -> Survey:
        surveyor = Surveyor(Order(), 1, budget_bytes, total_bytes, lambda: elsewhere)
        surveyor.add([part])
        return surveyor.finish()

    enough = KEPT_SHARE * decoded
    assert surveyed(enough).decoded is not None
    assert surveyed(enough - KEPT_SHARE).decoded is None
    assert surveyed(2 * enough, elsewhere=decoded).decoded is not None
    assert surveyed(2 * enough, elsewhere=decoded + 1).decoded is None, "others keep as much"
    assert surveyed(2 * enough, total_bytes=2 * part.size_bytes).decoded is not None
    assert surveyed(2 * enough, total_bytes=3 * part.size_bytes).decoded is None, "more will come"
