"""The fixed names: renaming an asset, a job or a partition is a decision, not an accident."""

from __future__ import annotations

import dagster as dg
import pytest

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.names import configured_pairs
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import AUTOMATION, Settings, load_settings

EXCHANGES = ("binance", "bybit", "okx")
DAYS = ("quality/day", "compact/state", "compact/calendar")
EVENTS = dg.AssetKey(["warehouse", "events"])
STREAMS = ("bbo", "funding", "mark_price", "open_interest", "trade")


def test_asset_keys_groups_and_dependencies() -> None:
    graph = build_definitions(load_settings()).resolve_asset_graph()
    expected = {
        f"{layer}/{exchange}/{stream}" for layer in ("raw", "compact") for exchange in EXCHANGES for stream in STREAMS
    } | {"quality/day", "compact/state", "compact/calendar", "warehouse/events"}
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == expected
    for exchange in EXCHANGES:
        for stream in STREAMS:
            node = graph.get(dg.AssetKey(["compact", exchange, stream]))
            assert node.group_name == exchange
            assert node.parent_keys == {dg.AssetKey(["raw", exchange, stream]), dg.AssetKey(["quality", "day"])}
            assert node.is_executable
            raw = graph.get(dg.AssetKey(["raw", exchange, stream]))
            assert raw.group_name == exchange
            assert not raw.is_executable
    groups = {key: graph.get(dg.AssetKey(key.split("/"))).group_name for key in DAYS}
    assert groups == {"quality/day": "quality", "compact/state": "quantlab", "compact/calendar": "quantlab"}
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
    assert jobs == {"compact_day", "compact_symbols", "compact_warehouse", "prune_history"}
    job = definitions.resolve_job_def("compact_day")
    steps = {f"compact__{exchange}__{stream}" for exchange in EXCHANGES for stream in STREAMS} | {
        "quality__day",
        "compact__state",
        "compact__calendar",
    }
    assert {node.name for node in job.nodes} == steps
    assert set(definitions.resources or {}) == {
        "raw_lake",
        "compact_lake",
        "warehouse",
        "limits",
        "clock",
        "meter",
        "alerts",
    }
    checks = {key.name for key in definitions.resolve_asset_graph().asset_check_keys}
    assert checks == {
        "order_and_losslessness_audited",
        "nothing_quarantined",
        "freshness",
        "not_stale",
        "no_unclaimed_raw_prefix",
        "nothing_failed",
        "nothing_silent",
        "state_understood",
        "quality_windows_understood",
        "market_data_plausible",
        "has_data",
        "no_corrupt_files",
        "no_unfinished_plans",
        "no_hours_of_small_files",
        "every_file_explained",
        "every_file_readable",
        "parts_arriving",
    }
    schedules = [schedule for schedule in definitions.schedules or () if isinstance(schedule, dg.ScheduleDefinition)]
    assert [(schedule.name, schedule.cron_schedule, schedule.job_name) for schedule in schedules] == [
        ("daily_compaction", "30 2 * * *", "compact_day"),
        ("warehouse_compaction", "0 * * * *", "compact_warehouse"),
        ("prune_history", "40 5 * * *", "prune_history"),
    ]
    assert {schedule.execution_timezone for schedule in schedules} == {"UTC"}
    assert {schedule.default_status for schedule in schedules} == {dg.DefaultScheduleStatus.STOPPED}
    sensors = [sensor for sensor in definitions.sensors or () if isinstance(sensor, dg.SensorDefinition)]
    assert {(sensor.name, sensor.default_status.value) for sensor in sensors} == {
        ("catch_up", "STOPPED"),
        ("live", "STOPPED"),
        ("check_alerts", "STOPPED"),
        ("run_alerts", "STOPPED"),
    }


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


MARKET = {"daily_compaction", "catch_up", "live"}
HOURLY, PRUNE = "warehouse_compaction", "prune_history"


@pytest.mark.parametrize(
    ("setting", "on"),
    [
        ("", set[str]()),
        ("none", set[str]()),
        ("market", {*MARKET, PRUNE}),
        ("warehouse", {HOURLY, PRUNE}),
        ("all", {*MARKET, HOURLY, PRUNE}),
        ("market, warehouse", {*MARKET, HOURLY, PRUNE}),
        ("catch_up", {"catch_up", PRUNE}),
        ("prune_history", {PRUNE}),
    ],
)
def test_one_setting_says_what_runs_by_itself(setting: str, on: set[str]) -> None:
    definitions = build_definitions(Settings(QUANTLAB_AUTOMATION=setting))
    found = [*(definitions.schedules or ()), *(definitions.sensors or ())]
    running = {
        one.name
        for one in found
        if isinstance(one, dg.ScheduleDefinition | dg.SensorDefinition) and one.default_status.value == "RUNNING"
    }
    assert running == on


def test_every_schedule_and_sensor_but_the_alerts_can_be_switched_by_the_setting() -> None:
    definitions = build_definitions(Settings(QUANTLAB_AUTOMATION="all"))
    found = [*(definitions.schedules or ()), *(definitions.sensors or ())]
    names = {one.name for one in found if isinstance(one, dg.ScheduleDefinition | dg.SensorDefinition)}
    assert names - {"check_alerts", "run_alerts"} == set(AUTOMATION["all"])


def test_a_wrong_schedule_of_the_event_lake_does_not_switch_it_on() -> None:
    settings = Settings(QUANTLAB_AUTOMATION="market", COMPACTION_SCHEDULE="61 * * * *")
    [schedule] = [one for one in build_definitions(settings).schedules or () if getattr(one, "name", "") == HOURLY]
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_word_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_AUTOMATION", "markets")
    with pytest.raises(SettingsError, match="QUANTLAB_AUTOMATION: 'markets' is none of all, catch_up,"):
        load_settings()
