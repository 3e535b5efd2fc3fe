"""The fixed names: renaming an asset, a job or a partition is a decision, not an accident."""

from __future__ import annotations

import dagster as dg
import pytest

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.names import configured_pairs
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import Settings, load_settings

EXCHANGES = ("binance", "bybit", "okx")
EVENTS = dg.AssetKey(["warehouse", "events"])
STREAMS = ("bbo", "funding", "mark_price", "open_interest", "trade")


def test_asset_keys_groups_and_dependencies() -> None:
    graph = build_definitions(load_settings()).resolve_asset_graph()
    expected = {
        f"{layer}/{exchange}/{stream}" for layer in ("raw", "compact") for exchange in EXCHANGES for stream in STREAMS
    } | {"compact/state", "warehouse/events"}
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == expected
    for exchange in EXCHANGES:
        for stream in STREAMS:
            node = graph.get(dg.AssetKey(["compact", exchange, stream]))
            assert node.group_name == "quantlab"
            assert node.parent_keys == {dg.AssetKey(["raw", exchange, stream])}
            assert node.is_executable
            assert not graph.get(dg.AssetKey(["raw", exchange, stream])).is_executable
    events = graph.get(dg.AssetKey(["warehouse", "events"]))
    assert events.group_name == "warehouse"
    assert events.is_executable
    assert not events.parent_keys


@pytest.mark.guards("local-time")
def test_partitions_are_utc_days() -> None:
    graph = build_definitions(load_settings()).resolve_asset_graph()
    for key in graph.get_all_asset_keys() - {EVENTS}:
        partitions = graph.get(key).partitions_def
        assert isinstance(partitions, dg.DailyPartitionsDefinition)
        assert partitions.timezone == "UTC"
        assert partitions.end_offset == 0
        assert partitions.fmt == "%Y-%m-%d"


def test_partitions_of_events_are_utc_hours() -> None:
    partitions = build_definitions(load_settings()).resolve_asset_graph().get(EVENTS).partitions_def
    assert isinstance(partitions, dg.HourlyPartitionsDefinition)
    assert (partitions.timezone, partitions.end_offset, partitions.fmt) == ("UTC", 0, "%Y-%m-%d-%H:%M")


def test_jobs_checks_and_resources() -> None:
    definitions = build_definitions(load_settings())
    jobs = {job.name for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")}
    assert jobs == {"compact_day", "compact_symbols", "compact_warehouse"}
    job = definitions.resolve_job_def("compact_day")
    steps = {f"compact__{exchange}__{stream}" for exchange in EXCHANGES for stream in STREAMS} | {"compact__state"}
    assert {node.name for node in job.nodes} == steps
    assert set(definitions.resources or {}) == {"raw_lake", "compact_lake", "warehouse", "limits", "clock", "meter"}
    checks = {key.name for key in definitions.resolve_asset_graph().asset_check_keys}
    assert checks == {
        "order_and_losslessness_audited",
        "nothing_quarantined",
        "freshness",
        "not_stale",
        "no_unclaimed_raw_prefix",
        "nothing_failed",
        "state_understood",
        "no_corrupt_files",
        "no_unfinished_plans",
        "no_hours_of_small_files",
        "every_file_explained",
    }
    schedules = [schedule for schedule in definitions.schedules or () if isinstance(schedule, dg.ScheduleDefinition)]
    assert [(schedule.name, schedule.cron_schedule, schedule.job_name) for schedule in schedules] == [
        ("daily_compaction", "30 2 * * *", "compact_day"),
        ("warehouse_compaction", "0 * * * *", "compact_warehouse"),
    ]
    assert {schedule.execution_timezone for schedule in schedules} == {"UTC"}
    assert {schedule.default_status for schedule in schedules} == {dg.DefaultScheduleStatus.STOPPED}
    [sensor] = definitions.sensors or ()
    assert (sensor.name, sensor.default_status) == ("catch_up", dg.DefaultSensorStatus.STOPPED)


def test_names_are_made_fit_for_dagster_and_collisions_are_refused() -> None:
    settings = Settings(QUANTLAB_EXCHANGES="kraken-futures,bit.get", QUANTLAB_STREAMS="bbo")
    assert {key.to_user_string() for key in configured_pairs(settings)} == {
        "compact/kraken_futures/bbo",
        "compact/bit_get/bbo",
    }
    build_definitions(settings)
    clash = Settings(QUANTLAB_EXCHANGES="a-b,a_b", QUANTLAB_STREAMS="bbo")
    with pytest.raises(SettingsError, match="would both become the asset compact/a_b/bbo"):
        build_definitions(clash)
