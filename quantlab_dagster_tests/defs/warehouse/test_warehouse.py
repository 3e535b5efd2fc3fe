"""The event lake in Dagster: the asset of its hours, the job of the schedule, checks, metadata and metrics."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.names import HOURLY_PRIORITY
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import Settings, load_settings
from quantlab_dagster.synthetic.warehouse import corrupt_event_file
from quantlab_dagster.warehouse import compact as compact_module
from quantlab_dagster.warehouse.slot import Slot
from quantlab_dagster.work.merging import Merging
from quantlab_dagster_tests import in_child
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.dead_runs import LIVING, killed, put_run
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, PARTITION, SOON, EventLake, rows_of, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVENTS = dg.AssetKey(["warehouse", "events"])
LABELS = ("lake", "target", "result")
KEY = "2026-01-15-10:00"
ALL_WELL = {
    "order_and_losslessness_audited": True,
    "no_corrupt_files": True,
    "no_unfinished_plans": True,
    "no_hours_of_small_files": True,
    "every_file_explained": True,
    "every_file_readable": True,
}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lake(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> EventLake:
    return _configured(EventLake.of(rig), monkeypatch)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLake:
    return _configured(EventLake.of(Rig("local", None, tmp_path)), monkeypatch)


def _configured(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> EventLake:
    directory = lake.scratch.parent
    (directory / "lakes").mkdir(exist_ok=True)
    lake = EventLake(lake.rig, lake.rig.new_url() if lake.rig.server else str(directory / "lakes"), lake.scratch)
    variables = {
        "WAREHOUSE_URL": lake.url,
        "QUANTLAB_SCRATCH_DIR": str(lake.scratch),
        "QUANTLAB_METRICS_FILE": str(directory / "quantlab.prom"),
        **lake.rig.env(),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return lake


def clock_at(now: dt.datetime) -> Callable[[], dt.datetime]:
    return lambda: now


def run_job(
    instance: dg.DagsterInstance,
    *,
    now: dt.datetime = SOON,
    settings: Settings | None = None,
    config: dict[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """The schedule's job."""
    job = build_definitions(settings or load_settings(), clock=clock_at(now)).resolve_job_def("compact_warehouse")
    run_config = {"ops": {"compact_cold_hours": {"config": config}}} if config else {}
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


def materialise(
    instance: dg.DagsterInstance, *hours: str, now: dt.datetime = SOON, config: dict[str, Any] | None = None
) -> dg.ExecuteInProcessResult:
    """The asset, as the UI does: one partition, or a range in one run."""
    definitions = build_definitions(load_settings(), clock=clock_at(now))
    job = definitions.resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": hours[0], "dagster/asset_partition_range_end": hours[-1]}
    options: dict[str, Any] = {"partition_key": hours[0]} if len(hours) == 1 else {"tags": tags}
    return job.execute_in_process(
        instance=instance,
        asset_selection=[EVENTS],
        run_config={"ops": {"warehouse__events": {"config": config}}} if config else {},
        raise_on_error=False,
        **options,
    )


def materialised(instance: dg.DagsterInstance) -> list[str]:
    return sorted(instance.get_materialized_partitions(EVENTS))


def metadata_of(instance: dg.DagsterInstance, partition: str = KEY) -> dict[str, Any]:
    records = instance.fetch_materializations(dg.AssetRecordsFilter(EVENTS, asset_partitions=[partition]), limit=1)
    materialization = records.records[0].asset_materialization
    assert materialization is not None
    return {
        name: [record.data for record in value.records] if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in materialization.metadata.items()
    }


