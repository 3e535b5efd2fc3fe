"""Row groups that were encoded apart are, stitched, what PyArrow writes when it is given them together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantlab_dagster.errors import AuditFailed
from quantlab_dagster.kernel import stitch
from quantlab_dagster.kernel.parts import footer_bytes
from quantlab_dagster.kernel.stitch import Piece, Stitcher, check_stitched, take_apart
from quantlab_dagster.kernel.thrift import STRUCT, RawField, integer, integer_bytes, struct_at, struct_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "integer": (pa.int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
    "small": (pa.int8(), st.integers(-2, 2)),
    "real": (pa.float64(), st.floats()),
    "text": (pa.string(), st.text(max_size=5)),
    "bytes": (pa.binary(2), st.binary(min_size=2, max_size=2)),
    "flag": (pa.bool_(), st.booleans()),
    "list": (pa.list_(pa.int32()), st.lists(st.integers(0, 9), max_size=3)),
    "pair": (pa.struct({"a": pa.int16(), "b": pa.string()}), st.fixed_dictionaries({"a": st.just(1), "b": st.text()})),
}


@st.composite
def drawn_groups(draw: st.DrawFn) -> list[pa.Table]:
    """Tables of one schema: the row groups of a file."""
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, unique=True))
    schema = pa.schema([(name, COLUMNS[name][0]) for name in names])
    rows = st.fixed_dictionaries({name: st.none() | COLUMNS[name][1] for name in names})
    return [
        pa.Table.from_pylist(group, schema=schema)
        for group in draw(st.lists(st.lists(rows, min_size=1, max_size=30), max_size=5))
    ] or [schema.empty_table()]


def written(groups: Sequence[pa.Table], schema: pa.Schema, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **options) as writer:
        for group in groups:
            if group.num_rows:
                writer.write_table(group, row_group_size=group.num_rows)
        writer.add_key_value_metadata({"made": "by a test"})
    content: bytes = sink.getvalue().to_pybytes()
    return content


def piece_of(content: bytes) -> Piece:
    return take_apart(memoryview(content), pq.read_metadata(pa.BufferReader(content)))


def stitched(
    path: Path, groups: Sequence[pa.Table], schema: pa.Schema, **options: Any
) -> tuple[list[Piece], list[int]]:
    """Write a file piece by piece."""
    with path.open("wb") as file:
        stitcher = Stitcher(file)
        pieces = [stitcher.append(piece_of(written([group], schema, **options))) for group in groups if group.num_rows]
        stitcher.finish(footer_bytes(written([], schema, **options)))
    return pieces, stitcher.starts


OPTIONS = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(["zstd", "none"]),
        "write_page_index": st.booleans(),
        "write_page_checksum": st.booleans(),
        "use_dictionary": st.booleans(),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "data_page_size": st.sampled_from([1, 1 << 20]),
        "store_schema": st.booleans(),
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(groups=drawn_groups(), options=OPTIONS)
def test_what_is_stitched_is_what_pyarrow_writes(
    groups: list[pa.Table], options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    schema = groups[0].schema
    path = tmp_path_factory.getbasetemp() / "stitched.parquet"
    pieces, starts = stitched(path, groups, schema, **options)
    assert path.read_bytes() == written(groups, schema, **options)
    check_stitched(path, pieces, starts)


def test_many_row_groups(tmp_path: Path) -> None:
    """More than a list of Thrift counts in its first byte."""
    groups = [pa.table({"n": [number]}) for number in range(300)]
    pieces, starts = stitched(tmp_path / "many", groups, groups[0].schema, write_page_index=True)
    check_stitched(tmp_path / "many", pieces, starts)
    assert (tmp_path / "many").read_bytes() == written(groups, groups[0].schema, write_page_index=True)


ROWS = 40_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four row groups with several pages each, in order."""
    path = tmp_path_factory.mktemp("stitched") / "file.parquet"
    whole = pa.table({"n": range(4 * ROWS), "label": [f"{number % 7}" for number in range(4 * ROWS)]})
    groups = [whole.slice(start, ROWS) for start in range(0, 4 * ROWS, ROWS)]
    options = {"write_page_index": True, "write_page_checksum": True, "data_page_size": 1 << 12}
    stitched(path, groups, whole.schema, **options)
    return path


def asked(file: Path, query: str) -> list[Any]:
    with duckdb.connect() as engine:
        return engine.execute(f"FROM read_parquet(?) {query}", [str(file)]).fetchall()


def test_readers_find_their_way_by_row_groups_and_pages(file: Path) -> None:
    wanted = [3 * ROWS - 2, 3 * ROWS - 1, 3 * ROWS, 3 * ROWS + 1]
    low, high = wanted[0], wanted[-1]
    assert pl.scan_parquet(file).filter(pl.col("n").is_between(low, high)).collect()["n"].to_list() == wanted
    assert [number for (number,) in asked(file, f"SELECT n WHERE n BETWEEN {low} AND {high} ORDER BY n")] == wanted
    table = ds.dataset(file).to_table(filter=(ds.field("n") >= low) & (ds.field("n") <= high))
    assert table["n"].to_pylist() == wanted
    labels = asked(file, "SELECT label, count(*) GROUP BY ALL ORDER BY 1")
    assert labels == [(f"{seven}", len(range(seven, 4 * ROWS, 7))) for seven in range(7)]


