"""What the writer's choices cost on the real-size day: rows per row group, dictionary limit, encodings, compression.

Writes the sorted day with PyArrow, single-threaded, and reads one minute of it back. Run it after an update of PyArrow,
and before changing `kernel/writer.py`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from quantlab_dagster.kernel.merge import merge
from quantlab_dagster.kernel.parts import Part
from quantlab_dagster.kernel.survey import Order, Surveyor
from quantlab_dagster.synthetic.market import REAL_DAY, generate_parts

_INTEGERS = ("ts_event", "seq", "ts_recv", "stream_version")
_MINUTE_MS = 60_000


def _sorted_day(directory: Path) -> pa.Table:
    surveyor = Surveyor(Order())
    ordered = sorted(generate_parts(REAL_DAY), key=lambda part: part.name.encode())
    surveyor.add(Part(part.name, part.data, len(part.data)) for part in ordered)
    output = directory / "day.parquet"
    merge(surveyor.finish(), output, scratch=directory)
    return pl.read_parquet(output).to_arrow(compat_level=pl.CompatLevel.oldest())


def _measure(table: pa.Table, path: Path, rows: int, options: dict[str, Any]) -> tuple[int, float, float]:
    started = time.perf_counter()
    with pq.ParquetWriter(path, table.schema, store_schema=False, write_page_index=True, **options) as writer:
        for first in range(0, table.num_rows, rows):
            writer.write_table(table.slice(first, rows).combine_chunks(), row_group_size=rows)
    written = time.perf_counter() - started
    noon = table["ts_event"][table.num_rows // 2].as_py()
    minute = (ds.field("ts_event") >= noon) & (ds.field("ts_event") < noon + _MINUTE_MS)
    started = time.perf_counter()
    ds.dataset(path).to_table(columns=["ts_event", "seq", "bid_price", "ask_price"], filter=minute)
    return path.stat().st_size, written, time.perf_counter() - started


def main() -> None:
    """Print one line per variant."""
    tuned: dict[str, Any] = {
        "compression": "zstd",
        "column_encoding": dict.fromkeys(_INTEGERS, "DELTA_BINARY_PACKED"),
    }
    with tempfile.TemporaryDirectory() as name:
        table = _sorted_day(Path(name))
        tuned["use_dictionary"] = [column for column in table.column_names if column not in _INTEGERS]
        variants: list[tuple[str, int, dict[str, Any]]] = [
            (f"chosen encodings, row groups of {rows:,}", rows, tuned)
            for rows in (65_536, 131_072, 262_144, 524_288, 1_048_576)
        ]
        variants += [
            ("dictionary pages up to 4 MiB, 262,144", 262_144, tuned | {"dictionary_pagesize_limit": 4 << 20}),
            ("zstd level 3, 262,144", 262_144, tuned | {"compression_level": 3}),
            ("zstd level 9, 262,144", 262_144, tuned | {"compression_level": 9}),
            ("snappy, 262,144", 262_144, tuned | {"compression": "snappy"}),
            ("PyArrow's defaults with zstd, 262,144", 262_144, {"compression": "zstd"}),
        ]
        for label, rows, options in variants:
            size, written, read = _measure(table, Path(name) / "variant.parquet", rows, options)
            print(f"{label:45} {size / 1e6:6.1f} MB  written in {written:5.2f} s  minute read in {read * 1000:4.0f} ms")


if __name__ == "__main__":
    main()
