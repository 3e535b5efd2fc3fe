"""Merge a day whose file has more than 1 GB, in a process of its own, and print what it took as JSON.

python -m quantlab_dagster_tests.kernel.large_merge BUDGET_BYTES DIRECTORY
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.kernel.merge import merge
from quantlab_dagster.kernel.parts import Part
from quantlab_dagster.kernel.survey import Order, Surveyor

_PARTS, _ROWS, _COLUMNS = 140, 110_000, 10


def large_merge(budget_bytes: int, directory: Path) -> dict[str, object]:
    """Rows of ten floats that do not compress, in parts that overlap by half, on the disk as a large day is."""
    before = _peak_bytes()
    parts = [_part(directory, number) for number in range(_PARTS)]
    surveyor = Surveyor(Order(), budget_bytes=budget_bytes, total_bytes=sum(part.size_bytes for part in parts))
    surveyor.add(parts)
    output = directory / "data.parquet"
    merged = merge(surveyor.finish(), output, scratch=directory, budget_bytes=budget_bytes)
    return {
        "rows": merged.rows,
        "expected_rows": _PARTS * _ROWS,
        "size_bytes": merged.size_bytes,
        "windows": merged.windows,
        "before_bytes": before,
        "peak_bytes": _peak_bytes(),
    }


def _part(directory: Path, number: int) -> Part:
    rng = np.random.default_rng(number)
    ts_event = np.sort(rng.integers(number * _ROWS, (number + 2) * _ROWS, _ROWS))
    columns = {f"c{at}": rng.random(_ROWS) for at in range(_COLUMNS)}
    path = directory / f"part-{number:06}.parquet"
    pq.write_table(pa.table({"ts_event": ts_event, **columns}), path, compression="none", use_dictionary=False)
    return Part(path.name, path, path.stat().st_size)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    budget, place = sys.argv[1:]
    print(json.dumps(large_merge(int(budget), Path(place))))  # noqa: T201 - this is the answer
