"""Types survive the merge, or the part is refused: never anything between."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import AuditFailed, MachineFault, SchemaConflict
from quantlab_dagster.kernel import layout, writer
from quantlab_dagster.kernel.grouping import group_parts
from quantlab_dagster.kernel.layout import restored
from quantlab_dagster.kernel.leaves import Leaf
from quantlab_dagster.kernel.merge import merge
from quantlab_dagster.kernel.parts import FooterReader
from quantlab_dagster.kernel.survey import Order, Surveyor
from quantlab_dagster_tests.kernel.building import compact, on_disk, part_from, part_of, read_back, survey_of
from quantlab_dagster_tests.kernel.spark.readings import READINGS, compared, told
from quantlab_dagster_tests.kernel.type_survival import (
    CASES,
    LAKES,
    Case,
    parquet_type,
    readings,
    survive,
    types_rows,
    types_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.parts import Part

BY_NAME = {case.name: case for case in CASES}

# What is not kept: the spelling of text, and date64, which only Arrow's own schema says; and names of the groups of a
# list, as Spark gave them in old times.
RESPELLED = ("string", "Enum", "Categorical", "dictionary", "date64", "array of old")


@pytest.mark.guards("types-lost", "types-silently-other")
@pytest.mark.parametrize("lake", LAKES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_type_survives_or_is_refused(case: Case, lake: str, tmp_path: Path) -> None:
    if case.refused:
        with pytest.raises(SchemaConflict, match=case.refused) as caught:
            survive(case, lake, tmp_path)
        assert caught.value.part == "part-0"
        return
    # The order columns of two parts of the same values, one after the other.
    survived = survive(case, lake, tmp_path)
    one = tmp_path / "one.parquet"
    one.write_bytes(case.write(0))
    assert of_groups_of_today(parquet_type(survived.after)) == of_groups_of_today(parquet_type(one))
    before, after = readings(one), readings(survived.after)
    if not any(word in case.name for word in RESPELLED):
        assert {engine: kind for engine, (kind, _) in after.items()} == {
            engine: kind for engine, (kind, _) in before.items()
        }
    # Each value as Parquet holds it, twice: once for each part.
    assert repr(raw_values(survived.after)) == repr(raw_values(one) * 2)


def of_groups_of_today(told: str) -> str:
    """Without the names that Spark gave the groups of a list in old times, and that no reader shows."""
    return re.sub(r"^\.(bag\.array|array)(?= )", ".list.element", told)


def raw_values(path: Path) -> list[Any]:
    """The values of column "x" as PyArrow reads them without Arrow's schema; those of INT96 in nanoseconds."""
    column = pq.read_table(path)["x"].combine_chunks()
    if pa.types.is_time(column.type):
        return column.view(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_pylist()  # type: ignore[no-any-return]
    if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):
        return column.view(pa.int64()).to_pylist()  # type: ignore[no-any-return]
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except ValueError:  # times beyond a day within something
        return [str(column.slice(at, 1)) for at in range(len(column))]


def test_spark_read_all_alike_before_and_after() -> None:
    """In the last run of it, which needs a Java; and what it would say if that were not so."""
    found = json.loads(READINGS.read_text())
    assert found["other"] == {}
    assert found["alike"] > 150
    alike, unread, other = (
        (["int", "'1'"],) * 2,
        (["cannot", "one"], ["cannot", "two"]),
        (["int", "'1'"], ["int", "'2'"]),
    )
    names = {"1": "a, market", "2": "b, market", "3": "c, market", "4": "d, market"}
    pairs = zip(names, (alike, unread, other, (["int", "'1'"], ["cannot", "why"])), strict=True)
    said = {f"{key}-{when}": one for key, pair in pairs for when, one in zip(("before", "after"), pair, strict=True)}
    found = compared(names, {"version": "4", "read": said})
    assert (found["alike"], found["unread"], list(found["other"])) == (1, ["b, market"], ["c, market", "d, market"])
    assert "2 otherwise: c, market; d, market" in told(found)


def test_the_table_has_a_row_for_each_case() -> None:
    head, *rows = types_rows()
    assert {len(row) for row in rows} == {len(head)}
    assert list(dict.fromkeys(row[1] for row in rows)) == list(BY_NAME)
    assert len(types_table().splitlines()) == 5 + len(rows)


