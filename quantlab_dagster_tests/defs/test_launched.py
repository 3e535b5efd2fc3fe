"""A run that was launched for one lake never works on another, and a daemon with old settings asks for no runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.launched import settings_guard
from quantlab_dagster.defs.meter import MARKET_DATA, Meter
from quantlab_dagster.defs.names import WAREHOUSE_JOB
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.daemon import configured_instance

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / name / "events").mkdir(parents=True)
        (tmp_path / name / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUANTLAB_SCRATCH_DIR", str(tmp_path))
    configure("a")


def configure(name: str) -> None:
    """What an operator does to a deployment that is running."""
    with open("quantlab.env", "w", encoding="utf-8") as file:  # noqa: PTH123 - in the working directory, as operators do
        file.write(f"QUANTLAB_RAW_URL={name}/raw\nQUANTLAB_COMPACT_URL={name}/compact\nWAREHOUSE_URL={name}/events\n")


def job(name: str) -> dg.JobDefinition:
    """As a process that begins now has it."""
    return build_definitions(load_settings()).resolve_job_def(name)


def run_launched_for(lake: str, *, executed_with: str, run_config: dict[str, Any] | None = None) -> tuple[bool, str]:
    """Whether the run succeeded, and what its log says."""
    with configured_instance() as instance:
        configure(lake)
        run = instance.create_run_for_job(job(WAREHOUSE_JOB), run_config=run_config)
        configure(executed_with)
        done = execute_run(InMemoryJob(job(WAREHOUSE_JOB)), run, instance)
        text = "\n".join(str(entry.dagster_event) for entry in instance.all_logs(run.run_id))
        return done.success, text


@pytest.mark.guards("two-lakes-at-once")
def test_a_run_for_another_lake_is_refused_before_it_does_anything(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    success, text = run_launched_for("a", executed_with="b")
    assert not success
    assert "of this run's process is b/events, but the run was launched for a/events" in text
    assert "Reload the code location" in text
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "quantlab.env"] == [
        path for path in before if path.name != "quantlab.env"
    ]


def test_a_run_for_the_same_lakes_works() -> None:
    assert run_launched_for("b", executed_with="b")[0]


def test_a_lake_that_the_run_itself_names_is_meant() -> None:
    config = {"resources": {"warehouse": {"config": {"lake": "warehouse", "url": "b/events", "server": ""}}}}
    assert run_launched_for("a", executed_with="b", run_config=config)[0]


@pytest.mark.guards("two-lakes-at-once")
def test_another_server_is_another_lake(monkeypatch: pytest.MonkeyPatch) -> None:
    with configured_instance() as instance:
        monkeypatch.setenv("WAREHOUSE_URL", "s3://events")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret@127.0.0.1:1")
        run = instance.create_run_for_job(job(WAREHOUSE_JOB))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
        done = execute_run(InMemoryJob(job(WAREHOUSE_JOB)), run, instance)
        text = "\n".join(str(entry.dagster_event) for entry in instance.all_logs(run.run_id))
    assert not done.success
    assert "is s3://events at http://127.0.0.1:2, but the run was launched for s3://events at" in text
    assert "secret" not in text


@pytest.mark.guards("two-lakes-at-once")
def test_a_schedule_of_a_daemon_with_old_settings_asks_for_no_run() -> None:
    for name, said in (
        ("daily_compaction", "the raw lake was a/raw and is b/raw"),
        ("warehouse_compaction", "the warehouse lake was a/events and is b/events"),
    ):
        configure("a")
        definitions = build_definitions(load_settings())
        schedule, repository = definitions.resolve_schedule_def(name), definitions.get_repository_def()
        assert isinstance(schedule, dg.ScheduleDefinition)
        with (
            configured_instance() as instance,
            dg.build_schedule_context(
                instance, scheduled_execution_time=utc_now(), repository_def=repository
            ) as context,
        ):
            assert len(schedule.evaluate_tick(context).run_requests or ()) == 1
            configure("b")
            with pytest.raises((SettingsError, dg.DagsterError)) as caught:
                schedule.evaluate_tick(context)
        assert said in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.guards("two-lakes-at-once")
def test_what_means_the_same_or_concerns_others_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    market, events = settings_guard("raw", "compact"), settings_guard("warehouse")
    monkeypatch.setenv("QUANTLAB_RAW_URL", "a/raw/")
    market()
    monkeypatch.setenv("WAREHOUSE_URL", "b/events")
    market()
    with pytest.raises(SettingsError, match="the warehouse lake was a/events and is b/events"):
        events()
    monkeypatch.setenv("WAREHOUSE_URL", "a/events/")
    events()
    monkeypatch.setenv("WAREHOUSE_SLOTS_URL", "b/slots")  # two places of slots: the same hour could be merged twice
    with pytest.raises(SettingsError, match="the place of the slots was in the event lake and is b/slots"):
        events()


@pytest.mark.guards("two-lakes-at-once")
def test_catch_up_of_a_daemon_with_old_settings_asks_for_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    definitions = build_definitions(load_settings())
    sensor = definitions.resolve_sensor_def("catch_up")
    assert isinstance(sensor, dg.SensorDefinition)
    judged: list[str] = []
    monkeypatch.setattr(Meter, "cannot_judge", lambda _, lake: judged.append(lake))
    with configured_instance() as instance:
        resources = dict(definitions.resources or {})
        configure("b")
        with (
            dg.build_sensor_context(instance, resources=resources, definitions=definitions) as context,
            pytest.raises((SettingsError, dg.DagsterError)) as caught,
        ):
            sensor.evaluate_tick(context)
    assert "the compact lake was a/compact and is b/compact" in f"{caught.value} {caught.value.__cause__}"
    assert judged == [MARKET_DATA], "no gauge says that all is well any more"
