"""The real-size day end to end on SeaweedFS, beside a plain Polars scan → sort → write of the same parts.

Each line is a whole process, from start to exit. Ratios between lines of one run mean something on a shared machine;
absolute times do not. Run it with `make bench`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from quantlab_dagster.synthetic.market import REAL_DAY
from quantlab_dagster_tests import real_day
from quantlab_dagster_tests.servers import seaweedfs

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 3


def main() -> None:
    """Measure every variant in turn, a few rounds, and print the medians."""
    with tempfile.TemporaryDirectory() as name, seaweedfs(Path(name) / "server") as server:
        directory = Path(name)
        print(f"{REAL_DAY.parts:,} parts, {REAL_DAY.rows:,} rows; median of {_ROUNDS} rounds, whole processes")
        parts = real_day.upload(server)
        local = directory / "parts"
        local.mkdir()
        for part in parts:
            (local / part.name).write_bytes(part.data)
        del parts
        url = f"s3://{real_day.RAW}/{real_day.SYMBOL_DAY.prefix.rstrip('/')}"
        output = directory / "plain.parquet"
        variants: dict[str, Callable[[], real_day.Measured]] = {
            "quantlab compact (S3 → audited, published on S3)": lambda: real_day.compact(
                server, directory, "--overwrite"
            ),
            "plain Polars (S3 → local file)": lambda: real_day.plain(url, output, server, directory),
            "plain Polars (local parts → local file)": lambda: real_day.plain(str(local), output, server, directory),
        }
        measured: dict[str, list[real_day.Measured]] = {name: [] for name in variants}
        for _ in range(_ROUNDS):
            for variant, run in variants.items():
                measured[variant].append(run())
        base = statistics.median(item.seconds for item in measured["plain Polars (S3 → local file)"])
        for variant, items in measured.items():
            seconds = statistics.median(item.seconds for item in items)
            print(
                f"{variant:50} {seconds:6.2f} s  {seconds / base:5.2f} x plain from S3  "
                f"{statistics.median(item.cpu_seconds for item in items):6.2f} CPU s  "
                f"{max(item.peak_rss_mib for item in items):5.0f} MiB peak RSS  {REAL_DAY.rows / seconds:9,.0f} rows/s"
            )
        [item] = json.loads(measured["quantlab compact (S3 → audited, published on S3)"][-1].output)["symbol_days"]
        print(f"inside: {item['seconds']:.2f} s from plan to publication, {item['data_bytes']:,} bytes written")


if __name__ == "__main__":
    main()
