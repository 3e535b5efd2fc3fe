"""Event lakes of realistic size, compacted by a process of its own; what DuckDB makes of them before and after."""

from __future__ import annotations

import datetime as dt
import hashlib
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from quantlab_dagster.lake.warehouse import AppHour
from quantlab_dagster.synthetic.warehouse import HourSpec, generate_event_files, write_local_hour
from quantlab_dagster_tests.real_day import Measured, run_process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster_tests.servers import S3Server

BUCKET = "warehouse"
FIRST_HOUR = dt.datetime(2026, 1, 15, tzinfo=dt.UTC)

# What an analyst asks: over everything, and with every column that has something to it.
_QUERY = """
    select event_type, count(*) as events, count(distinct device_id) as devices, sum(length(payload_json)) as payload,
           min(timestamp_ms) as first, max(timestamp_ms) as last
    from read_parquet($files, union_by_name = true, hive_partitioning = false) group by all order by all
"""
_ALL_ROWS = """
    select count(*), sum(hash(id, app_id, device_id, timestamp_ms, correlation_id, event_category, event_type, carrier,
           battery_level::integer, screen_width, is_jailbroken, payload_json, year, month, day, hour)::hugeint)
    from read_parquet($files, union_by_name = true, hive_partitioning = false)
"""


@dataclass(frozen=True, slots=True)
class Queried:
    """What DuckDB found: the median time of the query in seconds, its answer, and a fingerprint of all rows."""

    seconds: float
    answer: str
    rows: int
    fingerprint: int


def hours(number: int, *, files: int, rows: int, app: str = "demo") -> list[HourSpec]:
    """So many hours in a row."""
    return [
        HourSpec(app, FIRST_HOUR + dt.timedelta(hours=hour), files=files, rows=rows, seed=hour)
        for hour in range(number)
    ]


def write_lake(root: Path, specs: Sequence[HourSpec]) -> int:
    """Write hours into a local lake; returns its bytes."""
    return sum(write_local_hour(root, spec) for spec in specs)


def upload_hours(server: S3Server, specs: Sequence[HourSpec]) -> int:
    """Put hours into the bucket; returns its bytes."""
    size = 0
    for spec in specs:
        partition = AppHour(spec.app_id, spec.hour)
        objects = {f"events/{partition.key(file.name)}": file.data for file in generate_event_files(spec)}
        server.put_objects(BUCKET, objects)
        size += sum(map(len, objects.values()))
    return size


def files_below(root: Path) -> list[int]:
    """Sizes of all event files of a local lake."""
    return sorted(path.stat().st_size for path in root.glob("app_id=*/**/*.parquet"))


def query(root: Path, *, rounds: int = 3, partition: str = "**") -> Queried:
    """Ask DuckDB, as an analyst would, who globs."""
    files = f"{root}/app_id=*/{partition}/*.parquet"
    with duckdb.connect() as connection:
        times: list[float] = []
        answer: Any = None
        for _ in range(rounds):
            start = time.monotonic()
            answer = connection.execute(_QUERY, {"files": files}).fetchall()
            times.append(time.monotonic() - start)
        found = connection.execute(_ALL_ROWS, {"files": files}).fetchone()
    assert found is not None
    digest = hashlib.sha256(repr(answer).encode()).hexdigest()
    return Queried(statistics.median(times), digest, found[0], int(found[1]))


def compact(url: str, directory: Path, env: dict[str, str], *options: str) -> Measured:
    """`quantlab warehouse compact`, which runs the job of the schedule, as a whole process."""
    command = [sys.executable, "-m", "quantlab_dagster.cli", "warehouse", "compact", "--json", *options]
    return run_process(command, {"WAREHOUSE_URL": url, "DAGSTER_HOME": str(directory / "home"), **env}, directory)
