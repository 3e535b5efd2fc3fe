"""Merge one made-up day in a process of its own, and print what came out as JSON.

python -m quantlab_dagster_tests.kernel.one_merge BUDGET_BYTES STRIDE DIRECTORY (bytes|paths)
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import sys
from pathlib import Path

from quantlab_dagster.kernel import writer
from quantlab_dagster.synthetic.market import DaySpec, generate_parts
from quantlab_dagster_tests.kernel.building import compact, on_disk, part_from

_KEEP = 512  # the stride with which what was decoded for the survey is kept
_SPEC = DaySpec("binance", "trade", "btcusdt", dt.date(2026, 1, 8), parts=50, rows=110_000)


def one_merge(budget_bytes: int, stride: int, directory: Path, source: str) -> dict[str, object]:
    directory.mkdir(exist_ok=True)
    parts = [part_from(part.name, part.data) for part in sorted(generate_parts(_SPEC), key=lambda part: part.name)]
    if source == "paths":
        parts = [on_disk(part, directory / "parts") for part in parts]
    # More than one row group, and so large that the encoder gives up the dictionary of trade_id within it: how many
    # rows it had taken by then is the trace that a window would leave.
    writer.ROW_GROUP_ROWS = 100_000
    threads, keep = int(os.environ["POLARS_MAX_THREADS"]), stride == _KEEP
    compacted = compact(parts, directory, stride=stride, budget_bytes=budget_bytes, keep=keep, threads=threads)
    merged = compacted.merged
    return {
        "sha256": hashlib.sha256(compacted.data).hexdigest(),
        "rows": merged.rows,
        "windows": merged.windows,
        "distributed": merged.distributed,
    }


if __name__ == "__main__":
    budget, every, place, kind = sys.argv[1:]
    print(json.dumps(one_merge(int(budget), int(every), Path(place), kind)))  # noqa: T201 - this is the answer