# -- What parts disagree on --------------------------------------------------------------------------------------------


def one_column(key: str, values: pa.Array, field: pa.Field | None = None, **options: Any) -> Part:
    schema = pa.schema([pa.field("ts_event", pa.int64()), field or pa.field("x", values.type)])
    order = pa.array(range(len(values)), pa.int64())
    return part_of(key, pa.Table.from_arrays([order, values], schema=schema), **options)


UNITED: list[tuple[str, Sequence[Part]]] = [
    (
        "UUID and bytes",
        [
            one_column(key, pa.array([b"a" * 16], pa.binary(16)).cast(kind))
            for key, kind in (("a", pa.uuid()), ("b", pa.binary(16)))
        ],
    ),
    (
        "JSON and text",
        [one_column(key, pa.array(["{}"], kind)) for key, kind in (("a", pa.json_()), ("b", pa.string()))],
    ),
    (
        "time units",
        [one_column(key, pa.array([1], kind)) for key, kind in (("a", pa.time32("ms")), ("b", pa.time64("us")))],
    ),
    (
        "time and integer",
        [one_column(key, pa.array([1], kind)) for key, kind in (("a", pa.time32("ms")), ("b", pa.int32()))],
    ),
    (
        "UTC and local",
        [
            one_column(key, pa.array([1], kind))
            for key, kind in (("a", pa.timestamp("ms", "UTC")), ("b", pa.timestamp("ms")))
        ],
    ),
    (
        "durations",
        [one_column(key, pa.array([1], kind)) for key, kind in (("a", pa.duration("ms")), ("b", pa.duration("us")))],
    ),
    ("fixed sizes", [one_column(key, pa.array([b"ab"[:size]], pa.binary(size))) for key, size in (("a", 1), ("b", 2))]),
    (
        "INT96 and INT64",
        [
            one_column("a", pa.array([1], pa.timestamp("ns")), use_deprecated_int96_timestamps=True),
            one_column("b", pa.array([1], pa.timestamp("ns"))),
        ],
    ),
    ("names within", [one_column(key, pa.array([{name: 1}])) for key, name in (("a", "p"), ("b", "q"))]),
    (
        "decimals",
        [
            one_column(key, pa.array([1]).cast(pa.decimal128(25, 0)), store_decimal_as_integer=flag).__class__(
                key, case.write(0), len(case.write(0))
            )
            for key, flag, case in (
                ("a", False, BY_NAME["decimal as INT32, by PyArrow"]),
                ("b", True, BY_NAME["decimal as INT64, by PyArrow"]),
            )
        ],
    ),
]


@pytest.mark.guards("types-silently-other", "widening-loses")
@pytest.mark.parametrize(("what", "parts"), UNITED, ids=[what for what, _ in UNITED])
def test_parts_that_differ_in_more_than_width_do_not_unite(what: str, parts: Sequence[Part]) -> None:
    with pytest.raises(SchemaConflict, match=r"'x' is .* not widened without loss") as caught:
        survey_of(parts)
    assert caught.value.part == "b", what


def test_parts_of_two_writers_unite_where_parquet_says_the_same(tmp_path: Path) -> None:
    """One carries Arrow's schema and the other does not."""
    for at, name in enumerate(("UUID", "JSON")):
        cases = [BY_NAME[f"{name}, by PyArrow"], BY_NAME[f"{name}, by DuckDB"]]
        parts = [part_from(f"part-{index}", case.write(index * 10)) for index, case in enumerate(cases)]
        directory = tmp_path / str(at)
        directory.mkdir()
        compacted = compact(parts, directory)
        assert name in parquet_type(compacted.path)
        assert pq.read_table(compacted.path)["x"].null_count == 2


NESTED = {
    "struct": pa.array([{"x": 1, "y": "a"}, None]),
    "list of struct": pa.array([[{"x": 1}], []]),
    "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    "struct in struct": pa.array([{"x": {"y": 1}}, {"x": None}]),
}


