"""Backfills, as Dagster's daemon does them: they end as what they are, and begin at once."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from quantlab_dagster.defs.names import EVENTS_ASSET, STATE_ASSET, SYMBOLS_JOB, SYMBOLS_OP
from quantlab_dagster.defs.warehouse.asset import HOURS_PER_RUN
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.daemon import (
    backfill_ended,
    configured_instance,
    iterate_backfills,
    put_backfill,
    workspace_of,
)
from quantlab_dagster_tests.lakes import Lakes, spec, symbol_day
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, PARTITION, EventLake
from quantlab_dagster_tests.warehouse.event_lakes import spec as hour_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dagster._core.workspace.context import WorkspaceProcessContext

_LOG = logging.getLogger(__name__)

NOW = dt.datetime(2026, 1, 16, 12, tzinfo=dt.UTC)
BBO, TRADE = (dg.AssetKey(["compact", "binance", stream]) for stream in ("bbo", "trade"))
DAYS = ["2026-01-07", "2026-01-08", "2026-01-09"]


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    events = tmp_path / "events"
    events.mkdir()
    for name, value in {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo,trade",
        "QUANTLAB_START_DATE": "2025-01-01",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "WAREHOUSE_URL": str(events),
    }.items():
        monkeypatch.setenv(name, value)
    return lakes


@pytest.fixture
def events(lakes: Lakes, tmp_path: Path) -> EventLake:
    return EventLake(lakes.rig, str(tmp_path / "events"), lakes.scratch)


@pytest.fixture
def context(lakes: Lakes, tmp_path: Path) -> Iterator[WorkspaceProcessContext]:  # noqa: ARG001  # the settings
    """Runs are launched where they are dequeued, and end there."""
    launcher = {"module": "dagster._core.launcher.sync_in_memory_run_launcher", "class": "SyncInMemoryRunLauncher"}
    with configured_instance(run_launcher=launcher) as instance, workspace_of(instance, tmp_path, NOW) as context:
        yield context


def materialised(context: WorkspaceProcessContext, asset: dg.AssetKey) -> list[str]:
    return sorted(context.instance.get_materialized_partitions(asset))


# ---- days ------------------------------------------------------------------------------------------------------------


def test_days_without_raw_data_end_a_backfill_well(lakes: Lakes, context: WorkspaceProcessContext) -> None:
    """One stream has no prefix at all, one day has nothing: they are materialised with 0 rows."""
    for number in (8, 9):
        lakes.put_spec(spec(day=dt.date(2026, 1, number), parts=2, rows=20))
    backfill = put_backfill(context, [BBO, TRADE, STATE_ASSET], DAYS)
    assert backfill_ended(context, backfill) is BulkActionStatus.COMPLETED_SUCCESS
    for asset in (BBO, TRADE, STATE_ASSET):
        assert materialised(context, asset) == DAYS
    runs = context.instance.get_runs()
    assert sorted(run.tags["dagster/partition"] for run in runs) == DAYS, "one run a day, which says its day"


def test_a_day_that_fails_ends_its_backfill_as_failed(lakes: Lakes, context: WorkspaceProcessContext) -> None:
    for number in (8, 9):
        lakes.put_spec(spec(day=dt.date(2026, 1, number), parts=2, rows=20))
    asyncio.run(lakes.compact.put(symbol_day(day=dt.date(2026, 1, 9)).key("meta.json"), b"no json"))
    backfill = put_backfill(context, [BBO, STATE_ASSET], DAYS)
    assert backfill_ended(context, backfill) is BulkActionStatus.COMPLETED_FAILED
    assert materialised(context, BBO) == DAYS[:2]


@pytest.mark.guards("restricted-run-backfill")
def test_the_assets_take_no_symbols(lakes: Lakes, context: WorkspaceProcessContext) -> None:
    """A run of an asset that is restricted would succeed and materialise nothing: no run of it is made at all."""
    lakes.put_spec(spec(day=dt.date(2026, 1, 8), parts=2, rows=20))
    config = {"ops": {"compact__binance__bbo": {"config": {"symbols": ["adausdt"]}}}}
    put_backfill(context, [BBO], ["2026-01-08"], config)
    with pytest.raises(AssertionError, match='unexpected config entry "symbols"'):
        iterate_backfills(context)
    assert context.instance.get_runs() == []
    assert lakes.compact_keys() == {}


@pytest.mark.guards("restricted-run-backfill")
def test_the_job_of_symbols_can_be_launched_over_days(lakes: Lakes, context: WorkspaceProcessContext) -> None:
    """From its page: a backfill of a job looks at runs, not at what they materialise."""
    for number in (8, 9):
        for symbol in ("adausdt", "btcusdt"):
            lakes.put_spec(spec(symbol, day=dt.date(2026, 1, number), parts=2, rows=20))
    [location] = context.create_request_context().code_locations
    [repository] = location.get_repositories().values()
    [partition_set] = [item for item in repository.get_partition_sets() if item.job_name == SYMBOLS_JOB]
    context.instance.add_backfill(
        PartitionBackfill(
            backfill_id="symbols",
            partition_set_origin=partition_set.get_remote_origin(),
            status=BulkActionStatus.REQUESTED,
            partition_names=DAYS[1:],
            from_failure=False,
            reexecution_steps=None,
            tags={},
            backfill_timestamp=NOW.timestamp(),
            run_config={"ops": {SYMBOLS_OP: {"config": {"symbols": ["adausdt"]}}}},
        )
    )
    assert backfill_ended(context, "symbols") is BulkActionStatus.COMPLETED_SUCCESS
    published = {key for key in lakes.compact_keys() if key.endswith("/meta.json")}
    assert published == {symbol_day(day=dt.date(2026, 1, number)).key("meta.json") for number in (8, 9)}
    assert materialised(context, BBO) == []
    observed = context.instance.fetch_observations(dg.AssetRecordsFilter(BBO), limit=9).records
    assert sorted(str(record.partition_key) for record in observed) == DAYS[1:]


# ---- hours -----------------------------------------------------------------------------------------------------------


def hours_up_to(key: str, number: int) -> list[str]:
    last = dt.datetime.strptime(key, "%Y-%m-%d-%H:%M").replace(tzinfo=dt.UTC)
    return [f"{last - back * LATER:%Y-%m-%d-%H:%M}" for back in reversed(range(number))]


def test_hours_are_one_run_a_week_and_each_hour_is_materialised(
    events: EventLake, context: WorkspaceProcessContext
) -> None:
    for back in (0, 1, HOURS_PER_RUN):
        events.put_spec(hour_spec(hour=HOUR - back * LATER))
    hours = hours_up_to("2026-01-15-10:00", HOURS_PER_RUN + 2)
    backfill = put_backfill(context, [EVENTS_ASSET], hours)
    assert backfill_ended(context, backfill) is BulkActionStatus.COMPLETED_SUCCESS
    assert len(context.instance.get_runs()) == 2
    assert materialised(context, EVENTS_ASSET) == hours
    assert len(events.objects()) == 3


def test_an_hour_that_fails_hides_no_other_one(events: EventLake, context: WorkspaceProcessContext) -> None:
    for back in range(3):
        events.put_spec(hour_spec(hour=HOUR - back * LATER))
    asyncio.run(events.store.put(PARTITION.slot_key, b"what is this"))
    hours = hours_up_to("2026-01-15-10:00", 3)
    backfill = put_backfill(context, [EVENTS_ASSET], hours)
    assert backfill_ended(context, backfill) is BulkActionStatus.COMPLETED_FAILED
    assert materialised(context, EVENTS_ASSET) == hours[:2]
    [run] = context.instance.get_runs()
    [failure] = context.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert failure.dagster_event
    assert "1 of 3 hours failed: " in str(failure.dagster_event.step_failure_data.user_failure_data)
    found = context.instance.get_backfill(backfill)
    assert found
    data: Any = found.get_asset_backfill_data(context.create_request_context().asset_graph)
    failed = data.failed_and_downstream_subset.iterate_asset_partitions()
    assert [str(partition.partition_key) for partition in failed] == [hours[2]]


def test_a_year_of_hours_begins_with_its_first_week(context: WorkspaceProcessContext) -> None:
    """Making a run costs some milliseconds an hour, so the first one must not be of all of them."""
    hours = hours_up_to("2026-01-15-10:00", 3 * HOURS_PER_RUN)
    put_backfill(context, [EVENTS_ASSET], hours)
    iterate_backfills(context)
    ranges = {
        (run.tags["dagster/asset_partition_range_start"], run.tags["dagster/asset_partition_range_end"])
        for run in context.instance.get_runs()
    }
    assert ranges == {(hours[first], hours[first + HOURS_PER_RUN - 1]) for first in range(0, len(hours), HOURS_PER_RUN)}
    assert HOURS_PER_RUN * 0.03 < 10, "seconds until the first is made, on a slow disk"


@pytest.mark.slow
def test_the_first_run_of_a_year_of_hours_begins_within_seconds(
    context: WorkspaceProcessContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Submitted(BaseException):
        """The first run of all: nothing else is made."""

    def submitted(*_: Any, **__: Any) -> None:
        raise Submitted

    monkeypatch.setattr(type(context.instance), "submit_run", submitted)
    put_backfill(context, [EVENTS_ASSET], hours_up_to("2026-01-15-10:00", 365 * 24))
    begun = time.process_time()
    with pytest.raises(Submitted):
        iterate_backfills(context)
    seconds = time.process_time() - begun
    _LOG.info("the first run of a year is there after %.1f s of CPU", seconds)
    assert seconds < 15