def one_value_more(chunk: list[RawField]) -> list[RawField]:
    """A column chunk that says so."""
    [metadata] = [payload for identity, _, payload in chunk if identity == 3]
    fields = [
        (identity, kind, integer_bytes(integer(payload) + 1) if identity == 5 else payload)
        for identity, kind, payload in struct_at(metadata)[0]
    ]
    return [*(one for one in chunk if one[0] != 3), (3, STRUCT, struct_bytes(fields))]


def broken(path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wrong: Any) -> None:
    """Stitch with one mistake, and check what came of it without."""
    right = getattr(stitch, name)
    monkeypatch.setattr(stitch, name, lambda *arguments: wrong(right, *arguments))
    groups = [pa.table({"n": range(first, first + 50), "t": ["x", "y"] * 25}) for first in (0, 50, 100)]
    pieces, starts = stitched(path, groups, groups[0].schema, write_page_index=True)
    monkeypatch.setattr(stitch, name, right)
    check_stitched(path, pieces, starts)


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_shifted_chunk", lambda right, chunk, shift: right(chunk, shift + 1 if shift else 0)),
        ("_shifted_index", lambda right, index, shift: right(index, shift + 1 if shift else 0)),
        ("_shifted_index", lambda _right, index, _shift: index),
        ("_group", lambda right, start, piece, chunks: right(start, replace(piece, fields=piece.fields[1:]), chunks)),
        ("_group", lambda right, start, piece, chunks: right(start, piece, chunks[::-1])),
        ("_group", lambda right, start, piece, chunks: right(start, piece, [one_value_more(one) for one in chunks])),
    ],
)
def test_a_mistake_in_the_stitching_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wrong: Any
) -> None:
    with pytest.raises(AuditFailed, match="its footer"):
        broken(tmp_path / "file", monkeypatch, name, wrong)


def test_without_a_mistake_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path / "file", monkeypatch, "_group", lambda right, *arguments: right(*arguments))


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize("identity", [2, 3, 6], ids=["uncompressed bytes", "rows", "compressed bytes"])
def test_a_row_group_of_which_something_else_is_said_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: int
) -> None:
    def wrong(right: Any, start: int, piece: Piece, chunks: list[list[RawField]]) -> bytes:
        fields = tuple(
            (one, kind, integer_bytes(integer(payload) + 1) if one == identity else payload)
            for one, kind, payload in piece.fields
        )
        made: bytes = right(start, replace(piece, fields=fields), chunks)
        return made

    with pytest.raises(AuditFailed, match="its footer does not say"):
        broken(tmp_path / "file", monkeypatch, "_group", wrong)


@pytest.mark.guards("check-for-proof")
def test_a_file_that_says_that_it_has_another_number_of_rows_is_found(tmp_path: Path) -> None:
    path, schema = tmp_path / "file", pa.schema({"n": pa.int64()})
    with path.open("wb") as file:
        stitcher = Stitcher(file)
        pieces = [stitcher.append(piece_of(written([pa.table({"n": [1, 2]})], schema)))]
        stitcher._rows += 1
        stitcher.finish(footer_bytes(written([], schema)))
    with pytest.raises(AuditFailed, match="its footer does not say"):
        check_stitched(path, pieces, stitcher.starts)


@pytest.mark.guards("check-for-proof")
def test_a_column_index_that_is_another_is_found(tmp_path: Path) -> None:
    groups = [pa.table({"n": range(first, first + 50)}) for first in (0, 50)]
    pieces, starts = stitched(tmp_path / "file", groups, groups[0].schema, write_page_index=True)
    pieces[1] = replace(pieces[1], column_indexes=pieces[0].column_indexes)
    with pytest.raises(AuditFailed, match="footer does not say"):
        check_stitched(tmp_path / "file", pieces, starts)


@pytest.mark.guards("check-for-proof")
@pytest.mark.parametrize("change", ["exchanged", "left out", "twice"])
def test_pieces_at_other_places_are_found(tmp_path: Path, change: str) -> None:
    groups = [pa.table({"n": range(first, first + 50)}) for first in (0, 50, 100)]
    path = tmp_path / "file"
    pieces, starts = stitched(path, groups, groups[0].schema, write_page_index=True)
    pieces = {"exchanged": pieces[::-1], "left out": pieces[1:], "twice": [*pieces, pieces[-1]]}[change]
    starts = {"exchanged": starts, "left out": starts[1:], "twice": [*starts, starts[-1]]}[change]
    with pytest.raises(AuditFailed):
        check_stitched(path, pieces, starts)


@pytest.mark.parametrize("groups", [[], [[1], [2]]])
def test_only_a_single_row_group_is_taken_apart(groups: list[list[int]]) -> None:
    tables = [pa.table({"n": group}) for group in groups]
    with pytest.raises(ValueError, match="row groups"):
        piece_of(written(tables, pa.schema({"n": pa.int64()})))
