"""The event lake: 500 hours of 40 small files, and one hour of 2,000 files, compacted by the schedule's job.

Each run is a whole process, from start to exit. Ratios within one run mean something on a shared machine; absolute
times do not. The answers before and after must be the same. Run it with `make bench`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from quantlab_dagster_tests import event_load
from quantlab_dagster_tests.servers import seaweedfs

if TYPE_CHECKING:
    from quantlab_dagster_tests.real_day import Measured

_HOURS, _FILES, _ROWS = 500, 40, 2_000
_BIG_FILES, _BIG_ROWS = 2_000, 10_000_000
_MIB = 1 << 20


def main() -> None:
    """Both shapes, on a local lake and on SeaweedFS."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        many_hours(directory)
        one_big_hour(directory)


def many_hours(directory: Path) -> None:
    """500 hours of 40 files: before and after."""
    root = directory / "many"
    specs = event_load.hours(_HOURS, files=_FILES, rows=_ROWS)
    print(f"{_HOURS} hours x {_FILES} files, {_HOURS * _ROWS:,} rows")
    event_load.write_lake(root, specs)
    before, files_before = event_load.query(root), event_load.files_below(root)
    done = event_load.compact(str(root), directory, {})
    after, files_after = event_load.query(root), event_load.files_below(root)
    if (before.answer, before.fingerprint) != (after.answer, after.fingerprint):
        sys.exit("the answers differ")
    _report("local lake", done)
    print(f"  files {len(files_before):,} -> {len(files_after):,}, bytes {sum(files_before):,} -> {sum(files_after):,}")
    print(f"  DuckDB over all hours: {before.seconds:.2f} s -> {after.seconds:.2f} s, same answer")
    again = event_load.compact(str(root), directory, {})
    print(f"  a second run: {again.seconds:.2f} s, changed nothing: {event_load.files_below(root) == files_after}")
    with seaweedfs(directory / "server") as server:
        server.create_bucket(event_load.BUCKET)
        event_load.upload_hours(server, specs)
        _report("SeaweedFS", event_load.compact(f"s3://{event_load.BUCKET}/events", directory, server.env()))


def one_big_hour(directory: Path) -> None:
    """2,000 files of one hour into files of 128 to 256 MiB."""
    root = directory / "big"
    [spec] = event_load.hours(1, files=_BIG_FILES, rows=_BIG_ROWS)
    event_load.write_lake(root, [spec])
    before, sizes = event_load.query(root, rounds=1), event_load.files_below(root)
    print(f"one hour of {_BIG_FILES:,} files, {_BIG_ROWS:,} rows, {sum(sizes) / _MIB:,.0f} MiB")
    done = event_load.compact(str(root), directory, {})
    after, sizes = event_load.query(root, rounds=1), event_load.files_below(root)
    if (before.answer, before.fingerprint) != (after.answer, after.fingerprint):
        sys.exit("the answers differ")
    _report("local lake", done)
    print(f"  outputs: {', '.join(f'{size / _MIB:.0f} MiB' for size in sizes)}")
    print(f"  DuckDB over the hour: {before.seconds:.2f} s -> {after.seconds:.2f} s, same answer")


def _report(where: str, done: Measured) -> None:
    outcomes: list[dict[str, Any]] = json.loads(done.output)["hours"]
    replacements = [item for outcome in outcomes for item in outcome["replacements"]]
    status = dict(Counter(outcome["status"] for outcome in outcomes))
    doubled = sorted(item["doubled_seconds"] for item in replacements)
    rows = sum(item["rows"] for item in replacements)
    print(
        f"  {where}: {done.seconds:.1f} s, {done.cpu_seconds:.1f} CPU s, {done.peak_rss_mib:.0f} MiB peak RSS, "
        f"{status}, {rows / done.seconds:,.0f} rows/s"
    )
    median, longest = doubled[len(doubled) // 2], doubled[-1]
    print(f"  rows could be seen twice for {median * 1000:.0f} ms (median), {longest * 1000:.0f} ms (longest)")


if __name__ == "__main__":
    main()