def checks_of(instance: dg.DagsterInstance) -> dict[str, bool]:
    keys = [dg.AssetCheckKey(EVENTS, name) for name in ALL_WELL]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    return {key.name: record.status.value == "SUCCEEDED" for key, record in latest.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data is not None
    return event.step_failure_data.user_failure_data.description or ""


def metrics(lake: EventLake) -> dict[tuple[str, ...], float]:
    """Metrics by name and label values."""
    text = (lake.scratch.parent / "quantlab.prom").read_text()
    return {
        (
            sample.name.removeprefix("quantlab_compaction_"),
            *(sample.labels[name] for name in LABELS if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# ---- the job of the schedule -----------------------------------------------------------------------------------------


def test_the_job_compacts_every_cold_hour_and_records_each(lake: EventLake, instance: dg.DagsterInstance) -> None:
    original = []
    for app in ("demo", "shop"):
        for hours in (0, 1, 30):
            original += lake.put_spec(spec(app=app, hour=HOUR - hours * LATER, files=5, rows=100))
    current = spec(hour=HOUR + LATER)
    original += lake.put_spec(current)
    result = run_job(instance)
    assert result.success
    assert materialised(instance) == ["2026-01-14-04:00", "2026-01-15-09:00", KEY]
    metadata = metadata_of(instance)
    assert (metadata["files merged"], metadata["files written"], metadata["rows"]) == (10, 2, 200)
    assert metadata["bytes in"] > metadata["bytes out"] > 0
    assert metadata["rows seen twice (s)"] > 0
    assert {row["app"] for row in metadata["apps"]} == {"demo", "shop"}
    assert checks_of(instance) == ALL_WELL
    assert lake.rows() == rows_of(original)
    assert len(lake.objects()) == 6 + 4, "the current hour is as it was"

    counted = metrics(lake)
    assert counted["runs_total", "events", "warehouse/events", "success"] == 1
    assert counted["input_files_total", "events", "warehouse/events"] == 30
    assert counted["output_files_total", "events", "warehouse/events"] == 6
    assert counted["rows_total", "events", "warehouse/events"] == 600
    assert counted["partitions_total", "events", "warehouse/events", "compacted"] == 6

    again = run_job(instance)
    assert again.success
    assert not [event for event in again.all_events if event.is_step_materialization]
    assert metrics(lake)["partitions_total", "events", "warehouse/events", "skipped"] == 6


def test_one_failing_partition_is_visible_and_stops_no_other(local: EventLake, instance: dg.DagsterInstance) -> None:
    local.put_spec(spec())
    local.put_spec(spec(hour=HOUR - LATER))
    asyncio.run(local.store.put(PARTITION.slot_key, b"what is this"))
    result = run_job(instance, now=SOON + 2 * LATER)
    assert not result.success
    assert "1 of 2 hours failed" in failure_of(result)
    assert PARTITION.slot_key in failure_of(result)
    assert materialised(instance) == ["2026-01-15-09:00"]
    assert checks_of(instance) == {**ALL_WELL, "no_unfinished_plans": False, "no_hours_of_small_files": False}
    assert metrics(local)["runs_total", "events", "warehouse/events", "failure"] == 1
    assert metrics(local)["partitions_total", "events", "warehouse/events", "failed"] == 1


def test_corrupt_files_are_shown_and_the_hour_is_done(local: EventLake, instance: dg.DagsterInstance) -> None:
    local.put_spec(spec())
    bad = corrupt_event_file(spec())
    local.put(PARTITION, [bad])
    assert run_job(instance).success
    [row] = metadata_of(instance)["corrupt files"]
    assert row["file"] == bad.name
    assert checks_of(instance) == {**ALL_WELL, "no_corrupt_files": False}
    assert metrics(local)["partitions_total", "events", "warehouse/events", "quarantined"] == 1
    assert run_job(instance).success
    assert checks_of(instance) == {**ALL_WELL, "no_corrupt_files": False}, "it is still there"


@pytest.mark.guards("check-for-proof")
def test_a_file_that_is_not_proved_replaces_nothing(
    local: EventLake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = local.put_spec(spec())

    in_child.happens(monkeypatch, in_child.audit_fails, "a row is missing")
    result = run_job(instance)
    assert "a row is missing" in failure_of(result)
    assert not checks_of(instance)["order_and_losslessness_audited"]
    assert local.rows() == rows_of(original)
    assert len(local.names()) == 4
    assert local.staged() == []
    assert materialised(instance) == []


def test_a_lake_that_cannot_be_listed_fails_the_run(
    local: EventLake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", "s3://bucket/events")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    result = run_job(instance)
    assert "AWS_SECRET_ACCESS_KEY" in failure_of(result)
    assert metrics(local)["runs_total", "events", "warehouse/events", "failure"] == 1


def test_the_job_can_be_restricted_and_can_recover_only(local: EventLake, instance: dg.DagsterInstance) -> None:
    for app in ("demo", "shop"):
        for hours in (0, 1):
            local.put_spec(spec(app=app, hour=HOUR - hours * LATER))
    assert run_job(instance, config={"recover_only": True}).success
    assert len(local.objects()) == 16
    assert run_job(
        instance, config={"apps": ["shop"], "first_hour": "2026-01-15T10", "last_hour": "2026-01-15T10"}
    ).success
    assert len(local.objects()) == 13
    assert materialised(instance) == [], "an hour of some apps is not a compacted hour"
    observed = instance.fetch_observations(dg.AssetRecordsFilter(EVENTS), limit=9).records
    assert [record.partition_key for record in observed] == [KEY]


def test_what_an_interrupted_run_has_done_is_recorded(
    local: EventLake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in range(4):
        local.put_spec(spec(hour=HOUR - hours * LATER))
    monkeypatch.setattr(compact_module, "_HOURS_AT_ONCE", 1)
    build, count = Merging.build, itertools.count(1)

    async def interrupted(self: Merging, *arguments: Any, **options: Any) -> Any:
        if next(count) == 3:
            raise KeyboardInterrupt
        return await build(self, *arguments, **options)

    monkeypatch.setattr(Merging, "build", interrupted)
    with suppress(BaseException):  # what Dagster makes of it
        run_job(instance)
    assert len(materialised(instance)) == 2
    assert metrics(local)["runs_total", "events", "warehouse/events", "failure"] == 1


def test_a_local_lake_that_is_not_there_is_no_empty_lake(
    local: EventLake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", str(local.scratch / "evnts"))
    assert "this local lake does not exist" in failure_of(run_job(instance))


# ---- the asset -------------------------------------------------------------------------------------------------------


def test_an_hour_is_materialised(lake: EventLake, instance: dg.DagsterInstance) -> None:
    original = lake.put_spec(spec()) + lake.put_spec(spec(hour=HOUR - LATER))
    assert materialise(instance, KEY).success
    assert materialised(instance) == [KEY]
    assert metadata_of(instance)["files merged"] == 4
    assert len(lake.objects()) == 5
    assert lake.rows() == rows_of(original)
    assert materialise(instance, KEY).success
    assert metadata_of(instance)["files merged"] == 0
    assert metadata_of(instance)["summary"] == "nothing to merge"


def test_a_range_of_hours_is_one_run(local: EventLake, instance: dg.DagsterInstance) -> None:
    for hours in (0, 1, 3):
        local.put_spec(spec(hour=HOUR - hours * LATER))
    result = materialise(instance, "2026-01-15-06:00", KEY)
    assert result.success
    assert materialised(instance) == [f"2026-01-15-{hour:02d}:00" for hour in range(6, 11)]
    assert metadata_of(instance, "2026-01-15-07:00")["files merged"] == 4
    assert metadata_of(instance, "2026-01-15-08:00")["files merged"] == 0
    assert len(local.objects()) == 3
    assert checks_of(instance) == ALL_WELL


def test_an_hour_that_fails_is_not_materialised_but_the_others_of_the_run_are(
    local: EventLake, instance: dg.DagsterInstance
) -> None:
    for hours in (0, 1):
        local.put_spec(spec(hour=HOUR - hours * LATER))
    asyncio.run(local.store.put(PARTITION.slot_key, b"what is this"))
    result = materialise(instance, "2026-01-15-09:00", KEY)
    assert not result.success
    assert materialised(instance) == ["2026-01-15-09:00"]


def test_the_current_hour_is_refused_without_retries(local: EventLake, instance: dg.DagsterInstance) -> None:
    local.put_spec(spec())
    result = materialise(instance, KEY, now=HOUR + dt.timedelta(minutes=59))
    assert not result.success
    assert "2026-01-15T10 is not over yet" in failure_of(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert len(local.names()) == 4


def test_an_hour_that_another_compactor_has_is_not_done(local: EventLake, instance: dg.DagsterInstance) -> None:
    """A run for that hour which succeeds without it would end its backfill as failed, and not say why."""
    for hours in (0, 1):
        local.put_spec(spec(hour=HOUR - hours * LATER))
    claim = Slot(state="claimed", holder="another", since=SOON)
    asyncio.run(local.store.put(PARTITION.slot_key, claim.dump()))
    result = materialise(instance, "2026-01-15-09:00", KEY)
    assert not result.success
    assert "1 of 2 hours are not done: " in failure_of(result)
    assert "another" in failure_of(result)
    assert materialised(instance) == ["2026-01-15-09:00"]
    assert run_job(instance).success, "the schedule's run is for whatever it finds"


# ---- the schedule ----------------------------------------------------------------------------------------------------


def tick(instance: dg.DagsterInstance, settings: Settings, at: dt.datetime = SOON) -> dg.RunRequest | dg.SkipReason:
    definitions = build_definitions(settings)
    schedule = definitions.resolve_schedule_def("warehouse_compaction")
    assert isinstance(schedule, dg.ScheduleDefinition)
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=at) as context:
        data = schedule.evaluate_tick(context)
    if data.run_requests:
        [request] = data.run_requests
        return request
    return dg.SkipReason(data.skip_message)


def test_the_schedule_asks_for_one_run_unless_disabled_or_still_running(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        check_the_schedule(instance, load_settings())


def check_the_schedule(instance: dg.DagsterInstance, settings: Settings) -> None:
    requested = tick(instance, settings)
    assert isinstance(requested, dg.RunRequest)
    assert requested.tags["dagster/priority"] == HOURLY_PRIORITY
    disabled = tick(instance, settings.model_copy(update={"compaction_enabled": False}))
    assert disabled == dg.SkipReason("COMPACTION_ENABLED is false")
    job = build_definitions(settings).resolve_job_def("compact_warehouse")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    skipped = tick(instance, settings)
    assert isinstance(skipped, dg.SkipReason)
    assert "has not ended" in (skipped.skip_message or "")
    # One that was killed stays "started": it must not hold up what completes its plans.
    assert isinstance(tick(instance, settings, dt.datetime.now(dt.UTC) + 3 * LATER), dg.RunRequest)
    instance.delete_run(run.run_id)
    assert isinstance(tick(instance, settings), dg.RunRequest)


@pytest.mark.guards("dead-run")
def test_the_schedule_waits_for_a_command_that_lives_and_not_for_one_that_was_killed(
    tmp_path: Path,
) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        alive = put_run(instance, LIVING, job="compact_warehouse")
        assert isinstance(tick(instance, load_settings()), dg.SkipReason)
        instance.delete_run(alive)
        dead = put_run(instance, killed(), job="compact_warehouse")
        assert isinstance(tick(instance, load_settings()), dg.RunRequest)
        [run] = instance.get_runs()
        assert (run.run_id, run.status) == (dead, dg.DagsterRunStatus.FAILURE)


@pytest.mark.parametrize(
    ("text", "crons"),
    [("1h", "0 * * * *"), ("30m", "*/30 * * * *"), ("7 3 * * *", "7 3 * * *"), ("90m", None)],
)
def test_the_schedule_follows_its_setting(text: str, crons: str | None) -> None:
    schedule = build_definitions(Settings(COMPACTION_SCHEDULE=text)).resolve_schedule_def("warehouse_compaction")
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.cron_schedule == crons if crons else len(schedule.cron_schedule) == 2


@pytest.mark.guards("event-setting-stops-all")
def test_a_cron_string_that_dagster_does_not_take_stops_the_event_lake_only(tmp_path: Path) -> None:
    wrong = Settings(COMPACTION_SCHEDULE="99 * * * *")
    definitions = build_definitions(wrong)
    assert definitions.resolve_job_def("compact_day"), "the other lake goes on"
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        pytest.raises(
            (SettingsError, dg.DagsterError), match=r"COMPACTION_SCHEDULE: '99 \* \* \* \*' is not a cron string"
        ),
    ):
        tick(instance, wrong)


def test_disabled_stops_the_schedule_and_not_the_job(local: EventLake, instance: dg.DagsterInstance) -> None:
    local.put_spec(spec())
    assert run_job(instance, settings=Settings(COMPACTION_ENABLED=False)).success
    assert len(local.names()) == 1
