"""Uniting schemas: never a value lost, never a guess, whatever the order of the parts."""

from __future__ import annotations

import itertools
import math
import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest

from quantlab_dagster.errors import SchemaConflict
from quantlab_dagster.kernel.columns import Columns, may_be_constant, unite, widen
from quantlab_dagster.kernel.frames import scan
from quantlab_dagster.kernel.parts import FooterReader
from quantlab_dagster_tests.kernel.building import part_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

INTEGERS: list[pl.DataType] = [
    *(pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64()),
    *(pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64()),
]
FLOATS: list[pl.DataType] = [pl.Float16(), pl.Float32(), pl.Float64()]
TEXTS: list[pl.DataType] = [pl.String(), pl.Categorical()]
OTHERS: list[pl.DataType] = [
    pl.Boolean(),
    pl.Binary(),
    pl.Date(),
    pl.Time(),
    pl.Datetime("ms"),
    pl.Datetime("us"),
    pl.Datetime("us", "UTC"),
    pl.Decimal(10, 2),
    pl.Decimal(12, 2),
    pl.Decimal(10, 3),
    pl.List(pl.Int64()),
    pl.List(pl.Int8()),
    pl.Struct({"a": pl.Int64()}),
    pl.Struct({"b": pl.Int64()}),
]
ALL = [*INTEGERS, *FLOATS, *TEXTS, *OTHERS, pl.Null()]

_FLOAT_BITS: dict[type[pl.DataType], int] = {pl.Float16: 16, pl.Float32: 32, pl.Float64: 64}


def limits(dtype: pl.DataType) -> tuple[int, int]:
    low, high = pl.select(low=dtype.min(), high=dtype.max()).row(0)  # type: ignore[attr-defined]
    return low, high


def expected(a: pl.DataType, b: pl.DataType) -> pl.DataType | None:
    """The rule in other words: the narrowest type of the family that holds both."""
    if pl.Null in (a, b):
        other = b if a == pl.Null else a
        return pl.String() if other in TEXTS else other
    if a in TEXTS and b in TEXTS:
        return pl.String()
    if a in FLOATS and b in FLOATS:
        return max(a, b, key=lambda dtype: _FLOAT_BITS[type(dtype)])
    if a in INTEGERS and b in INTEGERS:
        low, high = min(limits(a)[0], limits(b)[0]), max(limits(a)[1], limits(b)[1])
        holding = [dtype for dtype in INTEGERS if limits(dtype)[0] <= low and limits(dtype)[1] >= high]
        return min(holding, key=lambda dtype: limits(dtype)[1] - limits(dtype)[0], default=None)
    return a if a == b else None


PAIRS = list(itertools.product(ALL, repeat=2))


@pytest.mark.guards("widening-loses")
@pytest.mark.parametrize("a", ALL, ids=str)
def test_widen_holds_every_value_of_both(a: pl.DataType) -> None:
    for b in ALL:
        assert widen(a, b) == expected(a, b), (a, b)


def test_widen_is_commutative() -> None:
    assert [(a, b) for a, b in PAIRS if widen(a, b) != widen(b, a)] == []


def test_widen_keeps_what_is_wide_enough() -> None:
    for a, b in PAIRS:
        united = widen(a, b)
        if united is not None:
            assert widen(united, a) == widen(united, b) == united


def test_the_order_of_three_parts_does_not_matter() -> None:
    def fold(dtypes: Iterable[pl.DataType]) -> pl.DataType | None:
        united: pl.DataType | None = pl.Null()
        for dtype in dtypes:
            united = None if united is None else widen(united, dtype)
        return united

    for three in itertools.combinations_with_replacement([*INTEGERS, *FLOATS, *TEXTS, pl.Boolean(), pl.Null()], 3):
        assert len({str(fold(order)) for order in itertools.permutations(three)}) == 1, three


