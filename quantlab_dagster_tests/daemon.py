"""Dagster's daemon in this process, step by step, on an instance that dagster.yaml configures."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import yaml  # type: ignore[import-untyped]
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.instance_for_test import instance_for_test
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    import dagster as dg

CONFIGURATION: Final = Path(__file__).parents[1] / "dagster.yaml"
_MOST_ITERATIONS: Final = 40

_DEFINITIONS: Final = """
import datetime as dt
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.settings import load_settings

defs = build_definitions(load_settings(), clock=lambda: dt.datetime.fromisoformat({now!r}))
"""


@contextmanager
def configured_instance(**instead: dict[str, Any]) -> Iterator[dg.DagsterInstance]:
    """A new instance, configured by the dagster.yaml that is shipped, but for these."""
    configuration = {**yaml.safe_load(CONFIGURATION.read_text()), **instead}
    with TemporaryDirectory() as home:
        if "event_log_storage" in instead:
            configuration["event_log_storage"] = {**instead["event_log_storage"], "config": {"base_dir": home}}
        with instance_for_test(overrides=configuration, temp_dir=home) as instance:
            yield instance


@contextmanager
def workspace_of(instance: dg.DagsterInstance, directory: Path, now: dt.datetime) -> Iterator[WorkspaceProcessContext]:
    """The workspace of the definitions for the present settings, with their clock at this time."""
    file = directory / "definitions_of_test.py"
    file.write_text(_DEFINITIONS.format(now=now.isoformat()))
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file=str(file)), location_name="quantlab")
    with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context:
        yield context


def put_backfill(
    context: WorkspaceProcessContext,
    assets: Sequence[dg.AssetKey],
    partitions: Sequence[str],
    run_config: dict[str, Any] | None = None,
) -> str:
    """Ask for these partitions of these assets, as the page does; returns the backfill's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Dagster's own, of Dagster's own call
        backfill = PartitionBackfill.from_asset_partitions(
            backfill_id="backfill",
            asset_graph=context.create_request_context().asset_graph,
            partition_names=partitions,
            asset_selection=assets,
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=context.instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=run_config,
        )
    context.instance.add_backfill(backfill)
    return backfill.backfill_id


def iterate_backfills(context: WorkspaceProcessContext) -> None:
    """What the daemon does with backfills, once."""
    errors = [error for error in execute_backfill_iteration(context, logging.getLogger("backfills")) if error]
    assert not errors, errors


def backfill_ended(context: WorkspaceProcessContext, backfill_id: str) -> BulkActionStatus:
    """Let the daemon look until the backfill has ended."""
    for _ in range(_MOST_ITERATIONS):
        iterate_backfills(context)
        dequeue(context)
        backfill = context.instance.get_backfill(backfill_id)
        assert backfill
        if backfill.status is not BulkActionStatus.REQUESTED:
            return backfill.status
    raise AssertionError("the backfill does not end")


def tick_sensor(context: WorkspaceProcessContext, name: str, at: dt.datetime, *, fails: bool = False) -> None:
    """What the daemon does with a sensor that is on and due, once; what it asks for is in the queue then."""
    [location] = context.create_request_context().code_locations
    [repository] = location.get_repositories().values()
    sensor = repository.get_sensor(name)
    if context.instance.get_instigator_state(sensor.get_remote_origin_id(), sensor.selector_id) is None:
        context.instance.start_sensor(sensor)
    with freeze_time(at):
        errors = list(execute_sensor_iteration(context, logging.getLogger("sensors"), None, None))
    assert fails or not any(errors), errors
    [tick] = context.instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
    assert (tick.error is not None) is fails, tick.error


def dequeue(context: WorkspaceProcessContext) -> None:
    """What the daemon does with the queue, once."""
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
        errors = [error for error in daemon.run_iteration(context) if error]
    assert not errors, errors
