"""The engines of this environment read what is published exactly, and the recipes of docs/reading.md do what they say.

All engines, and the page with their versions: matrix.py, docs/engines.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from quantlab_dagster import reader
from quantlab_dagster_tests.engines import read_with
from quantlab_dagster_tests.engines.matrix import Lake, Table, days_lake, difference, hours_lake

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
HERE = ("pyarrow", "polars", "duckdb")


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return days_lake(tmp_path_factory.mktemp("days"))


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return hours_lake(tmp_path_factory.mktemp("hours"))


def verdict(engine: str, way: str, lake: Lake) -> str:
    columns, rows = read_with.ENGINES[engine](way, lake.root, lake.pattern)
    return difference(Table(columns, rows), lake.expected)


@pytest.mark.parametrize("engine", HERE)
def test_a_published_day_is_read_exactly(engine: str, days: Lake) -> None:
    assert verdict(engine, "set", days) == "exact"


@pytest.mark.parametrize("engine", HERE)
def test_a_merged_hour_is_read_exactly(engine: str, hours: Lake) -> None:
    assert verdict(engine, "set", hours) == "exact"


def test_what_differs_is_said(days: Lake) -> None:
    columns, rows = read_with.ENGINES["polars"]("set", days.root, days.pattern)
    assert difference(Table([*columns, "date"], rows), days.expected) == "columns: +date"
    assert difference(Table(columns[::-1], rows), days.expected).startswith("columns in another order")
    assert difference(Table(columns, rows[1:]), days.expected) == "1399 rows of 1400"
    place = columns.index("symbol")
    lower = [[value.lower() if number == place else value for number, value in enumerate(row)] for row in rows]
    assert difference(Table(columns, lower), days.expected) == "symbol: 'adausdt' for 'ADAUSDT'"
    floats = [[float(value) if number == 0 else value for number, value in enumerate(row)] for row in rows]
    assert "for 17" in difference(Table(columns, floats), days.expected)
    assert difference(Table(columns, rows[::-1]), days.expected) == "exact"


# ---- recipes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


@pytest.mark.parametrize(
    ("option", "upper", "lower"), [("", 0, 700), (", hive_partitioning = false", 700, 0)], ids=["plain", "set"]
)
def test_in_duckdb_the_path_hides_the_symbol_unless_it_is_told_not_to(
    connection: duckdb.DuckDBPyConnection, days: Lake, option: str, upper: int, lower: int
) -> None:
    source = f"read_parquet('{days.root}/{days.pattern}'{option})"
    for symbol, rows in (("ADAUSDT", upper), ("adausdt", lower)):
        query = f"SELECT count(*) FROM {source} WHERE symbol = '{symbol}'"  # noqa: S608  # our own files
        assert connection.sql(query).fetchall() == [(rows,)]


def test_in_polars_a_glob_leaves_the_symbol_alone_and_hive_partitioning_hides_it(days: Lake) -> None:
    def rows(symbol: str, *, hive: bool | None) -> int:
        scan = pl.scan_parquet(f"{days.root}/{days.pattern}", hive_partitioning=hive)
        return scan.filter(pl.col("symbol") == symbol).collect().height

    assert (rows("ADAUSDT", hive=None), rows("ADAUSDT", hive=False)) == (700, 700)
    assert (rows("ADAUSDT", hive=True), rows("adausdt", hive=True)) == (0, 700)
    with pytest.raises(pl.exceptions.InvalidOperationError, match="different file extensions"):
        pl.scan_parquet(days.root).collect()  # meta.json lies beside the data


def test_in_pyarrow_the_same(days: Lake) -> None:
    files = sorted(str(path) for path in Path(days.root).glob(days.pattern))
    wanted = pc.field("symbol") == "ADAUSDT"
    assert ds.dataset(files).to_table(filter=wanted).num_rows == 700
    assert ds.dataset(files, partitioning="hive").to_table(filter=wanted).num_rows == 0


def test_one_file_is_found_by_its_path_and_read_by_its_column(
    connection: duckdb.DuckDBPyConnection, days: Lake
) -> None:
    """The recipe for one symbol: the spelling of the path in the path, that of the column in the query."""
    path = f"{days.root}/exchange=binance/stream=trade/symbol=adausdt/date=20260108/data.parquet"
    query = (
        f"SELECT count(*), min(seq), max(seq) FROM read_parquet('{path}', hive_partitioning = false) "  # noqa: S608
        "WHERE symbol = 'ADAUSDT'"
    )
    assert connection.sql(query).fetchall() == [(700, 0, 699)]


def test_the_reader_reads_both_symbols_exactly(days: Lake) -> None:
    rows = reader.open_lake(days.root).rows(order="files").polars()
    assert difference(Table(rows.columns, [list(row) for row in rows.iter_rows()]), days.expected) == "exact"


def test_the_page_says_what_is_tested_here() -> None:
    """docs/engines.md is made by matrix.py; what it says of the engines of this environment is what they do."""
    page = (ROOT / "docs" / "engines.md").read_text()
    for engine in HERE:
        way = re.escape(read_with.WAYS[engine, "set"])
        assert re.search(rf"^\| {engine} [0-9.]+ \| {way} \| exact \| exact \|$", page, re.MULTILINE), engine


def test_the_table_of_the_readme_is_the_pages() -> None:
    """Engines and versions are those of the page, and CI reads with those of this environment."""
    page = (ROOT / "docs" / "engines.md").read_text()
    readme = (ROOT / "README.md").read_text()
    found = dict(re.findall(r"^\| (\w+) ([0-9.]+) \|", page, re.MULTILINE))
    rows = re.findall(r"^\| (\w+) ([0-9.]+)(?: \(\w+\))? \| (by CI|by hand) \| (.+) \|$", readme, re.MULTILINE)
    assert {engine: version for engine, version, _, _ in rows} == found
    assert {engine for engine, _, how, _ in rows if how == "by CI"} == set(HERE)
    for engine, version, _, told in rows:
        plain = f"| {engine} {version} | {read_with.WAYS[engine, 'plain']} | exact | exact |"
        assert told != "nothing" or plain in page, engine
