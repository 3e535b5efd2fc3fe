"""The first system's names for the same counters, and a histogram that outlives its process."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.metrics import MetricsTarget, RunCounts, record_run

if TYPE_CHECKING:
    from pathlib import Path

NOW = dt.datetime(2026, 1, 15, 11, tzinfo=dt.UTC)
MARKET = RunCounts("market_data", "binance/bbo", succeeded=True, seconds=7, files_in=1000, partitions={"skipped": 9})


def events(seconds: float, *, succeeded: bool = True) -> RunCounts:
    return RunCounts(
        "events",
        "warehouse/events",
        succeeded=succeeded,
        seconds=seconds,
        files_in=40,
        files_out=2,
        bytes_in=5000,
        bytes_out=4000,
        partitions={"compacted": 1, "skipped": 3},
    )


def written(file: Path) -> dict[str, float]:
    samples = (line.rsplit(" ", 1) for line in file.read_text().splitlines() if line.startswith("compaction_"))
    return {name: float(value) for name, value in samples}


def test_they_count_the_event_lake_alone(tmp_path: Path) -> None:
    target = MetricsTarget(tmp_path / "x.prom", aliases=True)
    for counts in (events(3.0), MARKET, events(70.0, succeeded=False)):
        record_run(target, counts, NOW)
    found = written(target.file)
    assert {name: value for name, value in found.items() if "duration" not in name} == {
        "compaction_runs_total": 2,
        "compaction_files_compacted_total": 80,
        "compaction_files_written_total": 4,
        "compaction_bytes_written_total": 8000,
        "compaction_partitions_skipped_total": 6,
    }
    buckets = {name.split('"')[1]: value for name, value in found.items() if "_bucket" in name}
    assert buckets == {
        **dict.fromkeys(("1.0",), 0),
        **dict.fromkeys(("5.0", "15.0", "30.0", "60.0"), 1),
        **dict.fromkeys(("120.0", "300.0", "600.0", "1800.0", "3600.0", "+Inf"), 2),
    }
    assert (found["compaction_duration_seconds_sum"], found["compaction_duration_seconds_count"]) == (73, 2)


def test_without_the_setting_they_are_not_there(tmp_path: Path) -> None:
    target = MetricsTarget(tmp_path / "x.prom")
    record_run(target, events(3.0), NOW)
    assert written(target.file) == {}


@pytest.mark.parametrize("damage", ["NaN", "-1"])
def test_a_histogram_that_makes_no_sense_is_moved_aside(tmp_path: Path, damage: str) -> None:
    target = MetricsTarget(tmp_path / "x.prom", aliases=True)
    record_run(target, events(3.0), NOW)
    text = target.file.read_text()
    target.file.write_text(
        text.replace("compaction_duration_seconds_sum 3.0", f"compaction_duration_seconds_sum {damage}")
    )
    record_run(target, events(4.0), NOW)
    assert written(target.file)["compaction_duration_seconds_sum"] == 4
    assert (tmp_path / "x.prom.bad").exists()
