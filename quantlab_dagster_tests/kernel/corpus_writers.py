"""Parts of other writers: the same rows, as PyArrow, Polars, DuckDB, fastparquet and Spark write them in their ways."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl

from quantlab_dagster_tests.kernel.corpus import TABLE, Case, Known, parquet
from quantlab_dagster_tests.kernel.spark import in_spark

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["fastparquet_cases", "foreign", "spark_cases"]

_COMPRESSIONS = ("none", "snappy", "gzip", "brotli", "lz4", "zstd")
_ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionary": {"use_dictionary": True},
    "delta": {
        "use_dictionary": False,
        "column_encoding": {
            "ts_event": "DELTA_BINARY_PACKED",
            "origin": "DELTA_BINARY_PACKED",
            "venue": "DELTA_LENGTH_BYTE_ARRAY",
            "trade_id": "DELTA_BYTE_ARRAY",
        },
    },
    "split": {
        "use_dictionary": False,
        "column_encoding": {"price": "BYTE_STREAM_SPLIT", "ts_event": "BYTE_STREAM_SPLIT", "side": "PLAIN"},
    },
}
_SHAPES: dict[str, dict[str, Any]] = {
    "": {},
    " small pages": {"data_page_size": 64, "write_batch_size": 4},
    " row groups": {"row_group_size": 7, "write_page_checksum": True},
    " page index": {"write_page_index": True, "store_schema": False, "write_statistics": False},
}


def _case(writer: str, how: str, data: bytes) -> Case:
    return Case(f"{writer}:{how}", f"written by {writer}", data, Known.ROWS, TABLE)


def _pyarrow() -> Iterator[Case]:
    for compression, (encoding, options), page, (shape, more) in itertools.product(
        _COMPRESSIONS, _ENCODINGS.items(), ("1.0", "2.0"), _SHAPES.items()
    ):
        data = parquet(TABLE, compression=compression, data_page_version=page, **options, **more)
        yield _case("PyArrow", f"{encoding} {compression} v{page}{shape}", data)
    for version in ("1.0", "2.4", "2.6"):
        yield _case("PyArrow", f"format {version}", parquet(TABLE, version=version))


def _polars() -> Iterator[Case]:
    frame = pl.from_arrow(TABLE)
    assert isinstance(frame, pl.DataFrame)
    for compression, statistics, rows, size in itertools.product(
        ("uncompressed", "snappy", "gzip", "brotli", "lz4", "zstd"), (False, True), (None, 7), (None, 64)
    ):
        sink = io.BytesIO()
        frame.write_parquet(
            sink,
            compression=compression,  # type: ignore[arg-type]
            statistics=statistics,
            row_group_size=rows,
            data_page_size=size,
        )
        yield _case("Polars", f"{compression} {statistics} {rows} {size}", sink.getvalue())


def _duckdb() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as directory, duckdb.connect() as connection:
        connection.register("rows", TABLE)
        file = Path(directory) / "file.parquet"
        for compression, version, dictionary in itertools.product(
            ("uncompressed", "snappy", "gzip", "brotli", "lz4_raw", "zstd"), ("V1", "V2"), (1, 1_000_000)
        ):
            options = f"format parquet, compression {compression}, parquet_version {version}"
            options += f", dictionary_size_limit {dictionary}"
            connection.execute(f"copy rows to '{file}' ({options})")
            yield _case("DuckDB", f"{compression} {version} {dictionary}", file.read_bytes())


def foreign() -> list[Case]:
    """The rows of `TABLE` as the writers of this environment write them."""
    return [*_pyarrow(), *_polars(), *_duckdb()]


_FASTPARQUET = """
import itertools, sys
import fastparquet, pandas
source, target = sys.argv[1:]
frame = pandas.read_json(source, orient="table").reset_index(drop=True)
frame = frame.astype({"ts_event": "int64", "origin": "int64", "side": "int8", "price": "float64"})
for name in ("venue", "trade_id"):
    frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
encodings = {"venue": "utf8", "trade_id": "utf8"}
ways = itertools.product(("UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"), (True, False), ([0], [0, 7, 21]))
for compression, stats, offsets in ways:
    fastparquet.write(f"{target}/{compression}-{stats}-{len(offsets)}", frame, compression=compression, stats=stats,
                      row_group_offsets=offsets, object_encoding=encodings, has_nulls=["price", "trade_id"])
"""


def fastparquet_cases(python: str) -> list[Case]:
    """The same, written by fastparquet in another environment: it is none of this project's dependencies.

    Args:
        python: the interpreter of an environment that has fastparquet.
    """
    return _elsewhere("fastparquet", [python, "-c", _FASTPARQUET])


def spark_cases(python: str) -> list[Case]:
    """The same, written by Spark.

    Args:
        python: the interpreter of an environment that has pyspark.
    """
    return _elsewhere("Spark", [python, in_spark.__file__, "corpus"])


def _elsewhere(writer: str, command: list[str]) -> list[Case]:
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "rows.json", Path(directory) / "files"
        target.mkdir()
        _write_table_json(source)
        subprocess.run([*command, str(source), str(target)], check=True)
        return [_case(writer, path.stem, path.read_bytes()) for path in sorted(target.glob("[!.]*"))]


def _write_table_json(path: Path) -> None:
    """As pandas' own JSON with a schema, so that types survive."""
    kinds = {"int64": "integer", "int8": "integer", "double": "number", "string": "string"}
    fields = [{"name": field.name, "type": kinds[str(field.type)]} for field in TABLE.schema]
    rows = [{"index": at, **row} for at, row in enumerate(TABLE.to_pylist())]
    fields.insert(0, {"name": "index", "type": "integer"})
    path.write_text(json.dumps({"schema": {"fields": fields, "primaryKey": ["index"]}, "data": rows}))
