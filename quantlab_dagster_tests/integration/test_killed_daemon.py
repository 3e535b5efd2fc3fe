"""A run that Dagster launched is killed together with what launched it: the next tick ends it, and goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import PythonFileTarget

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.liveness import process_in
from quantlab_dagster.defs.names import WAREHOUSE_JOB
from quantlab_dagster.settings import load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.daemon import configured_instance, dequeue

if TYPE_CHECKING:
    from pathlib import Path

    from dagster._core.workspace.context import WorkspaceProcessContext

pytestmark = pytest.mark.slow

_SECONDS = 120.0

_STUCK_AT_WORK = """
import time
from pathlib import Path
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.settings import load_settings

def stuck():
    Path({mark!r}).touch()
    time.sleep(600)

defs = build_definitions(load_settings(), clock=stuck)
"""


def tick(instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """What the schedule asks for, or why for nothing."""
    schedule = build_definitions(load_settings()).resolve_schedule_def("warehouse_compaction")
    assert isinstance(schedule, dg.ScheduleDefinition)
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=utc_now()) as context:
        data = schedule.evaluate_tick(context)
    return data.run_requests[0] if data.run_requests else str(data.skip_message)


def launch(context: WorkspaceProcessContext) -> str:
    """Put a run into the queue, and let the daemon launch it."""
    [location] = context.create_request_context().code_locations
    [repository] = location.get_repositories().values()
    run = context.instance.create_run_for_job(
        build_definitions(load_settings()).resolve_job_def(WAREHOUSE_JOB),
        remote_job_origin=repository.get_full_job(WAREHOUSE_JOB).get_remote_origin(),
        job_code_origin=repository.get_full_job(WAREHOUSE_JOB).get_python_origin(),
    )
    context.instance.submit_run(run.run_id, context.create_request_context())
    dequeue(context)
    return str(run.run_id)


def test_the_schedule_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lake := tmp_path / "events").mkdir()
    mark, file = tmp_path / "at work", tmp_path / "stuck_at_work.py"
    file.write_text(_STUCK_AT_WORK.format(mark=str(mark)))
    monkeypatch.setenv("WAREHOUSE_URL", str(lake))
    target = PythonFileTarget(python_file=str(file), attribute=None, working_directory=None, location_name="quantlab")
    with (
        configured_instance() as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        run_id = launch(context)
        deadline = time.monotonic() + _SECONDS
        while not mark.exists():
            assert time.monotonic() < deadline, [entry.message for entry in instance.all_logs(run_id)]
            time.sleep(0.1)
        run = instance.get_run_by_id(run_id)
        assert run
        process = process_in(run.tags)
        assert process, "it said in its tags which process it is"
        assert "has not ended" in str(tick(instance)), "it lives"

        worker = psutil.Process(process.pid)
        server = worker.parent()
        assert "dagster" in " ".join(server.cmdline())
        server.kill()  # first: it would say that its run died
        worker.kill()
        psutil.wait_procs([worker, server], timeout=_SECONDS)

        assert isinstance(tick(instance), dg.RunRequest)
        run = instance.get_run_by_id(run_id)
        assert run
        assert run.status is DagsterRunStatus.FAILURE
        [event] = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        assert f"its process {process.pid} on {process.machine.name} is gone" in event.message
