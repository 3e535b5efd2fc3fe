"""The event lake at size: one hour of 2,000 files within the memory budget, and many hours in one run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster_tests import event_load

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster_tests.servers import S3Server

_MIB = 1 << 20


@pytest.mark.guards("memory-grows")
@pytest.mark.slow
def test_two_thousand_files_of_an_hour_within_the_memory_budget(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    [spec] = event_load.hours(1, files=2_000, rows=5_000_000)
    before_bytes = event_load.write_lake(root, [spec])
    before = event_load.query(root, rounds=1)
    done = event_load.compact(str(root), tmp_path, {})
    after = event_load.query(root, rounds=1)
    assert (after.rows, after.answer, after.fingerprint) == (before.rows, before.answer, before.fingerprint)
    sizes = event_load.files_below(root)
    assert before_bytes > 300 * _MIB
    assert all(128 * _MIB <= size <= 256 * _MIB for size in sizes), sizes
    # The default budget is 512 MiB; Python, Dagster, Polars and PyArrow take about 280 MiB before any work is done.
    assert done.peak_rss_mib < 512 + 400
    [outcome] = json.loads(done.output)["hours"]
    assert sum(item["files"] for item in outcome["replacements"]) == 2_000
    again = event_load.compact(str(root), tmp_path, {})
    assert json.loads(again.output)["hours"] == []
    assert event_load.files_below(root) == sizes


@pytest.mark.slow
@pytest.mark.server
def test_many_hours_in_one_run(seaweed: S3Server, tmp_path: Path) -> None:
    seaweed.create_bucket(event_load.BUCKET)
    specs = event_load.hours(60, files=20, rows=400)
    size = event_load.upload_hours(seaweed, specs)
    url = f"s3://{event_load.BUCKET}/events"
    done = event_load.compact(url, tmp_path, seaweed.env())
    outcomes = json.loads(done.output)["hours"]
    replacements = [item for outcome in outcomes for item in outcome["replacements"]]
    assert {outcome["status"] for outcome in outcomes} == {"compacted"}
    assert [item["files"] for item in replacements] == [20] * 60
    assert sum(item["rows"] for item in replacements) == 60 * 400
    assert sum(item["bytes_in"] for item in replacements) == size
    assert json.loads(event_load.compact(url, tmp_path, seaweed.env()).output)["hours"] == []
