"""How each engine reads the files: `read_with.py ENGINE WAY ROOT PATTERN`; prints the rows as one JSON document.

Run by the Python of an environment that has the engine; of everything else only the standard library is needed. WAY is
`plain`, as one would first write it, or `set`, with what the engine must be told. What a way says is in its text.
"""

from __future__ import annotations

import glob
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Rows = tuple[list[str], list[list[Any]]]

__all__ = ["ENGINES", "WAYS", "main"]

WAYS: dict[tuple[str, str], str] = {
    ("pyarrow", "plain"): "`pq.read_table(file)`",
    ("pyarrow", "set"): "`pq.read_table(file, partitioning=None)`",
    ("polars", "plain"): "`pl.scan_parquet(glob)`",
    ("polars", "set"): "`pl.scan_parquet(glob, hive_partitioning=False)`",
    ("duckdb", "plain"): "`FROM read_parquet(glob)`",
    ("duckdb", "set"): "`FROM read_parquet(glob, hive_partitioning = false)`",
    ("datafusion", "plain"): "`ctx.read_parquet(file)`",
    (
        "datafusion",
        "set",
    ): "`schema_force_view_types = false`, `table_partition_cols=[]`",
    ("pandas", "plain"): "`pd.read_parquet(file)`",
    ("pandas", "set"): '`pd.read_parquet(file, partitioning=None, dtype_backend="pyarrow")`',
    ("fastparquet", "plain"): "`ParquetFile(file).to_pandas()`",
    ("fastparquet", "set"): "`ParquetFile(open(file, 'rb')).to_pandas()`",
    ("pyspark", "plain"): "`spark.read.parquet(glob)`",
    ("pyspark", "set"): '`.option("recursiveFileLookup", "true").option("pathGlobFilter", "*.parquet")`',
    ("chdb", "plain"): "`file('glob', Parquet)`",
    ("chdb", "set"): "`SETTINGS use_hive_partitioning = 0`",
    ("hyparquet", "plain"): "`parquetReadObjects({file, compressors})`, with hyparquet-compressors",
}


def _table(table: Any) -> Rows:
    """Of an Arrow table."""
    columns = [table[name].to_pylist() for name in table.column_names]
    return list(table.column_names), [list(row) for row in zip(*columns, strict=True)]


def _united(found: list[Rows]) -> Rows:
    names = list(dict.fromkeys(name for columns, _ in found for name in columns))
    rows = []
    for columns, values in found:
        for row in values:
            named = dict(zip(columns, row, strict=True))
            rows.append([named.get(name) for name in names])
    return names, rows


def _pyarrow(way: str, root: str, pattern: str) -> Rows:
    parquet = importlib.import_module("pyarrow.parquet")
    options = {"partitioning": None} if way == "set" else {}
    return _united([_table(parquet.read_table(file, **options)) for file in _files(root, pattern)])


def _polars(way: str, root: str, pattern: str) -> Rows:
    polars = importlib.import_module("polars")
    options = {"hive_partitioning": False} if way == "set" else {}
    frame = polars.scan_parquet(f"{root}/{pattern}", **options).collect()
    return frame.columns, [list(row) for row in frame.iter_rows()]


def _duckdb(way: str, root: str, pattern: str) -> Rows:
    duckdb = importlib.import_module("duckdb")
    option = ", hive_partitioning = false" if way == "set" else ""
    relation = duckdb.sql(f"SELECT * FROM read_parquet('{root}/{pattern}'{option})")  # noqa: S608  # our own files
    return relation.columns, [list(row) for row in relation.fetchall()]


def _datafusion(_: str, root: str, pattern: str) -> Rows:
    context = importlib.import_module("datafusion").SessionContext()
    return _united([_table(context.read_parquet(file).to_arrow_table()) for file in _files(root, pattern)])


def _pandas(way: str, root: str, pattern: str) -> Rows:
    pandas = importlib.import_module("pandas")
    options = {"partitioning": None, "dtype_backend": "pyarrow"} if way == "set" else {}
    return _united([_frame(pandas.read_parquet(file, engine="pyarrow", **options)) for file in _files(root, pattern)])


def _fastparquet(way: str, root: str, pattern: str) -> Rows:
    fastparquet = importlib.import_module("fastparquet")
    found = []
    for file in _files(root, pattern):
        if way == "plain":
            found.append(_frame(fastparquet.ParquetFile(file).to_pandas()))
        else:
            with open(file, "rb") as opened:  # noqa: PTH123
                found.append(_frame(fastparquet.ParquetFile(opened).to_pandas()))
    return _united(found)


def _frame(frame: Any) -> Rows:
    """Of a pandas frame: a missing value is None, whichever kind it is."""
    is_missing = importlib.import_module("pandas").isna
    columns = [[None if is_missing(value) else _plain(value) for value in frame[name]] for name in frame.columns]
    return [str(name) for name in frame.columns], [list(row) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _pyspark(way: str, root: str, pattern: str) -> Rows:
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master("local[1]")
    for name, value in {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    reader = session.read
    if way == "set":
        reader = reader.option("recursiveFileLookup", "true").option("pathGlobFilter", pattern.rpartition("/")[2])
        frame = reader.parquet(root)
    else:
        frame = reader.option("basePath", root).parquet(f"{root}/{pattern}".replace("**", "*/*/*/*"))
    return frame.columns, [list(row) for row in frame.collect()]


def _chdb(way: str, root: str, pattern: str) -> Rows:
    chdb = importlib.import_module("chdb")
    settings = "output_format_json_quote_64bit_integers = 0"
    if way == "set":
        settings = f"use_hive_partitioning = 0, {settings}"
    query = f"SELECT * FROM file('{root}/{pattern}', Parquet) SETTINGS {settings}"  # noqa: S608  # of our own files
    answer = chdb.query(query, "JSONCompact")
    document = json.loads(str(answer))
    return [column["name"] for column in document["meta"]], document["data"]


ENGINES: dict[str, Callable[[str, str, str], Rows]] = {
    "pyarrow": _pyarrow,
    "polars": _polars,
    "duckdb": _duckdb,
    "datafusion": _datafusion,
    "pandas": _pandas,
    "fastparquet": _fastparquet,
    "pyspark": _pyspark,
    "chdb": _chdb,
}


def _files(root: str, pattern: str) -> list[str]:
    return sorted(glob.glob(f"{root}/{pattern}", recursive=True))  # noqa: PTH207


def main(arguments: list[str]) -> None:
    """Read, and print the columns and rows."""
    engine, way, root, pattern = arguments
    columns, rows = ENGINES[engine](way, root, pattern)
    version = getattr(importlib.import_module(engine), "__version__", "")
    print(json.dumps({"version": version, "columns": columns, "rows": rows}, default=str))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