@pytest.mark.guards("nested-drift-dies")
@pytest.mark.parametrize("lake", LAKES)
@pytest.mark.parametrize("kind", NESTED)
def test_nested_columns_unite_where_another_column_drifts(kind: str, lake: str, tmp_path: Path) -> None:
    """Fields were asked whether one of them is None, which PyArrow's do not answer."""
    order = LAKES[lake]
    table = pa.table({order.column: [1, 3], "s": NESTED[kind]})
    drifted = pa.table({order.column: [2, 4], "s": NESTED[kind], "new": ["a", "b"]})
    parts = [part_of("a", table), part_of("b", drifted)]
    read = read_back(compact(parts, tmp_path, order=order).path)
    assert read["s"].to_pylist() == [value for value in table["s"].to_pylist() for _ in parts]
    assert read["new"].to_pylist() == [None, "a", None, "b"]
    footers = [FooterReader(order.column).read(part) for part in parts]
    assert group_parts(parts, footers, order.column).groups == (("a", "b"),)


UNTYPED = {
    "list": pa.array([[], []], pa.list_(pa.null())),
    "fixed list": pa.array([[None], [None]], pa.list_(pa.null(), 1)),
    "struct": pa.array([{"a": None}, None], pa.struct([("a", pa.null()), ("b", pa.int8())])),
    "map": pa.array([[], []], pa.map_(pa.string(), pa.null())),
}


@pytest.mark.guards("untyped-nulls-die")
@pytest.mark.parametrize("lake", LAKES)
@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize("kind", UNTYPED)
def test_nulls_of_no_type_within_something_are_refused_by_themselves(
    kind: str, lake: str, *, store_schema: bool
) -> None:
    """As PyArrow writes a column of empty lists. Polars reads numbers, which cannot be written as nulls again."""
    part = one_column("a", UNTYPED[kind], store_schema=store_schema)
    with pytest.raises(SchemaConflict, match=r"'x' has nothing but nulls of no type within it") as caught:
        FooterReader(LAKES[lake].column).read(part)
    assert caught.value.part == "a"


@pytest.mark.guards("untyped-nulls-die")
def test_column_of_no_type_without_arrow_s_schema_is_refused_but_for_the_order_column(tmp_path: Path) -> None:
    with pytest.raises(SchemaConflict, match=r"'x' has no type"):
        survey_of([one_column("a", pa.nulls(2), store_schema=False)])
    order = pa.table({"timestamp_ms": pa.nulls(2), "x": [1, 2]})
    parts = [part_of("a", order, store_schema=False)]
    assert read_back(compact(parts, tmp_path, order=LAKES["events"]).path).column_names == order.column_names


@pytest.mark.guards("types-lost")
def test_required_and_field_ids_stay_where_all_parts_agree(tmp_path: Path) -> None:
    def field(*, nullable: bool, identity: str, inner: str) -> pa.Field:
        element = pa.field("element", pa.int32(), nullable, {"PARQUET:field_id": inner})
        return pa.field("x", pa.list_(element), nullable, {"PARQUET:field_id": identity})

    def out(name: str, *fields: pa.Field) -> pa.Field:
        parts = [one_column(f"part-{at}", pa.array([[1]], one.type), one) for at, one in enumerate(fields)]
        directory = tmp_path / name
        directory.mkdir()
        return pq.read_schema(compact(parts, directory).path).field("x")

    kept = out("kept", *[field(nullable=False, identity="7", inner="8")] * 2)
    assert (kept.nullable, kept.metadata, kept.type.value_field.nullable) == (False, {b"PARQUET:field_id": b"7"}, False)
    assert kept.type.value_field.metadata == {b"PARQUET:field_id": b"8"}
    mixed = out("mixed", field(nullable=False, identity="7", inner="8"), field(nullable=True, identity="7", inner="9"))
    assert (mixed.nullable, mixed.metadata, mixed.type.value_field.nullable) == (
        True,
        {b"PARQUET:field_id": b"7"},
        True,
    )
    assert mixed.type.value_field.metadata is None


def test_id_in_which_parts_differ_goes_from_a_flat_column_too() -> None:
    def ids(*identities: str) -> Any:
        fields = [pa.field("x", pa.int32(), metadata={"PARQUET:field_id": one}) for one in identities]
        parts = [one_column(f"part-{at}", pa.array([1], one.type), one) for at, one in enumerate(fields)]
        return survey_of(parts).columns.types["x"].field.metadata

    assert ids("7", "7") == {b"PARQUET:field_id": b"7"}
    assert ids("7", "8") is None


