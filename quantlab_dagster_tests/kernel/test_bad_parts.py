"""What is wrong with a part stops the merge and is named; what goes wrong in the merge does not get past the audit."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import BadPart, CorruptPart, NullOrder, SchemaConflict
from quantlab_dagster.kernel import merge as merging
from quantlab_dagster.kernel import survey
from quantlab_dagster.kernel.parts import Footer, FooterReader
from quantlab_dagster.kernel.survey import Order, Surveyor
from quantlab_dagster_tests.kernel.building import (
    EVENTS,
    compact,
    on_disk,
    part_from,
    part_of,
    read_back,
    survey_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantlab_dagster.kernel.parts import Part

ROWS = 50
PARTS = 9
BAD = 4
"""Which of the parts is the bad one, unless the test says otherwise."""


def day_table(index: int, rows: int = ROWS) -> pa.Table:
    """Rows of one part: neighbouring parts overlap a little, half of the time stamps tie."""
    rng = np.random.default_rng(index)
    return pa.table(
        {
            "ts_event": 40 * index + rng.integers(0, 42, rows),
            "venue": ["binance"] * rows,
            "price": rng.random(rows),
            "origin": np.arange(rows) + index * ROWS,
        }
    )


def day() -> list[Part]:
    return [part_of(f"part-{index}", day_table(index)) for index in range(PARTS)]


def day_with(bad: Part | pa.Table | bytes, at: int = BAD) -> list[Part]:
    """The day with one of its parts replaced."""
    parts = day()
    if isinstance(bad, pa.Table):
        bad = part_of(parts[at].key, bad)
    elif isinstance(bad, bytes):
        bad = part_from(parts[at].key, bad)
    parts[at] = bad
    return parts


def data_of(part: Part) -> bytearray:
    assert isinstance(part.source, bytes)
    return bytearray(part.source)


def footer_start(data: bytes | bytearray) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def replace_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


# -- Damage ----------------------------------------------------------------------------------------------------------


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 3 // 5]


def headless(data: bytes) -> bytes:
    return data[4:]


def zero_length(_: bytes) -> bytes:
    return b""


def just_magic(_: bytes) -> bytes:
    return b"PAR1"


def garbage(data: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(data))


def text(_: bytes) -> bytes:
    return b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"


def footer_of_zeros(data: bytes) -> bytes:
    start = footer_start(data)
    return data[:start] + bytes(len(data) - 8 - start) + data[-8:]


def absurd_footer_length(data: bytes) -> bytes:
    return data[:-8] + b"\xff\xff\xff\x7f" + data[-4:]


DAMAGE = [truncated, headless, zero_length, just_magic, garbage, text, footer_of_zeros, absurd_footer_length]


@pytest.mark.guards("damage-unnamed")
@pytest.mark.parametrize("at", [0, BAD, PARTS - 1])
@pytest.mark.parametrize("damage", DAMAGE)
def test_unreadable_part_is_named(damage: Callable[[bytes], bytes], at: int) -> None:
    bad = damage(bytes(data_of(day()[at])))
    with pytest.raises(CorruptPart) as caught:
        survey_of(day_with(bad, at))
    assert caught.value.part == f"part-{at}"
    assert f"part-{at}: " in str(caught.value)


@pytest.mark.guards("damage-unnamed")
@pytest.mark.parametrize("damage", DAMAGE)
def test_unreadable_local_file_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    bad = damage(bytes(data_of(day()[BAD])))
    with pytest.raises(CorruptPart) as caught:
        survey_of([on_disk(part, tmp_path) for part in day_with(bad)])
    assert caught.value.part == f"part-{BAD}"


@pytest.fixture
def sound() -> bytearray:
    """A part with little but statistics in its footer."""
    table = day_table(BAD).select(["ts_event", "venue", "origin"])
    return data_of(part_of("part", table, compression="none", store_schema=False))


@pytest.mark.guards("footer-ends-process")
def test_no_flipped_bit_of_a_footer_ends_the_process(sound: bytearray) -> None:
    """Columns of a wrong type and size statistics of a wrong length did, as soon as PyArrow looked at them."""
    blamed = 0
    for place in range(footer_start(sound), len(sound)):
        for bit in range(8):
            bad = bytearray(sound)
            bad[place] ^= 1 << bit
            try:
                FooterReader().read(part_from("bad", bytes(bad)))
            except BadPart as error:
                assert error.part == "bad"  # noqa: PT017 - many of the bits raise, not all
                blamed += 1
    assert blamed > len(sound)


@pytest.mark.guards("footer-ends-process")
def test_flipped_bits_of_a_footer_are_blamed_on_their_part(sound: bytearray, tmp_path: Path) -> None:
    """Or the part is read as what it now says it is."""
    blamed = 0
    places = range(footer_start(sound), len(sound), 4)
    for place in places:
        bad = bytearray(sound)
        bad[place] ^= 1 << (place // 4 % 8)
        try:
            compacted = compact([*day()[:2], part_from("part-2", bytes(bad)), *day()[3:5]], tmp_path)
        except BadPart as error:
            assert error.part == "part-2"  # noqa: PT017 - many of the bits raise, not all
            blamed += 1
        else:
            assert compacted.merged.rows == 5 * ROWS
    assert blamed > len(places) / 4


def with_damaged_pages(part: Part, column: str) -> Part:
    """The compressed values of one column become nonsense; footer and page headers stay."""
    data = data_of(part)
    metadata = pq.read_metadata(pa.BufferReader(bytes(data)))
    chunk = metadata.row_group(0).column(metadata.schema.names.index(column))
    end = chunk.data_page_offset + chunk.total_compressed_size
    data[end - chunk.total_compressed_size // 2 : end] = b"\xff" * (chunk.total_compressed_size // 2)
    return part_from(part.key, bytes(data))


@pytest.mark.guards("damage-unnamed")
@pytest.mark.parametrize("budget_bytes", [512 << 20, 100_000], ids=["one window", "runs"])
@pytest.mark.parametrize("column", ["ts_event", "price", "origin"])
def test_damaged_pages_are_named(tmp_path: Path, column: str, budget_bytes: int) -> None:
    """Also those of columns that the survey does not read."""
    table = day_table(BAD)
    # What does not compress is stored as it is, and then no damage shows.
    table = replace_column(table, "price", pa.array(np.round(table["price"].to_numpy(), 1)))
    plain = part_of(f"part-{BAD}", table, compression="zstd", use_dictionary=False)
    parts = day_with(with_damaged_pages(plain, column))
    with pytest.raises(CorruptPart, match="cannot be decoded") as caught:
        compact(parts, tmp_path, budget_bytes=budget_bytes, stride=8)
    assert caught.value.part == f"part-{BAD}"
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.guards("rows-not-declared")
def test_rows_that_do_not_add_up_are_named(tmp_path: Path) -> None:
    """The footer of 5,000 rows declares 5,001, in the places that a reader may look at one by one."""
    table = day_table(BAD, 5_000)
    data = data_of(part_of(f"part-{BAD}", table, compression="none"))
    declared, wrong = b"\x90\x4e", b"\x92\x4e"  # 5,000 and 5,001 as zigzag varints
    start = footer_start(data)
    places = [at for at in range(start, len(data)) if data[at : at + 2] == declared]
    assert len(places) >= 2 + table.num_columns  # of the file, of each chunk, and last of the row group
    for chosen in ([places[0]], [places[-1]], places):
        bad = bytearray(data)
        for place in chosen:
            bad[place : place + 2] = wrong
        with pytest.raises(CorruptPart) as caught:
            compact(day_with(bytes(bad)), tmp_path)
        assert caught.value.part == f"part-{BAD}"


class _MistakenFooters(FooterReader):
    """Reads one row too many in the footer of the bad part."""

    def read(self, part: Part) -> Footer:
        footer = super().read(part)
        return replace(footer, row_groups=(ROWS + 1,)) if part.key == f"part-{BAD}" else footer


@pytest.mark.guards("rows-not-declared")
def test_part_of_fewer_rows_than_declared_is_named_by_the_survey() -> None:
    surveyor = Surveyor(Order())
    surveyor._footers = _MistakenFooters()
    surveyor.add(day())
    with pytest.raises(CorruptPart, match="50 rows were decoded where the footer declares 51") as caught:
        surveyor.finish()
    assert caught.value.part == f"part-{BAD}"


@pytest.mark.guards("rows-not-declared")
@pytest.mark.parametrize("budget_bytes", [512 << 20, 100_000], ids=["one window", "runs"])
def test_part_of_fewer_rows_than_declared_is_named_by_the_merge(tmp_path: Path, budget_bytes: int) -> None:
    surveyed = survey_of(day(), stride=8)
    surveyed.rows[BAD] += 1
    footers = list(surveyed.footers)
    footers[BAD] = replace(footers[BAD], row_groups=(ROWS + 1,))
    surveyed = replace(surveyed, footers=tuple(footers))
    with pytest.raises(CorruptPart, match="50 rows were decoded where the footer declares 51") as caught:
        merging.merge(surveyed, tmp_path / "out", scratch=tmp_path, budget_bytes=budget_bytes)
    assert caught.value.part == f"part-{BAD}"


# -- Statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.guards("statistics-believed")
def test_statistics_that_lie_do_not_matter(tmp_path: Path) -> None:
    """Neither about the order column, which would put rows into the wrong window, nor about a label."""
    first, last = 0x5151_5151_0000_0000, 0x5151_5151_7777_7777
    table = pa.table({"ts_event": [last, first], "label": ["AAAA", "ZZZZ"], "origin": [1, 0]})
    data = data_of(part_of("part", table, compression="none", use_dictionary=False, store_schema=False))
    start = footer_start(data)
    footer = bytes(data[start:])
    assert footer.count(b"ZZZZ") >= 1
    assert footer.count(last.to_bytes(8, "little")) >= 1
    footer = footer.replace(b"ZZZZ", b"AAAA").replace(last.to_bytes(8, "little"), first.to_bytes(8, "little"))
    lying = part_from("part", bytes(data[:start]) + footer)
    statistics = pq.read_metadata(pa.BufferReader(lying.source)).row_group(0).column(1).statistics
    assert (statistics.min, statistics.max) == ("AAAA", "AAAA")

    compacted = compact([lying, part_of("q", table)], tmp_path, budget_bytes=1, stride=1)
    found = read_back(compacted.path)
    assert found["origin"].to_pylist() == [0, 0, 1, 1]
    assert found["label"].to_pylist() == ["ZZZZ", "ZZZZ", "AAAA", "AAAA"]
    assert (compacted.merged.key_min, compacted.merged.key_max) == (first, last)


# -- The order column ------------------------------------------------------------------------------------------------


@pytest.mark.guards("null-order")
@pytest.mark.parametrize("row", [0, ROWS // 2, ROWS - 1])
@pytest.mark.parametrize("at", [0, BAD, PARTS - 1])
def test_null_in_the_order_column_is_named(at: int, row: int) -> None:
    table = day_table(at)
    values = table["ts_event"].to_pylist()
    values[row] = None
    with pytest.raises(NullOrder, match="'ts_event'") as caught:
        survey_of(day_with(replace_column(table, "ts_event", pa.array(values, pa.int64())), at))
    assert caught.value.part == f"part-{at}"


@pytest.mark.guards("null-order")
def test_null_in_a_large_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_ROWS_PER_SCAN", 30)
    values = [*range(99), None]
    with pytest.raises(NullOrder) as caught:
        survey_of([*day(), part_of("part-large", pa.table({"ts_event": values}), row_group_size=10)])
    assert caught.value.part == "part-large"


@pytest.mark.parametrize(
    "values",
    [
        pa.array(range(ROWS), pa.uint64()),
        pa.array(range(ROWS), pa.float64()),
        pa.array([str(at) for at in range(ROWS)]),
        pa.array([str(at) for at in range(ROWS)]).dictionary_encode(),
        pa.array(range(ROWS), pa.timestamp("ns")),
        pa.array(range(ROWS), pa.decimal128(12, 0)),
        pa.array([True] * ROWS),
        pa.array([[at] for at in range(ROWS)]),
    ],
    ids=lambda values: str(values.type),
)
@pytest.mark.parametrize("at", [0, BAD])
def test_order_column_of_another_type_is_named(values: pa.Array, at: int) -> None:
    parts = day_with(replace_column(day_table(at), "ts_event", values), at)
    with pytest.raises(SchemaConflict, match="'ts_event'") as caught:
        survey_of(parts)
    assert caught.value.part == f"part-{at}"


def test_the_part_with_the_wrong_type_is_named_not_the_one_before() -> None:
    first = pa.table({"ts_event": pa.array([1], pa.uint32())})
    second = pa.table({"ts_event": pa.array([2], pa.uint64())})
    with pytest.raises(SchemaConflict, match="UInt64") as caught:
        survey_of([part_of("a", first), part_of("b", second)])
    assert caught.value.part == "b"


@pytest.mark.parametrize("rows", [0, ROWS])
def test_missing_order_column_is_named(rows: int) -> None:
    with pytest.raises(SchemaConflict, match="'ts_event' is missing") as caught:
        survey_of(day_with(day_table(BAD, rows).drop_columns(["ts_event"])))
    assert caught.value.part == f"part-{BAD}"


def test_events_need_their_own_order_column() -> None:
    with pytest.raises(SchemaConflict, match="'timestamp_ms' is missing") as caught:
        survey_of(day(), order=EVENTS)
    assert caught.value.part == "part-0"


@pytest.mark.guards("null-order")
def test_an_order_column_of_nothing_but_nulls_is_null_not_missing() -> None:
    with pytest.raises(NullOrder) as caught:
        survey_of(day_with(replace_column(day_table(BAD), "ts_event", pa.nulls(ROWS))))
    assert caught.value.part == f"part-{BAD}"


# -- Other columns ---------------------------------------------------------------------------------------------------

ONE = Decimal("1.00")
CONFLICTS = [
    (pa.array([1]), pa.array([1.0])),
    (pa.array([1], pa.uint64()), pa.array([1], pa.int8())),
    (pa.array([1]), pa.array(["1"])),
    (pa.array([1]), pa.array([True])),
    (pa.array(["1"]), pa.array([b"1"])),
    (pa.array([ONE], pa.decimal128(10, 2)), pa.array([ONE], pa.decimal128(12, 2))),
    (pa.array([ONE], pa.decimal128(10, 2)), pa.array([ONE], pa.decimal128(10, 3))),
    (pa.array([1], pa.timestamp("ms")), pa.array([1], pa.timestamp("us"))),
    (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("us", "UTC"))),
    (pa.array([1], pa.timestamp("us")), pa.array([1], pa.int64())),
    (pa.array([1], pa.timestamp("us")), pa.array([1], pa.date32())),
    (pa.array([[1]]), pa.array([["1"]])),
    (pa.array([[1]]), pa.array([[1]], pa.list_(pa.int8()))),
    (pa.array([{"a": 1}]), pa.array([{"b": 1}])),
]


@pytest.mark.guards("widening-loses")
@pytest.mark.parametrize(("one", "other"), CONFLICTS, ids=lambda array: str(array.type))
@pytest.mark.parametrize("swapped", [False, True])
def test_columns_that_do_not_unite_are_named(one: pa.Array, other: pa.Array, *, swapped: bool) -> None:
    arrays = (other, one) if swapped else (one, other)
    parts = [part_of(key, pa.table({"ts_event": [1], "x": array})) for key, array in zip("ab", arrays, strict=True)]
    parts.append(part_of("c", pa.table({"ts_event": [1]})))
    with pytest.raises(SchemaConflict, match=r"'x'.* in a: ") as caught:
        survey_of(parts)
    assert caught.value.part == "b"


@pytest.mark.guards("types-silently-other")
@pytest.mark.parametrize(
    "column",
    [
        pa.array([1], pa.duration("us")),
        pa.array([[1]], pa.list_(pa.duration("us"))),
        pa.array([{"a": 1}], pa.struct([("a", pa.duration("us"))])),
        pa.array([[1, 2]], pa.list_(pa.int64(), 2)),
        pa.array([["x"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    ],
    ids=lambda array: str(array.type),
)
def test_types_that_parquet_would_not_give_back_are_named(column: pa.Array) -> None:
    with pytest.raises(SchemaConflict, match="'x'") as caught:
        survey_of([*day(), part_of("z", pa.table({"ts_event": [1], "x": column}))])
    assert caught.value.part == "z"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [], None], pa.list_(pa.int64())),
        pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
        pa.array([[{"a": "x"}], [], None]),
        pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        pa.array([1, None, 3], pa.timestamp("ms", "Europe/Berlin")),
        pa.array([1, None, 3], pa.timestamp("ns")),
        pa.array([1, None, 3], pa.time64("us")),
        pa.array([1, None, 3], pa.date32()),
        pa.array([1.5, None, 3], pa.float16()),
        pa.array([b"ab", None, b"ef"], pa.binary(2)),
        pa.array([Decimal("-1.25"), None, ONE], pa.decimal128(38, 2)),
        pa.array([2**64 - 1] * 3, pa.uint64()),
        pa.nulls(3),
    ],
    ids=lambda array: str(array.type),
)
def test_other_types_come_through(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"ts_event": [3, 1, 2], "x": column})
    compacted = compact([part_of("a", table)], tmp_path)
    # Compared as Polars, whose strings have one spelling; an instant is the same in every time zone.
    expected = pl.Series(table["x"].take(pa.array([1, 2, 0])))
    found = pl.Series(read_back(compacted.path)["x"])
    assert found.to_list() == expected.to_list()


@pytest.mark.guards("types-silently-other")
def test_what_only_arrows_own_schema_tells_apart_is_told_apart() -> None:
    """To Parquet a duration is an integer; schemas are remembered from part to part."""
    number, duration = (
        pa.table({"ts_event": [1], "x": pa.array([1], kind)}) for kind in (pa.int64(), pa.duration("us"))
    )
    with pytest.raises(SchemaConflict, match="'x' is Duration") as caught:
        survey_of([part_of("a", number), part_of("b", duration)])
    assert caught.value.part == "b"


def test_two_columns_of_one_name_are_named() -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["ts_event", "x", "x"])
    with pytest.raises(SchemaConflict, match="share one name") as caught:
        survey_of(day_with(twice))
    assert caught.value.part == f"part-{BAD}"


def test_a_raw_column_called_seq_is_named() -> None:
    with pytest.raises(SchemaConflict, match="'seq' is reserved") as caught:
        survey_of(day_with(day_table(BAD).append_column("seq", pa.array(range(ROWS)))))
    assert caught.value.part == f"part-{BAD}"


ONE_WINDOW, WINDOWS, RUNS = 512 << 20, 550_000, 30_000
"""Budgets, in bytes, that send the day along each of the paths."""