@pytest.mark.guards("widening-loses")
@pytest.mark.parametrize(
    ("a", "b", "united"),
    [
        (pl.Int8(), pl.Int64(), pl.Int64()),
        (pl.UInt8(), pl.Int8(), pl.Int16()),
        (pl.UInt32(), pl.Int8(), pl.Int64()),
        (pl.UInt64(), pl.Int8(), None),
        (pl.UInt64(), pl.UInt8(), pl.UInt64()),
        (pl.Float32(), pl.Float64(), pl.Float64()),
        (pl.Int8(), pl.Float64(), None),
        (pl.Int8(), pl.Boolean(), None),
        (pl.Null(), pl.Categorical(), pl.String()),
        (pl.Categorical(), pl.Categorical(), pl.String()),
        (pl.String(), pl.Binary(), None),
        (pl.Datetime("ms"), pl.Datetime("us"), None),
    ],
)
def test_widen_by_example(a: pl.DataType, b: pl.DataType, united: pl.DataType | None) -> None:
    assert widen(a, b) == united


# -- Polars does it --------------------------------------------------------------------------------------------------


_FLOAT_LIMITS: dict[type[pl.DataType], tuple[float, float]] = {
    pl.Float16: (65504.0, 2.0**-24),
    pl.Float32: (float.fromhex("0x1.fffffep+127"), 2.0**-149),
    pl.Float64: (sys.float_info.max, 5e-324),
}
"""Greatest and least positive value."""


def extremes(dtype: pl.DataType) -> list[Any]:
    if dtype.is_integer():
        return [*limits(dtype), 0, None]
    if dtype.is_float():
        largest, least = _FLOAT_LIMITS[type(dtype)]
        return [largest, -largest, least, -0.0, math.inf, -math.inf, math.nan, None]
    return ["a", "b", None] if dtype in TEXTS else [None, None]


WIDENED = [(a, b) for a, b in PAIRS if a != b and expected(a, b) is not None and not {a, b} & set(OTHERS)]


@pytest.mark.guards("widening-loses")
@pytest.mark.parametrize(("a", "b"), WIDENED, ids=str)
def test_the_scan_casts_without_loss(a: pl.DataType, b: pl.DataType) -> None:
    """What we allow, Polars does, to the last bit."""
    parts, values = [], []
    for key, dtype in (("a", a), ("b", b)):
        column = pl.Series("x", extremes(dtype), dtype)
        values += column.to_list()
        table = column.to_frame().to_arrow(compat_level=pl.CompatLevel.oldest())
        # Polars writes its strings as large ones; what other writers do is in the merge's properties.
        parts.append(part_of(key, table))
    united = widen(a, b)
    assert united is not None
    frame = scan(parts, Columns("x", {"x": united}, {}), "row").collect()
    assert frame.schema["x"] == united
    assert list(map(repr, frame["x"].to_list())) == list(map(repr, values))


def test_missing_columns_are_nulls_and_order_is_free() -> None:
    first = part_of("a", pa.table({"x": [1], "y": ["p"]}))
    second = part_of("b", pa.table({"y": ["q"]}))
    third = part_of("c", pa.table({"y": ["r"], "x": [3]}))
    frame = scan([first, second, third], Columns("x", {"x": pl.Int64(), "y": pl.String()}, {}), "row").collect()
    assert frame.select("x", "y").rows() == [(1, "p"), (None, "q"), (3, "r")]


# -- Uniting ---------------------------------------------------------------------------------------------------------


def unite_schemas(*schemas: Mapping[str, pl.DataType], **options: Any) -> Columns:
    tables = [pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()) for schema in schemas]
    parts = [part_of(f"part-{index}", table) for index, table in enumerate(tables)]
    reader = FooterReader("ts_event")
    return unite(parts, [reader.read(part) for part in parts], "ts_event", **options)


def test_columns_come_in_the_order_of_their_first_appearance() -> None:
    columns = unite_schemas(
        {"b": pl.Int8(), "ts_event": pl.Int32()},
        {"ts_event": pl.Int64(), "a": pl.String(), "b": pl.Int16()},
        {"c": pl.Null(), "a": pl.Categorical(), "ts_event": pl.UInt32()},
    )
    assert list(columns.dtypes.items()) == [
        ("b", pl.Int16()),
        ("ts_event", pl.Int64()),
        ("a", pl.String()),
        ("c", pl.Null()),
    ]