@pytest.mark.guards("ids-doubled")
def test_an_id_that_two_columns_have_keeps_parts_apart() -> None:
    def part(key: str, **ids: str) -> Part:
        fields = [pa.field(name, pa.int64(), metadata={"PARQUET:field_id": one}) for name, one in ids.items()]
        return part_of(key, pa.table([[1]] * len(fields), schema=pa.schema(fields)))

    parts = [
        part("a", ts_event="1", event_type="2"),
        part("b", ts_event="1", payload="2"),
        part("c", ts_event="1", event_type="2", payload="3"),
        part("d", ts_event="1", event_type="3", payload="2"),
        part("e", ts_event="1", twice="5", again="5"),
        part("f", ts_event="1", twice="5", again="5", new="6"),
    ]
    for other, there in ((parts[1], "'payload'"), (parts[3], "'payload'")):
        with pytest.raises(SchemaConflict, match=f"column {there} has field id 2, which 'event_type' has in a"):
            survey_of([parts[0], other])
    footers = [FooterReader("ts_event").read(one) for one in parts]
    assert group_parts(parts, footers, "ts_event").groups == (("a", "c", "e", "f"), ("b", "d"))
    within = pa.field("s", pa.struct([pa.field("x", pa.int64(), metadata={"PARQUET:field_id": "2"})]))
    with pytest.raises(SchemaConflict, match=r"column 's\.x' has field id 2"):
        survey_of([parts[0], one_column("b", pa.array([{"x": 1}], within.type), within)])


def test_columns_of_one_type_and_several_ids_are_each_given_back() -> None:
    """What the writer makes of a type is remembered, for this id and this nullability."""
    for nullable, identity in itertools.product((True, False), ("7", "8", None)):
        pairs = {"PARQUET:field_id": identity} if identity else None
        one = pa.field("x", pa.int32(), nullable, pairs)
        part = one_column("part", pa.array([1], pa.int32()), one)
        found = FooterReader("ts_event").read(part).layout.types["x"].field
        assert (found.nullable, found.metadata) == (nullable, one.metadata)


