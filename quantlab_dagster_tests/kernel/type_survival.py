"""Types through the merge: what goes in, what comes out, and how three engines read either.

`types_table()` is the table for the documentation; `python -m quantlab_dagster_tests.kernel.type_survival` prints it.
"""

from __future__ import annotations

import datetime as dt
import io
import tempfile
import uuid
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.errors import SchemaConflict
from quantlab_dagster.kernel.layout import restored
from quantlab_dagster.kernel.leaves import Leaf
from quantlab_dagster.kernel.survey import Order
from quantlab_dagster_tests.kernel.building import EVENTS, compact, part_from
from quantlab_dagster_tests.kernel.spark.in_spark import TYPES as SPARK_TYPES
from quantlab_dagster_tests.kernel.spark.in_spark import file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CASES", "LAKES", "Case", "Reading", "readings", "survive", "types_rows", "types_table"]

LAKES = {"market": Order(), "events": EVENTS}

SPARK_PARTS = Path(__file__).parent / "spark" / "parts"

HEADINGS = ("lake", "column", "Parquet type in", "Parquet type out", "Polars", "DuckDB", "PyArrow")

_SAID = """What Parquet says of a column before and after the merge, and as what three engines read it: `before → after`
where that is not the same. What is refused is refused with the reason that is given."""

Reading = tuple[str, str]
"""How an engine sees a column: its type and its values, as text."""


@dataclass(frozen=True, slots=True)
class Case:
    """A column, and how a writer makes parts of it.

    Attributes:
        name: of the case.
        write: the bytes of a part whose column "x" has these values, from first and step of the order columns.
        refused: a part of the reason why it is refused; "" where it survives.
    """

    name: str
    write: Callable[[int], bytes]
    refused: str = ""


def _with_order(column: pa.Array, first: int, field: pa.Field | None = None) -> pa.Table:
    order = pa.array(range(first, first + len(column)), pa.int64())
    schema = pa.schema([("ts_event", pa.int64()), ("timestamp_ms", pa.int64()), field or pa.field("x", column.type)])
    return pa.Table.from_arrays([order, order, column], schema=schema)


def arrow(name: str, values: list[Any], kind: pa.DataType, *, refused: str = "", **options: Any) -> Case:
    """Written by PyArrow; options are those of `pq.write_table`, and `field`, for the column."""
    field = options.pop("field", None)

    def write(first: int) -> bytes:
        sink = io.BytesIO()
        column = values if isinstance(values, pa.Array) else pa.array(values, kind)
        pq.write_table(_with_order(column, first, field), sink, **options)
        return sink.getvalue()

    return Case(f"{name}, by PyArrow", write, refused)


def polars(name: str, values: list[Any], dtype: Any) -> Case:
    """Written by Polars."""

    def write(first: int) -> bytes:
        sink = io.BytesIO()
        order = pl.Series(range(first, first + len(values)), dtype=pl.Int64)
        pl.DataFrame({"ts_event": order, "timestamp_ms": order, "x": pl.Series(values, dtype=dtype)}).write_parquet(
            sink
        )
        return sink.getvalue()

    return Case(f"{name}, by Polars", write)


def duck(name: str, *expressions: str, refused: str = "") -> Case:
    """Written by DuckDB."""

    def write(first: int) -> bytes:
        with tempfile.TemporaryDirectory() as directory, duckdb.connect() as database:
            rows = ", ".join(
                f"({first + at}::BIGINT, {first + at}::BIGINT, {expression})"
                for at, expression in enumerate(expressions)
            )
            path = Path(directory) / "part.parquet"
            database.execute(
                f"COPY (SELECT * FROM (VALUES {rows}) t(ts_event, timestamp_ms, x)) TO '{path}' (FORMAT parquet)"  # noqa: S608
            )
            return path.read_bytes()

    return Case(f"{name}, by DuckDB", write, refused)


def spark(name: str, refused: str = "") -> Case:
    """Written by Spark, once."""
    return Case(f"{name}, by Spark", lambda first: (SPARK_PARTS / file_name(name, first)).read_bytes(), refused)


def annotated(name: str, values: list[Any], kind: pa.DataType, leaf: Leaf, *, refused: str = "") -> Case:
    """Written by PyArrow as bytes, with an annotation that it does not write."""
    base = arrow(name, values, kind, store_schema=False)

    def write(first: int) -> bytes:
        data = base.write(first)
        size = int.from_bytes(data[-8:-4], "little")
        footer = restored(data[-8 - size : -8], [Leaf("INT64", ""), Leaf("INT64", ""), leaf])
        assert footer is not None
        return data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"

    return Case(f"{name}, annotated by hand", write, refused)


