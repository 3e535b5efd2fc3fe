"""Columns whose types differ by day: united without a change to any value, or refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from quantlab_dagster import reader
from quantlab_dagster.reader.uniting import united
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.reader.lakes import DAY, DAY_MS, MIDNIGHT_MS, ReadLake, day_of, frame_of

if TYPE_CHECKING:
    from pathlib import Path

NEXT = DAY + dt.timedelta(days=1)
NOON = dt.datetime(2026, 1, 8, 12, 0, 0, 123_456)  # noqa: DTZ001
BIG = 2**60 + 1

UNITED: list[tuple[Any, Any, Any]] = [
    (pl.Int8(), pl.Int32(), pl.Int32()),
    (pl.UInt8(), pl.UInt64(), pl.UInt64()),
    (pl.UInt8(), pl.Int8(), pl.Int16()),
    (pl.UInt8(), pl.Int16(), pl.Int16()),
    (pl.UInt32(), pl.Int32(), pl.Int64()),
    (pl.UInt64(), pl.Int64(), None),
    (pl.UInt64(), pl.Int8(), None),
    (pl.Float32(), pl.Float64(), pl.Float64()),
    (pl.Int16(), pl.Float32(), pl.Float32()),
    (pl.Int32(), pl.Float32(), pl.Float64()),
    (pl.UInt32(), pl.Float64(), pl.Float64()),
    (pl.Int64(), pl.Float64(), None),
    (pl.UInt64(), pl.Float32(), None),
    (pl.Boolean(), pl.Int64(), None),
    (pl.Boolean(), pl.String(), None),
    (pl.Decimal(10, 2), pl.Decimal(20, 6), pl.Decimal(20, 6)),
    (pl.Decimal(30, 2), pl.Decimal(20, 10), pl.Decimal(38, 10)),
    (pl.Decimal(38, 2), pl.Decimal(38, 30), None),
    (pl.Decimal(10, 2), pl.Int64(), pl.Decimal(21, 2)),
    (pl.Decimal(30, 2), pl.Float64(), None),
    (pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("ns")),
    (pl.Datetime("us", "UTC"), pl.Datetime("ms", "UTC"), pl.Datetime("us", "UTC")),
    (pl.Datetime("ms", "UTC"), pl.Datetime("ms"), None),
    (pl.Datetime("ms"), pl.Duration("ms"), None),
    (pl.Datetime("ms"), pl.Date(), None),
    (pl.Datetime("ms"), pl.Int64(), None),
    (pl.Duration("ns"), pl.Duration("ms"), pl.Duration("ns")),
    (pl.String(), pl.Categorical(), pl.String()),
    (pl.String(), pl.Enum(["a"]), pl.String()),
    (pl.String(), pl.Binary(), None),
    (pl.String(), pl.Int64(), None),
    (pl.Null(), pl.Int64(), pl.Int64()),
    (pl.Null(), pl.List(pl.Int8()), pl.List(pl.Int8())),
    (pl.List(pl.Int32()), pl.List(pl.Int64()), None),
    (pl.Struct({"a": pl.Int8()}), pl.Struct({"a": pl.Int8()}), pl.Struct({"a": pl.Int8()})),
    (pl.Struct({"a": pl.Int8()}), pl.Struct({"a": pl.Int16()}), None),
]


@pytest.mark.parametrize(("one", "other", "both"), UNITED, ids=str)
def test_types_are_united_only_where_every_value_stays(one: pl.DataType, other: pl.DataType, both: Any) -> None:
    assert united([one, other]) == united([other, one]) == united([one, other, one]) == both


def test_which_type_several_have_does_not_depend_on_their_order() -> None:
    assert united([pl.Int8(), pl.UInt16(), pl.Float32()]) == pl.Float32()
    assert united([pl.Enum(["a"]), pl.Categorical(), pl.String()]) == pl.String()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pl.Series([-128], dtype=pl.Int8), pl.Series([255], dtype=pl.UInt8)),
        (pl.Series([2**31 - 1], dtype=pl.Int32), pl.Series([0.5], dtype=pl.Float32)),
        (pl.Series([Decimal("1.25")], dtype=pl.Decimal(10, 2)), pl.Series([Decimal("1e-6")], dtype=pl.Decimal(20, 6))),
        (pl.Series([Decimal("1.25")], dtype=pl.Decimal(10, 2)), pl.Series([BIG], dtype=pl.Int64)),
        (pl.Series([NOON], dtype=pl.Datetime("us")), pl.Series([NOON.replace(microsecond=0)], dtype=pl.Datetime("ms"))),
        (pl.Series(["a"], dtype=pl.Categorical), pl.Series(["b"], dtype=pl.String)),
        (pl.Series([None], dtype=pl.Null), pl.Series([BIG], dtype=pl.Int64)),
        (pl.Series([BIG], dtype=pl.Int64), pl.Series([0.5], dtype=pl.Float64)),
        (pl.Series([2**63 + 5], dtype=pl.UInt64), pl.Series([BIG], dtype=pl.Int64)),
        (pl.Series([True], dtype=pl.Boolean), pl.Series(["a"], dtype=pl.String)),
        (pl.Series([[1]], dtype=pl.List(pl.Int32)), pl.Series([[2]], dtype=pl.List(pl.Int64))),
    ],
    ids=lambda series: str(series.dtype),
)
def test_values_of_days_with_other_types_are_read_as_they_are_or_not(
    tmp_path: Path, one: pl.Series, other: pl.Series
) -> None:
    lake = ReadLake.of(Rig("local", None, tmp_path))
    lake.put(day_of(), frame_of(day_of(), [MIDNIGHT_MS]).with_columns(x=one))
    lake.put(day_of(day=NEXT), frame_of(day_of(day=NEXT), [MIDNIGHT_MS + DAY_MS]).with_columns(x=other))
    found = lake.open().rows()
    if united([one.dtype, other.dtype]) is None:
        with pytest.raises(reader.ColumnsDiffer, match=r"types of the column x that cannot be united \("):
            found.polars()
        return
    assert found.polars()["x"].to_list() == found.arrow()["x"].to_pylist() == [*one.to_list(), *other.to_list()]
