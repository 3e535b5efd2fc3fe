"""Which logs of ticks go: those of ticks that Dagster has deleted, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs import tick_logs
from quantlab_dagster.defs.tick_logs import prune_tick_logs
from quantlab_dagster.settings import Settings
from quantlab_dagster_tests.daemon import configured_instance

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = 3600.0


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with configured_instance() as instance:
        yield instance


def switched_on(instance: dg.DagsterInstance, name: str, location: str = "quantlab") -> InstigatorState:
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="defs.py"), location_name=location)
    instigator = RemoteInstigatorOrigin(RemoteRepositoryOrigin(origin, "__repository__"), name)
    return instance.add_instigator_state(
        InstigatorState(instigator, InstigatorType.SENSOR, InstigatorStatus.RUNNING, None)
    )


def tick(instance: dg.DagsterInstance, sensor: InstigatorState, at: float) -> list[str]:
    """A tick that logged something; returns the key of its log."""
    made = instance.create_tick(
        TickData(
            sensor.instigator_origin_id,
            sensor.instigator_name,
            InstigatorType.SENSOR,
            TickStatus.SKIPPED,
            at,
            selector_id=sensor.selector_id,
        )
    )
    key = ["__repository__", sensor.instigator_name, str(made.tick_id)]
    with instance.compute_log_manager.open_log_stream(key, ComputeIOType.STDERR) as stream:
        assert stream
        stream.write("a day waits")  # type: ignore[call-overload]  # it is one of text
    return key


def forget(instance: dg.DagsterInstance, sensor: InstigatorState, before: float) -> None:
    """As the daemon does, by `retention` in dagster.yaml."""
    instance.purge_ticks(sensor.instigator_origin_id, sensor.selector_id, before)


def logged(instance: dg.DagsterInstance, *keys: list[str]) -> list[bool]:
    return [instance.compute_log_manager.get_log_data(key).stderr is not None for key in keys]


@pytest.mark.guards("tick-logs")
def test_logs_of_ticks_that_are_gone_go_and_the_others_stay(instance: dg.DagsterInstance) -> None:
    catch_up, live = switched_on(instance, "catch_up"), switched_on(instance, "live")
    old, young = tick(instance, catch_up, HOUR), tick(instance, catch_up, 3 * HOUR)
    other = tick(instance, live, HOUR)
    switched_on(instance, "never_logged")
    assert prune_tick_logs(instance) == 0
    assert logged(instance, old, young, other) == [True, True, True]
    forget(instance, catch_up, 2 * HOUR)
    assert prune_tick_logs(instance) == 1
    assert logged(instance, old, young, other) == [False, True, True]
    assert prune_tick_logs(instance) == 0


def test_a_sensor_of_the_same_name_elsewhere_keeps_its_logs(instance: dg.DagsterInstance) -> None:
    """Dagster puts the logs of both into one place."""
    ours, theirs = switched_on(instance, "catch_up"), switched_on(instance, "catch_up", "elsewhere")
    old, kept = tick(instance, ours, HOUR), tick(instance, theirs, HOUR)
    forget(instance, ours, 2 * HOUR)
    assert prune_tick_logs(instance) == 1
    assert logged(instance, old, kept) == [False, True]


def test_a_store_that_keeps_no_logs_is_left_alone() -> None:
    nowhere = {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}
    with configured_instance(compute_logs=nowhere) as instance:
        switched_on(instance, "catch_up")
        assert prune_tick_logs(instance) == 0


def test_another_storage_is_refused(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick_logs, "SqlScheduleStorage", dict)  # of which SQLite's is none
    with pytest.raises(dg.Failure, match=r"SqliteScheduleStorage is no storage .* old ticks by that storage's own"):
        prune_tick_logs(instance)


def test_the_job_prunes_them_too(instance: dg.DagsterInstance) -> None:
    sensor = switched_on(instance, "catch_up")
    gone = tick(instance, sensor, HOUR)
    forget(instance, sensor, 2 * HOUR)
    result = build_definitions(Settings()).resolve_job_def("prune_history").execute_in_process(instance=instance)
    [output] = [event for event in result.all_events if event.is_successful_output]
    assert output.step_output_data.metadata["tick logs"].value == 1
    assert logged(instance, gone) == [False]