def converted(number: int) -> tuple[tuple[int, int, bytes], ...]:
    """The raw annotation of a converted type."""
    return ((6, 5, bytes([number << 1])),)


def logical(number: int) -> tuple[tuple[int, int, bytes], ...]:
    """The raw annotation of a logical type without parameters."""
    return ((10, 12, bytes([12, number << 1, 0, 0])),)


def out_of_range(kind: pa.DataType, values: list[int]) -> pa.Array:
    """An array of values that its type should not have."""
    physical = np.int32 if kind.bit_width == 32 else np.int64
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.array(values, dtype=physical))])


_DAY = dt.datetime(2026, 1, 8, 12, 30, 15, 123456)  # noqa: DTZ001 - of no zone
_UUIDS = [uuid.UUID(int=5).bytes, None, uuid.UUID(int=2**127 + 3).bytes]
_MONEY = [Decimal("1.10"), None, Decimal("-999.99")]
_FIELD_ID = {"PARQUET:field_id": "7"}

CASES: list[Case] = [
    *(
        arrow(str(kind), [1, None, 100], kind)
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
    ),
    arrow("uint64", [1, None, 2**64 - 1], pa.uint64()),
    arrow("float16", [1.5, None, float("inf")], pa.float16()),
    arrow("float32", [1.5, None, -0.0], pa.float32()),
    arrow("double", [1.5, None, 5e-324], pa.float64()),
    arrow("bool", [True, None, False], pa.bool_()),
    arrow("string", ["a", None, "Ünï"], pa.string()),
    arrow("large_string", ["a", None, "b"], pa.large_string()),
    arrow("string_view", ["a", None, "b"], pa.string_view()),
    arrow("binary", [b"a", None, b"\xff"], pa.binary()),
    arrow("fixed_size_binary", [b"abcd", None, b"\0\0\0\0"], pa.binary(4)),
    arrow("fixed_size_binary without Arrow's schema", [b"abcd", None], pa.binary(4), store_schema=False),
    arrow("UUID", pa.array(_UUIDS, pa.binary(16)).cast(pa.uuid()), pa.uuid()),
    arrow("JSON", ['{"a":1}', None, "[]"], pa.json_()),
    arrow("date", [dt.date(2026, 1, 8), None], pa.date32()),
    arrow("date64", [dt.date(2026, 1, 8), None], pa.date64()),
    arrow("time ms", [0, None, 86_399_999], pa.time32("ms")),
    arrow("time us", [0, None, 86_399_999_999], pa.time64("us")),
    arrow("time ns", [0, None, 86_399_999_999_999], pa.time64("ns")),
    arrow("time ms, UTC", [0, None, 1], pa.time32("ms"), write_time_adjusted_to_utc=True),
    arrow("time beyond a day", out_of_range(pa.time32("ms"), [86_400_000, -1]), pa.time32("ms")),
    *(arrow(f"timestamp {unit}", [_DAY.replace(microsecond=0), None], pa.timestamp(unit)) for unit in ("s", "ms")),
    *(arrow(f"timestamp {unit}", [_DAY, None], pa.timestamp(unit)) for unit in ("us", "ns")),
    *(arrow(f"timestamp {unit} UTC", [1, None, -1], pa.timestamp(unit, "UTC")) for unit in ("ms", "us", "ns")),
    arrow("timestamp us Berlin", [1, None, -1], pa.timestamp("us", "Europe/Berlin")),
    arrow("INT96", [_DAY, None, _DAY.replace(year=1900)], pa.timestamp("ns"), use_deprecated_int96_timestamps=True),
    arrow(
        "INT96 out of range",
        [_DAY.replace(year=9999), None],
        pa.timestamp("us"),
        use_deprecated_int96_timestamps=True,
        refused="before 1677 or after 2262",
    ),
    arrow("decimal32", _MONEY, pa.decimal32(5, 2)),
    arrow("decimal64", _MONEY, pa.decimal64(15, 2)),
    arrow("decimal128", _MONEY, pa.decimal128(30, 2)),
    arrow("decimal256", _MONEY, pa.decimal256(60, 2)),
    arrow("decimal as INT32", _MONEY, pa.decimal128(5, 2), store_decimal_as_integer=True),
    arrow("decimal as INT64", _MONEY, pa.decimal128(15, 2), store_decimal_as_integer=True),
    arrow("duration s", [1, None, -1], pa.duration("s")),
    arrow("duration ns", [1, None, 2**62], pa.duration("ns")),
    arrow("dictionary", pa.array(["a", None, "b"]).dictionary_encode(), pa.string()),
    arrow("list", [[1, None], None, []], pa.list_(pa.int8())),
    arrow("fixed_size_list", [[1, 2], [3, None]], pa.list_(pa.int8(), 2)),
    arrow("list of UUIDs", [[_UUIDS[0], None], None], pa.list_(pa.binary(16))),
    arrow("list of times", [[0, 5], None, []], pa.list_(pa.time32("ms"))),
    arrow("struct", [{"a": 1, "b": "x"}, None], pa.struct([("a", pa.int16()), ("b", pa.string())])),
    *(
        arrow(
            f"struct with a required {what}",
            [{"a": value}, None, {"a": value}],
            pa.struct([pa.field("a", kind, nullable=False)]),
        )
        for what, value, kind in (
            ("number", 7, pa.int16()),
            ("text", "b", pa.string()),
            ("list", [1, None], pa.list_(pa.int8())),
            ("struct", {"b": 1}, pa.struct([pa.field("b", pa.int8(), nullable=False)])),
        )
    ),
    arrow(
        "list of structs with a required number",
        [[{"a": 1}, None], None, [None, {"a": 2}]],
        pa.list_(pa.struct([pa.field("a", pa.int64(), nullable=False)])),
    ),
    arrow(
        "map of structs with a required number",
        [[("k", {"a": 1}), ("l", None)], None],
        pa.map_(pa.string(), pa.struct([pa.field("a", pa.int64(), nullable=False)])),
    ),
    arrow("struct of decimals", [{"a": _MONEY[0]}, None], pa.struct([("a", pa.decimal256(60, 2))])),
    arrow("map", [[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    arrow("list of structs", [[{"a": 1}], None], pa.list_(pa.struct([("a", pa.float32())]))),
    arrow("required", [1, 2], pa.int32(), field=pa.field("x", pa.int32(), nullable=False)),
    arrow(
        "required list of required",
        [[1], []],
        pa.list_(pa.field("element", pa.int32(), nullable=False)),
        field=pa.field("x", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False),
    ),
    arrow("field id", [1, None], pa.int32(), field=pa.field("x", pa.int32(), metadata=_FIELD_ID)),
    arrow("nothing but nulls", [None, None], pa.null()),
    polars("Enum", ["a", None], pl.Enum(["a", "b"])),
    polars("Categorical", ["a", None], pl.Categorical),
    polars("Decimal(10, 2)", _MONEY, pl.Decimal(10, 2)),
    polars("Duration", [dt.timedelta(1), None], pl.Duration("us")),
    polars("Array", [[1, 2], None], pl.Array(pl.Int8, 2)),
    polars("Time", [dt.time(1), None], pl.Time),
    polars("List of Categorical", [["a"], None], pl.List(pl.Categorical)),
    duck("INTEGER", "1::INTEGER", "NULL"),
    duck("UBIGINT", "1::UBIGINT", "18446744073709551615::UBIGINT"),
    duck("UUID", "'00000000-0000-0000-0000-000000000005'::UUID", "NULL"),
    duck("JSON", """'{"a":1}'::JSON""", "NULL"),
    duck("ENUM", "'a'::ENUM('a', 'b')", "NULL"),
    duck("INTERVAL", "INTERVAL 3 DAYS", "NULL"),
    duck("DECIMAL(5, 2)", "1.10::DECIMAL(5, 2)", "NULL"),
    duck("DECIMAL(15, 2)", "1.10::DECIMAL(15, 2)", "NULL"),
    duck("DECIMAL(30, 2)", "1.10::DECIMAL(30, 2)", "-1.10::DECIMAL(30, 2)"),
    duck("TIME", "TIME '10:00:00.000001'", "NULL"),
    duck("TIMETZ", "TIMETZ '10:00:00+00'", "NULL"),
    duck("TIMESTAMPTZ", "TIMESTAMPTZ '2026-01-08 00:00:00+00'", "NULL"),
    duck("TIMESTAMP_NS", "TIMESTAMP_NS '2026-01-08 00:00:00.000000001'", "NULL"),
    duck("LIST", "[1, NULL]", "NULL"),
    duck("STRUCT", "{'a': 1, 'b': TIME '10:00:00'}", "NULL"),
    duck("MAP", "MAP {'a': 1}", "NULL"),
    *(spark(name, "neither list nor map" if name == "variant" else "") for name in SPARK_TYPES),
    annotated("ENUM", ["a", None], pa.binary(), Leaf("BYTE_ARRAY", "Enum", converted(4))),
    annotated("BSON", [b"\5\0\0\0\0", None], pa.binary(), Leaf("BYTE_ARRAY", "BSON", converted(20))),
    annotated("TIMESTAMP_MILLIS of old", [1, None], pa.int64(), Leaf("INT64", "Timestamp of old", converted(9))),
    annotated("text", [1.5, None], pa.float32(), Leaf("FLOAT", "?", logical(1)), refused="or does not fit that"),
    annotated("unknown", ["a", None], pa.binary(), Leaf("BYTE_ARRAY", "?", logical(63)), refused="is not known"),
]


def readings(path: Path) -> dict[str, Reading]:
    """How each engine reads column "x"."""
    return {"Polars": _polars(path), "DuckDB": _duckdb(path), "PyArrow": _pyarrow(path)}


def _polars(path: Path) -> Reading:
    try:
        column = pl.read_parquet(path, glob=False)["x"]
    except (pl.exceptions.PanicException, pl.exceptions.PolarsError):
        return "cannot", ""
    storage = column.ext.storage() if "Extension" in str(column.dtype) else column
    return str(column.dtype), repr(storage.to_list())


def _duckdb(path: Path) -> Reading:
    kind = "cannot"
    with duckdb.connect() as database:
        try:
            kind = database.execute(f"DESCRIBE SELECT x FROM read_parquet('{path}')").fetchall()[0][1]  # noqa: S608
            rows = database.execute(f"SELECT x::VARCHAR FROM read_parquet('{path}')").fetchall()  # noqa: S608
        except duckdb.Error as error:
            return str(kind), type(error).__name__
    return str(kind), repr(rows)


def _pyarrow(path: Path) -> Reading:
    column = pq.read_table(path)["x"]
    return str(column.type), str(column.combine_chunks())


def parquet_type(path: Path) -> str:
    """What Parquet says of column "x", as PyArrow reads it."""
    metadata = pq.read_metadata(path)
    columns = [metadata.schema.column(at) for at in range(len(metadata.schema))]
    found = [one for one in columns if one.path == "x" or one.path.startswith("x.")]
    return "; ".join(_leaf_text(one) for one in found)


def _leaf_text(column: Any) -> str:
    logical = str(column.logical_type)
    annotation = logical.partition(", is_from")[0] + ")" * (", is_from" in logical)
    if annotation == "None":
        annotation = "" if column.converted_type == "NONE" else column.converted_type
    length = f"({column.length})" if column.physical_type.startswith("FIXED") else ""
    levels = f"{column.max_definition_level}/{column.max_repetition_level}"
    inner = column.path.removeprefix("x")
    return f"{inner}{' ' if inner else ''}{column.physical_type}{length} {annotation} {levels}".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Survival:
    """A case before and after the merge: of two parts, one file."""

    before: Path
    after: Path


def survive(case: Case, lake: str, directory: Path) -> Survival:
    """Merge two parts of a case. The file to compare with holds the same rows, as their writer wrote them.

    Raises:
        SchemaConflict: a part is refused.
    """
    parts = [case.write(0), case.write(100)]
    after = compact([part_from(f"part-{at}", data) for at, data in enumerate(parts)], directory, order=LAKES[lake])
    before = directory / "before"
    before.mkdir()
    for at, data in enumerate(parts):
        (before / f"part-{at}.parquet").write_bytes(data)
    return Survival(before, after.path)


def types_rows() -> list[tuple[str, ...]]:
    """Rows for people, the headings first: lake, column, Parquet type in and out, and each engine's type of either.

    What both lakes make the same of is one row.
    """
    rows: list[tuple[str, ...]] = [HEADINGS]
    for case in CASES:
        told = {lake: _told_apart(case, lake) for lake in LAKES}
        if len({*told.values()}) == 1:
            rows.append(("both", case.name, *next(iter(told.values()))))
        else:
            rows += [(lake, case.name, *one) for lake, one in told.items()]
    return rows


@cache
def types_table() -> str:
    """The same as a table in Markdown, with what its columns mean."""
    head, *rows = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in types_rows())
    lines = [_SAID, "", f"| {head} |", "|" + "---|" * len(HEADINGS), *(f"| {row} |" for row in rows)]
    return "\n".join(lines)


def _told_apart(case: Case, lake: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as directory:
        return tuple(_told(case, lake, Path(directory)))


def _told(case: Case, lake: str, directory: Path) -> Iterable[str]:
    first = directory / "first.parquet"
    first.write_bytes(case.write(0))
    before = readings(first)
    try:
        survived = survive(case, lake, directory)
    except SchemaConflict as refused:
        return (parquet_type(first), f"refused: {refused.cause}", *(kind for kind, _ in before.values()))
    after = readings(survived.after)
    told = [
        kind if kind == after[engine][0] else f"{kind} → {after[engine][0]}" for engine, (kind, _) in before.items()
    ]
    return (parquet_type(first), parquet_type(survived.after), *told)


if __name__ == "__main__":
    print(types_table())  # noqa: T201 - this is the answer
