"""The others: each engine's own best way from the parts of a symbol-day to one file, with nothing of ours around it.

    python -m benchmarks.yard.engines NAME KIND RAW OUTPUT

One process does all symbol-days below RAW, one after the other; OUTPUT gets one file each, named by the symbol. Each
imports nothing but its own engine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.yard.columns import columns

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW_GROUP_ROWS = 262_144


def days(raw: Path, output: Path) -> Iterator[tuple[list[str], Path]]:
    """The parts of each symbol-day in key order, and the file to write."""
    for directory in sorted(raw.glob("exchange=*/stream=*/symbol=*/date=*")):
        symbol = directory.parent.name.removeprefix("symbol=")
        yield sorted(str(part) for part in directory.glob("part-*.parquet")), output / f"{symbol}.parquet"


def _polars_scan(kind: str, parts: list[str]) -> Any:
    import polars as pl

    dtypes = {"int64": pl.Int64, "int8": pl.Int8, "double": pl.Float64, "string": pl.String}
    schema = {name: dtypes[kind_of] for name, kind_of in columns(kind).items()}
    cast = pl.ScanCastOptions(categorical_to_string="allow")
    return pl.scan_parquet(parts, schema=schema, cast_options=cast, hive_partitioning=False)


def limit(kind: str, raw: Path, output: Path) -> None:
    """Polars: read and write, without sorting."""
    for parts, path in days(raw, output):
        _polars_scan(kind, parts).sink_parquet(path, compression="zstd")


def limit_our_writer(kind: str, raw: Path, output: Path) -> None:
    """Polars reads, PyArrow writes with the encodings, page index and checksums that our files have; no sorting."""
    import polars as pl
    import pyarrow.parquet as pq

    from quantlab_dagster.kernel.encodings import choose_encodings, encoding_options, sample_rows

    for parts, path in days(raw, output):
        table = _polars_scan(kind, parts).collect(engine="streaming").to_arrow(compat_level=pl.CompatLevel.oldest())
        chosen = choose_encodings(table.slice(0, sample_rows(ROW_GROUP_ROWS)), int96=frozenset(), split=True)
        pq.write_table(
            table,
            path,
            compression="zstd",
            row_group_size=ROW_GROUP_ROWS,
            **encoding_options(chosen),
            write_page_index=True,
            write_page_checksum=True,
            store_schema=False,
        )


def polars(kind: str, raw: Path, output: Path) -> None:
    """Polars: read, sort stably, number, write. Its budget of memory is in the environment."""
    import polars as pl

    for parts, path in days(raw, output):
        frame = _polars_scan(kind, parts).sort("ts_event", maintain_order=True).with_row_index("seq")
        frame.with_columns(pl.col("seq").cast(pl.Int64)).sink_parquet(path, compression="zstd")


def duckdb(_: str, raw: Path, output: Path) -> None:
    """DuckDB: COPY … ORDER BY, with file and row as further keys, so that ties keep their order."""
    import duckdb as engine

    connection = engine.connect()
    most = os.environ.get("YARDSTICK_MEMORY_MB")
    if most:
        connection.execute(f"set memory_limit = '{most}MB'")
        connection.execute(f"set temp_directory = '{output / 'spill'}'")
    for parts, path in days(raw, output):
        connection.execute(
            f"""
            copy (
                select ts_event, row_number() over () - 1 as seq, * exclude (ts_event) from (
                    select * from read_parquet({parts!r}, hive_partitioning = false)
                    order by ts_event, file_index, file_row_number
                )
            ) to '{path}' (format parquet, compression zstd)
            """  # noqa: S608 - our own paths
        )


def datafusion(kind: str, raw: Path, output: Path) -> None:
    """DataFusion: COPY … ORDER BY. It knows no number of a row within its file, so ties come as they come."""
    import pyarrow as pa
    from datafusion import SessionConfig, SessionContext

    session = SessionContext(SessionConfig().set("datafusion.execution.minimum_parallel_output_files", "1"))
    others = ", ".join(f'"{name}"' for name in columns(kind) if name != "ts_event")
    schema = pa.schema([*columns(kind).items()])
    for number, (parts, path) in enumerate(days(raw, output)):
        session.register_parquet(f"d{number}", str(Path(parts[0]).parent), schema=schema)
        session.sql(
            f"""
            copy (
                select ts_event, cast(row_number() over (order by ts_event) - 1 as bigint) as seq, {others}
                from d{number} order by seq
            ) to '{path}' stored as parquet options (compression 'zstd(1)')
            """  # noqa: S608 - our own names
        ).collect()


def pyarrow(kind: str, raw: Path, output: Path) -> None:
    """PyArrow: read all, sort stably, number, write."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    # Large strings: gathering more than 2 GiB of plain ones fails.
    large = {"string": "large_string"}
    schema = pa.schema([(name, large.get(kind_of, kind_of)) for name, kind_of in columns(kind).items()])
    for parts, path in days(raw, output):
        table = ds.dataset(parts, schema=schema).to_table()
        table = table.take(pa.compute.sort_indices(table, [("ts_event", "ascending")]))
        table = table.add_column(1, "seq", pa.array(np.arange(table.num_rows)))
        pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def copy(_: str, raw: Path, output: Path) -> None:
    """No engine at all: the bytes of the parts, one after the other, into one file."""
    for parts, path in days(raw, output):
        with path.open("wb") as file:
            for part in parts:
                file.write(Path(part).read_bytes())


def events(_: str, raw: Path, output: Path) -> None:
    """Polars: each hour of an event lake read, sorted and written."""
    import polars as pl

    for directory in sorted({path.parent for path in raw.glob("app_id=*/**/*.parquet")}):
        files = [pl.read_parquet(path, hive_partitioning=False) for path in sorted(directory.glob("*.parquet"))]
        path = output / directory.relative_to(raw) / "all.parquet"
        path.parent.mkdir(parents=True)
        rows = pl.concat(files, how="diagonal_relaxed").sort("timestamp_ms", maintain_order=True)
        rows.write_parquet(path, compression="zstd")


if __name__ == "__main__":
    name, of_kind, raw_lake, directory = sys.argv[1:]
    {
        "limit": limit,
        "limit-our-writer": limit_our_writer,
        "polars": polars,
        "duckdb": duckdb,
        "datafusion": datafusion,
        "pyarrow": pyarrow,
        "copy": copy,
        "events": events,
    }[name](of_kind, Path(raw_lake), Path(directory))
