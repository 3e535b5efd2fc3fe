"""What a part declares is not believed: too much for its size or for the budget is refused, with the figures."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import CorruptPart
from quantlab_dagster.kernel import bounds
from quantlab_dagster.kernel.checksums import may_carry_checksums, verify_pages
from quantlab_dagster.kernel.parts import FooterReader
from quantlab_dagster_tests.kernel.building import compact, on_disk, part_from, part_of, survey_of
from quantlab_dagster_tests.kernel.lying import header_of_first_page, with_rows

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.kernel.terms import Part

HUNDRED_MILLION = 100_000_000


def one_run(rows: int, **options: object) -> Part:
    """A part that says of itself that one value is repeated so often."""
    return part_of("bomb", pa.table({"ts_event": pa.repeat(pa.scalar(5, pa.int64()), rows)}), **options)


def test_a_hundred_million_rows_of_a_few_hundred_bytes_are_refused_at_once() -> None:
    bomb = with_rows(one_run(1_000, compression="none"), HUNDRED_MILLION)
    assert bomb.size_bytes < 1_000
    started = time.monotonic()
    with pytest.raises(CorruptPart, match=rf"declares 100,000,000 rows in 1 row groups of {bomb.size_bytes}") as caught:
        survey_of([bomb])
    assert time.monotonic() - started < 5
    assert caught.value.part == "bomb"


def test_a_million_equal_rows_of_a_few_bytes_are_a_part_like_any_other(tmp_path: Path) -> None:
    part = one_run(1 << 20)
    assert part.size_bytes < 5_000
    assert compact([part], tmp_path).merged.rows == 1 << 20


def test_the_bound_on_rows_is_where_it_is_said_to_be() -> None:
    part = part_from("x", bytes(100))
    most = bounds.FREE_ROWS + 100 * bounds.ROWS_PER_BYTE
    bounds.check_rows(part, most, [most])
    with pytest.raises(CorruptPart):
        bounds.check_rows(part, most + 1, [most + 1])


def test_a_row_group_that_takes_more_than_the_budget_is_refused() -> None:
    table = pa.table({"ts_event": np.arange(1_000_000), "a": pa.repeat("x", 1_000_000), "b": np.zeros(1_000_000)})
    whole, cut = part_of("p", table), part_of("p", table, row_group_size=100_000)
    assert bounds.LEAST_SHARE_BYTES > 32 * 1_000_000
    FooterReader("ts_event", 1).read(whole)
    wide = pa.table({"ts_event": np.arange(1_000_000), **{f"c{i}": pa.repeat("x", 1_000_000) for i in range(4)}})
    whole, cut = part_of("p", wide), part_of("p", wide, row_group_size=100_000)
    with pytest.raises(CorruptPart, match=r"1,000,000 rows of at least 72 bytes in one row group: 72,000,000 bytes"):
        FooterReader("ts_event", 1).read(whole)
    FooterReader("ts_event", 100 << 20).read(whole)
    assert FooterReader("ts_event", 1).read(cut).rows == 1_000_000, "it can be streamed"


def test_more_columns_than_can_be_read_in_time_are_refused() -> None:
    names = [f"c{i}" for i in range(bounds.MOST_COLUMNS)]
    table = pa.table({"ts_event": [1], **{name: [1] for name in names}})
    with pytest.raises(CorruptPart, match="declares 10,001 columns"):
        survey_of([part_of("wide", table)])
    bounds.check_shape(part_from("x", b""), bounds.MOST_COLUMNS, 100)
    with pytest.raises(CorruptPart, match="column chunks"):
        bounds.check_shape(part_from("x", b""), bounds.MOST_COLUMNS, 101)


@pytest.mark.slow
def test_a_part_of_a_hundred_thousand_columns_is_refused_by_itself_in_little_time() -> None:
    names = ["ts_event", *(f"c{at}" for at in range(100_000))]
    wide = part_of("part-b", pa.Table.from_arrays([pa.array([1])] * len(names), names=names), write_statistics=False)
    narrow = part_of("part-a", pa.table({"ts_event": [1]}))
    survey_of([narrow])  # what is loaded at the first use is not counted
    started = time.process_time()
    with pytest.raises(CorruptPart, match="declares 100,001 columns") as caught:
        survey_of([narrow, wide])
    assert caught.value.part == "part-b"
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (pl.Int8(), 1),
        (pl.Int64(), 8),
        (pl.String(), 16),
        (pl.Datetime("us"), 8),
        (pl.List(pl.Int64), 8),
        (pl.Struct({"a": pl.Int32, "b": pl.Boolean}), 5),
        (pl.Array(pl.Int16, 3), 6),
    ],
    ids=str,
)
def test_least_size_of_a_value(dtype: pl.DataType, size: int) -> None:
    assert bounds.least_row_bytes(dtype) == size


# -- Page checksums --------------------------------------------------------------------------------------------------

TABLE = pa.table({"ts_event": np.arange(1_000), "price": np.random.default_rng(0).random(1_000)})
PLAIN = {"use_dictionary": False, "compression": "none"}


def flipped(part: Part, column: int = 1) -> Part:
    """One bit of a value, where neither Polars nor anybody else can see it."""
    assert isinstance(part.source, bytes)
    chunk = pq.read_metadata(pa.BufferReader(part.source)).row_group(0).column(column)
    data = bytearray(part.source)
    data[chunk.data_page_offset + chunk.total_compressed_size - 5] ^= 1
    return part_from(part.key, bytes(data))


@pytest.mark.parametrize("local", [False, True], ids=["in memory", "on disk"])
def test_a_flipped_bit_is_refused_where_there_is_a_checksum(tmp_path: Path, *, local: bool) -> None:
    sound = part_of("part", TABLE, write_page_checksum=True, **PLAIN)
    bad = flipped(sound)
    with pytest.raises(CorruptPart, match="does not have the checksum") as caught:
        survey_of([on_disk(bad, tmp_path) if local else bad])
    assert caught.value.part == "part"
    survey_of([sound])
    survey_of([flipped(part_of("part", TABLE, **PLAIN))])  # there is none, and nobody can know


def polars_part() -> Part:
    sink = io.BytesIO()
    pl.DataFrame({"ts_event": np.arange(1_000), "venue": ["x"] * 1_000}).write_parquet(sink)
    return part_from("polars", sink.getvalue())


def test_only_parts_with_checksums_are_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = pq.ParquetFile

    def counted(*arguments: object, **options: object) -> object:
        opened.append("x")
        return real(*arguments, **options)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    without = [polars_part(), *(part_of("p", TABLE, data_page_version=v, compression="zstd") for v in ("1.0", "2.0"))]
    for part in without:
        verify_pages(part)
    assert opened == []
    for version in ("1.0", "2.0"):
        for options in ({}, PLAIN):
            verify_pages(part_of("p", TABLE, write_page_checksum=True, data_page_version=version, **options))
    assert len(opened) == 4


def test_a_header_that_is_not_understood_counts_as_one_with_a_checksum() -> None:
    assert may_carry_checksums(b"PAR1" + b"\x19\x00\x00")
    assert may_carry_checksums(b"PAR1" + header_of_first_page(crc=True))
    assert not may_carry_checksums(b"PAR1" + header_of_first_page(crc=False))
    assert not may_carry_checksums(b"PAR1")