@pytest.mark.parametrize("dtype", [*INTEGERS, pl.Null()], ids=str)
def test_the_order_column_becomes_int64(dtype: pl.DataType) -> None:
    assert unite_schemas({"ts_event": dtype}).dtypes == {"ts_event": pl.Int64()}


@pytest.mark.parametrize("dtype", [*FLOATS, *TEXTS, *OTHERS], ids=str)
def test_other_order_columns_are_refused(dtype: pl.DataType) -> None:
    with pytest.raises(SchemaConflict, match="64 signed bits") as caught:
        unite_schemas({"ts_event": pl.Int64()}, {"ts_event": dtype})
    assert caught.value.part == "part-1"


def test_conflict_names_both_parts_the_column_and_both_types() -> None:
    with pytest.raises(SchemaConflict) as caught:
        unite_schemas(
            {"ts_event": pl.Int64()},
            {"ts_event": pl.Int64(), "price": pl.Float64()},
            {"ts_event": pl.Int64(), "price": pl.Int64()},
        )
    assert caught.value.part == "part-2"
    for named in ("'price'", "Int64", "Float64", "part-1"):
        assert named in caught.value.cause


@pytest.mark.guards("case-united")
@pytest.mark.parametrize("names", list(itertools.permutations([("eventType",), ("eventtype",)])))
def test_names_that_differ_only_in_case_do_not_unite(names: list[tuple[str, ...]]) -> None:
    [[first], [second]] = names
    with pytest.raises(SchemaConflict, match=f"column '{second}' is '{first}' in part-0: .* case") as caught:
        unite_schemas(*({"ts_event": pl.Int64(), one[0]: pl.String()} for one in names))
    assert caught.value.part == "part-1"
    within = [pl.Struct({one[0]: pl.Int64()}) for one in names]
    with pytest.raises(SchemaConflict, match="column 'x' is"):
        unite_schemas(*({"ts_event": pl.Int64(), "x": one} for one in within))


def test_parts_that_have_both_spellings_unite_with_their_like_only() -> None:
    both: dict[str, pl.DataType] = {"ts_event": pl.Int64(), "v": pl.String(), "V": pl.String()}
    assert list(unite_schemas(both, {**both, "new": pl.Int8()}).dtypes) == ["ts_event", "v", "V", "new"]
    for one in ("v", "V"):
        for schemas in itertools.permutations([both, {"ts_event": pl.Int64(), one: pl.String()}]):
            with pytest.raises(SchemaConflict, match="case"):
                unite_schemas(*schemas)


def test_reserved_names_are_refused() -> None:
    schema = {"ts_event": pl.Int64(), "seq": pl.Int64()}
    assert "seq" in unite_schemas(schema).dtypes
    with pytest.raises(SchemaConflict, match="'seq' is reserved"):
        unite_schemas(schema, reserved=frozenset({"seq"}))


def test_constants_do_not_vary() -> None:
    schema: dict[str, pl.DataType] = {"venue": pl.String(), "ts_event": pl.Int64(), "price": pl.Float64()}
    assert unite_schemas(schema, constants={"venue": "x"}).varying == ["ts_event", "price"]
    assert unite_schemas(schema).varying == list(schema)


@pytest.mark.guards("helper-names")
def test_helper_names_are_free() -> None:
    columns = unite_schemas({"ts_event": pl.Int64(), "position": pl.Int8(), "_position": pl.Int8()})
    assert columns.helper("position") == "__position"
    assert columns.helper("key") == "key"


def test_no_parts_have_no_columns() -> None:
    assert unite_schemas().dtypes == {}


def test_labels_versions_and_flags_may_be_constant() -> None:
    assert {str(dtype) for dtype in ALL if may_be_constant(dtype)} == {
        str(dtype) for dtype in (*INTEGERS, pl.String(), pl.Boolean())
    }