def test_the_writer_is_asked_once_for_each_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hour of events brings files of other schemas, of the same few columns."""
    asked: list[str] = []
    written_as = layout._written_as

    def told(one: pa.Field, *, int96: bool) -> Any:
        asked.append(one.name)
        return written_as(one, int96=int96)

    monkeypatch.setattr(layout, "_written_as", told)
    table = pa.table({"ts_event": [1], "asked_once": [1.5], "other": ["x"]})
    layout._flat_written_as.cache_clear()
    for names in (["ts_event", "asked_once"], ["ts_event", "other", "asked_once"], ["ts_event", "other"]):
        FooterReader("ts_event").read(part_of("part", table.select(names)))
    assert asked == ["ts_event", "asked_once", "other"]


def test_a_required_column_that_a_part_lacks_is_not_required(tmp_path: Path) -> None:
    first = one_column("a", pa.array([1], pa.int32()), pa.field("x", pa.int32(), nullable=False))
    compacted = compact([first, part_of("b", pa.table({"ts_event": [5]}))], tmp_path)
    assert read_back(compacted.path)["x"].to_pylist() == [1, None]


def test_key_value_pairs_stay_where_all_parts_agree(tmp_path: Path) -> None:
    def part(key: str, **pairs: str) -> Part:
        return part_of(key, pa.table({"ts_event": [1]}).replace_schema_metadata(pairs))

    parts = [
        part("a", same="1", other="1", only="x", **{"quantlab.inputs": "{}"}),
        part("b", same="1", other="2", **{"quantlab.inputs": "{}"}),
    ]
    pairs = pq.read_metadata(compact(parts, tmp_path).path).metadata
    assert pairs == {b"same": b"1"}


def test_widening_is_told(tmp_path: Path) -> None:
    parts = [
        part_of("a", pa.table({"ts_event": pa.array([1], pa.int32()), "x": pa.array([1], pa.int8())})),
        part_of("b", pa.table({"ts_event": pa.array([2], pa.int64()), "x": pa.array([1], pa.uint8())})),
        part_of("c", pa.table({"ts_event": pa.array([3], pa.uint64()), "y": pa.array([1.0])})),
    ]
    merged = compact(parts, tmp_path).merged
    assert merged.widened == {"ts_event": "Int32, Int64, UInt64 → Int64", "x": "Int8, UInt8 → Int16"}


@pytest.mark.guards("types-lost")
def test_zones_are_kept_where_all_parts_agree(tmp_path: Path) -> None:
    berlin, tokyo = pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "Asia/Tokyo")
    for name, kinds, expected in (
        ("one", [berlin, berlin], berlin),
        ("two", [berlin, tokyo], pa.timestamp("us", "UTC")),
    ):
        directory = tmp_path / name
        directory.mkdir()
        parts = [one_column(f"part-{at}", pa.array([1], kind)) for at, kind in enumerate(kinds)]
        assert pq.read_schema(compact(parts, directory).path).field("x").type == expected


def test_int96_and_other_time_stamps_beside_each_other(tmp_path: Path) -> None:
    first = one_column("a", pa.array([1], pa.timestamp("ns")), use_deprecated_int96_timestamps=True)
    second = part_of("b", pa.table({"ts_event": [5], "y": pa.array([7], pa.timestamp("ms", "UTC"))}))
    path = compact([first, second], tmp_path).path
    metadata = pq.read_metadata(path)
    assert [metadata.schema.column(at).physical_type for at in range(4)] == ["INT64", "INT64", "INT96", "INT64"]
    assert read_back(path)["y"].type == pa.timestamp("ms", "UTC")
    assert read_back(path)["y"].cast(pa.int64()).to_pylist() == [None, 7]


@pytest.mark.guards("types-silently-other")
def test_no_reader_prunes_by_the_bytes_of_what_has_another_order(tmp_path: Path) -> None:
    case = BY_NAME["DECIMAL(30, 2), by DuckDB"]
    path = survive(case, "market", tmp_path).after
    group = pq.read_metadata(path).row_group(0)
    assert [group.column(at).is_stats_set for at in range(4)] == [True, True, True, False]
    with duckdb.connect() as database:
        rows = database.execute(f"SELECT count(*) FROM read_parquet('{path}') WHERE x < 0").fetchone()  # noqa: S608
    assert rows == (2,)


def test_parts_on_disk_are_read_plainly_and_left_as_they_are(tmp_path: Path) -> None:
    case = BY_NAME["time beyond a day, by PyArrow"]
    parts = [on_disk(part_from(f"part-{at}", case.write(at)), tmp_path) for at in range(2)]
    before = [part.source.read_bytes() for part in parts]  # type: ignore[union-attr]
    directory = tmp_path / "out"
    directory.mkdir()
    path = compact(parts, directory).path
    assert raw_values(path) == [86_400_000, -1, 86_400_000, -1]
    assert [part.source.read_bytes() for part in parts] == before  # type: ignore[union-attr]


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("when", ["survey", "merge"])
def test_a_copy_that_is_damaged_on_the_disk_is_no_bad_part(when: str, *, readable: bool, tmp_path: Path) -> None:
    case = BY_NAME["time ms, by PyArrow"]
    part = on_disk(part_from("part", case.write(1)), tmp_path)
    surveyor = Surveyor(Order())
    surveyor.add([part])
    if when == "merge":
        survey = surveyor.finish()
    [copy] = tmp_path.glob("*.plain-*")
    data = bytearray(copy.read_bytes())
    data[4:-200] = bytes(len(data) - 204) if not readable else data[4:-200]
    data[-1 if not readable else data.rindex(b"parquet-cpp")] ^= 1
    copy.write_bytes(data)
    if when == "survey" and readable:
        survey = surveyor.finish()  # nothing stumbles over it yet
    with pytest.raises(MachineFault, match="holds other bytes than were written"):
        merge(surveyor.finish() if when == "survey" and not readable else survey, tmp_path / "out", scratch=tmp_path)


# -- An order column of 64 unsigned bits ------------------------------------------------------------------------------


@pytest.mark.guards("uint64-order")
@pytest.mark.parametrize("order", LAKES.values(), ids=LAKES)
def test_unsigned_order_column_becomes_signed(order: Order, tmp_path: Path) -> None:
    kinds = (pa.uint64(), pa.int64(), pa.uint64())
    tables = [pa.table({order.column: pa.array([at, 2**63 - 1 - at], kind)}) for at, kind in enumerate(kinds)]
    compacted = compact([part_of(f"part-{at}", table) for at, table in enumerate(tables)], tmp_path, order=order)
    found = read_back(compacted.path)[order.column]
    assert found.type == pa.int64()
    assert found.to_pylist() == [0, 1, 2, 2**63 - 3, 2**63 - 2, 2**63 - 1]


@pytest.mark.guards("uint64-order")
@pytest.mark.parametrize("order", LAKES.values(), ids=LAKES)
@pytest.mark.parametrize("value", [2**63, 2**64 - 1])
def test_greater_value_of_an_unsigned_order_column_is_refused(order: Order, value: int) -> None:
    parts = [
        part_of("a", pa.table({order.column: pa.array([-5, None] if order.nulls_first else [-5], pa.int64())})),
        part_of("b", pa.table({order.column: pa.array([1, value], pa.uint64())})),
    ]
    with pytest.raises(SchemaConflict, match=f"has the value {value}, which does not fit") as caught:
        survey_of(parts, order=order)
    assert caught.value.part == "b"


# -- A column called seq ----------------------------------------------------------------------------------------------


@pytest.mark.guards("seq-for-ever")
def test_raw_seq_gets_another_name_if_asked(tmp_path: Path) -> None:
    parts = [
        part_of("a", pa.table({"ts_event": [2], "seq": ["p"]})),
        part_of("b", pa.table({"ts_event": [1], "seq": ["q"], "x": [0]})),
    ]
    table = read_back(compact(parts, tmp_path, order=Order(raw_seq="raw_seq")).path)
    assert table.to_pydict() == {"ts_event": [1, 2], "seq": [0, 1], "raw_seq": ["q", "p"], "x": [0, None]}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("first", ["seq", "raw_seq"])
def test_new_name_of_seq_must_be_free(first: str, *, together: bool) -> None:
    other = {"seq": "raw_seq", "raw_seq": "seq"}[first]
    columns = [{"ts_event": [1], first: [1]}, {"ts_event": [1], other: [1]}]
    tables = [columns[0] | columns[1]] if together else columns
    with pytest.raises(SchemaConflict, match="'raw_seq'") as caught:
        survey_of(
            [part_of(f"part-{at}", pa.table(one)) for at, one in enumerate(tables)], order=Order(raw_seq="raw_seq")
        )
    assert caught.value.part == ("part-0" if together else "part-1")


def test_seq_of_events_is_a_column_like_others(tmp_path: Path) -> None:
    part = part_of("a", pa.table({"timestamp_ms": [1], "seq": [7]}))
    assert read_back(compact([part], tmp_path, order=LAKES["events"]).path)["seq"].to_pylist() == [7]


# -- Odd names --------------------------------------------------------------------------------------------------------

ODD = ["*", "^.*$", "", "a", "A", "^ts_.*$", "a.b", "x" * 10_000, "é", "position", "key", "window"]


@pytest.mark.guards("pattern-names")
@pytest.mark.parametrize("budget_bytes", [512 << 20, 30_000], ids=["one window", "runs"])
@pytest.mark.parametrize("lake", LAKES)
def test_odd_names_are_names(lake: str, budget_bytes: int, tmp_path: Path) -> None:
    order = LAKES[lake]
    rows = 300
    tables = [
        pa.table(
            {order.column: list(range(rows))}
            | {name: [f"{name[:20]} {at} {row}" for row in range(rows)] for name in ODD}
        )
        for at in range(3)
    ]
    constant = [
        table.append_column("^c.*$", pa.array(["same"] * rows)).append_column("**", pa.array([7] * rows))
        for table in tables
    ]
    compacted = compact(
        [part_of(f"part-{at}", table) for at, table in enumerate(constant)],
        tmp_path,
        order=order,
        stride=8,
        budget_bytes=budget_bytes,
    )
    assert compacted.merged.distributed == (budget_bytes < 1 << 20)
    found = read_back(compacted.path)
    expected = pa.concat_tables(constant).take(pa.array([at * rows + row for row in range(rows) for at in range(3)]))
    assert found.drop_columns(["seq"] if order.numbered else []).to_pydict() == expected.to_pydict()


@pytest.mark.parametrize("name", ["a\0b", "\0"])
def test_names_with_a_zero_byte_are_refused_by_themselves(name: str) -> None:
    inside = pa.array([{name: 1}])
    for table in (pa.table({"ts_event": [1], name: [1]}), pa.table({"ts_event": [1], "x": inside})):
        with pytest.raises(SchemaConflict, match="holds a zero byte") as caught:
            survey_of([part_of("a", pa.table({"ts_event": [1]})), part_of("b", table)])
        assert caught.value.part == "b"


def test_two_fields_of_one_name_within_a_column_are_refused() -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(SchemaConflict, match="two fields of column 'x' share the name 'a'"):
        survey_of([part_of("a", pa.table({"ts_event": [1], "x": twice}))])


def test_schemas_that_differ_in_the_names_of_parents_are_told_apart(tmp_path: Path) -> None:
    """PyArrow calls them equal."""
    parts = [part_of(f"part-{name}", pa.table({"ts_event": [1], name: pa.array([{"a": 1}])})) for name in "pq"]
    table = read_back(compact(parts, tmp_path).path)
    assert table.to_pydict() == {"ts_event": [1, 1], "seq": [0, 1], "p": [{"a": 1}, None], "q": [None, {"a": 1}]}


@pytest.mark.parametrize("columns", [5_000])
def test_very_many_columns_come_through(columns: int, tmp_path: Path) -> None:
    schema = pa.schema([("ts_event", pa.int64()), *((f"c{at}", pa.float64()) for at in range(columns))])
    arrays = [pa.array([2, 1]), *[pa.array([0.5, None])] * columns]
    part = part_of("a", pa.Table.from_arrays(arrays, schema=schema), write_statistics=False)
    merged = compact([part], tmp_path).merged
    assert (merged.rows, len(merged.columns)) == (2, columns + 2)


# -- The audit --------------------------------------------------------------------------------------------------------


def mixed_part() -> Part:
    time = pa.array([1, 2], pa.time32("ms"))
    field = pa.field("i", pa.int16(), metadata={"PARQUET:field_id": "3"})
    schema = pa.schema([("ts_event", pa.int64()), ("t", time.type), ("b", pa.binary(4)), field])
    return part_of(
        "a",
        pa.Table.from_arrays(
            [pa.array([1, 2]), time, pa.array([b"abcd"] * 2, pa.binary(4)), pa.array([1, 2], pa.int16())], schema=schema
        ),
    )


def other_integers(schema: pa.Schema) -> pa.Schema:
    return schema.set(schema.get_field_index("i"), schema.field("i").with_type(pa.int64()))


def any_size(schema: pa.Schema) -> pa.Schema:
    return schema.set(schema.get_field_index("b"), schema.field("b").with_type(pa.large_binary()))


def required(schema: pa.Schema) -> pa.Schema:
    return schema.set(schema.get_field_index("b"), schema.field("b").with_nullable(nullable=False))


def without_id(schema: pa.Schema) -> pa.Schema:
    return schema.set(schema.get_field_index("i"), schema.field("i").remove_metadata())


@pytest.mark.guards("types-lost")
@pytest.mark.parametrize("broken", [other_integers, any_size, required, without_id])
def test_writer_that_changes_a_type_is_found(broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = writer._arrow_schema
    monkeypatch.setattr(writer, "_arrow_schema", lambda *arguments: broken(made(*arguments)))
    with pytest.raises(AuditFailed, match="the types of the file are not those of the parts"):
        compact([mixed_part()], tmp_path)


@pytest.mark.guards("types-lost")
def test_writer_that_forgets_an_annotation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "restored", lambda *_: None)
    with pytest.raises(AuditFailed, match=r"t INT32 \(levels 1/0\) where t INT32 Time\(.* should be"):
        compact([mixed_part()], tmp_path)


@pytest.mark.guards("types-lost")
def test_writer_that_adds_a_wrong_annotation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    date = Leaf("INT32", "Date", ((6, 5, bytes([12])),))

    def mistaken(footer: bytes, leaves: list[Leaf]) -> bytes | None:
        return restored(footer, [date if "Time" in leaf.annotation else leaf for leaf in leaves])

    monkeypatch.setattr(writer, "restored", mistaken)
    with pytest.raises(AuditFailed, match="the types of the file"):
        compact([mixed_part()], tmp_path)


def test_nothing_is_found_where_the_types_are_right(tmp_path: Path) -> None:
    assert (
        compact([mixed_part()], tmp_path).merged.columns["t"]
        == "INT32 Time(isAdjustedToUTC=false, timeUnit=milliseconds)"
    )
