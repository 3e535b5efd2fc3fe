"""The real-size day of one symbol on a real S3 server, compacted by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.synthetic.market import REAL_DAY, RawPart, generate_parts

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster_tests.servers import S3Server

RAW, COMPACT = "quantlab-raw", "quantlab-compact"
SYMBOL_DAY = SymbolDay(REAL_DAY.exchange, REAL_DAY.stream, REAL_DAY.symbol, REAL_DAY.day)

# What a reader would write who needs neither audit nor publishing; the union of string and dictionary columns needs
# the schema.
_PLAIN = """
import os, polars as pl
text = [("exchange", pl.String), ("symbol", pl.String), ("stream", pl.String), ("stream_version", pl.Int8)]
floats = [(name, pl.Float64) for name in ("bid_price", "bid_qty", "ask_price", "ask_qty")]
options = dict(
    aws_endpoint_url=os.environ["AWS_ENDPOINT_URL"], aws_region=os.environ["AWS_REGION"], aws_allow_http="true",
    aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
) if os.environ["PARTS"].startswith("s3://") else None
(
    pl.scan_parquet(
        os.environ["PARTS"] + "/*.parquet",
        schema=dict([("ts_event", pl.Int64), ("ts_recv", pl.Int64), *text, *floats]),
        cast_options=pl.ScanCastOptions(categorical_to_string="allow"),
        hive_partitioning=False,
        storage_options=options,
    )
    .sort("ts_event", maintain_order=True)
    .with_row_index("seq")
    .sink_parquet(os.environ["OUTPUT"], compression="zstd")
)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole process: wall-clock seconds, CPU seconds, peak RSS in MiB, standard output."""

    seconds: float
    cpu_seconds: float
    peak_rss_mib: float
    output: str


def run_process(command: list[str], env: dict[str, str], directory: Path) -> Measured:
    """Run a process to its end, and fail with its output if it fails.

    Its peak RSS is its own: the launcher between keeps the caller's memory out of it (a child starts as a copy).
    """
    launcher = (
        "import json, resource, subprocess, sys, time; start = time.monotonic();"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True); seconds = time.monotonic() - start;"
        "usage = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "json.dump([done.returncode, done.stdout, done.stderr, seconds, usage.ru_utime + usage.ru_stime,"
        " usage.ru_maxrss], sys.stdout)"
    )
    launched = subprocess.run(
        [sys.executable, "-c", launcher, *command],
        env={**os.environ, **env},
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    code, output, errors, seconds, cpu_seconds, peak_rss_kib = json.loads(launched.stdout)
    if code:
        raise RuntimeError(f"{command[:4]} ended with {code}:\n{output}\n{errors}")
    return Measured(seconds, cpu_seconds, peak_rss_kib / 1024, output)


def upload(server: S3Server) -> list[RawPart]:
    """Put the real-size day into the raw bucket; returns its parts."""
    server.create_bucket(RAW)
    server.create_bucket(COMPACT)
    parts = list(generate_parts(REAL_DAY))
    server.put_objects(RAW, {SYMBOL_DAY.key(part.name): part.data for part in parts})
    return parts


def environment(server: S3Server, directory: Path) -> dict[str, str]:
    """Settings of the project for that server."""
    return {
        **server.env(),
        "QUANTLAB_RAW_URL": f"s3://{RAW}",
        "QUANTLAB_COMPACT_URL": f"s3://{COMPACT}",
        "QUANTLAB_EXCHANGES": REAL_DAY.exchange,
        "QUANTLAB_STREAMS": REAL_DAY.stream,
        "DAGSTER_HOME": str(directory / "dagster-home"),
    }


def compact(server: S3Server, directory: Path, *options: str) -> Measured:
    """`quantlab compact` of the day, end to end."""
    command = [
        sys.executable,
        "-m",
        "quantlab_dagster.cli",
        "compact",
        "--date",
        str(REAL_DAY.day),
        "--json",
        *options,
    ]
    return run_process(command, environment(server, directory), directory)


def plain(parts: str, output: Path, server: S3Server, directory: Path) -> Measured:
    """Polars scan → sort → number → write of the same parts, from a URL or a directory."""
    env = {**server.env(), "PARTS": parts, "OUTPUT": str(output)}
    return run_process([sys.executable, "-c", _PLAIN], env, directory)
