"""A run whose process died is launched once more by Dagster, unless somebody asks for it again anyway."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from dagster._core.events import RunFailureReason
from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import consume_new_runs_for_automatic_reexecution

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.liveness import command_line_tags
from quantlab_dagster.defs.names import NEVER_RETRIED, WAREHOUSE_JOB
from quantlab_dagster.settings import load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.daemon import configured_instance, workspace_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def launched_again(directory: Path, tags: Mapping[str, str], *, times: int = 1) -> int:
    """How many runs Dagster makes of one that died with these tags, when each of them dies as well."""
    job = build_definitions(load_settings()).resolve_job_def(WAREHOUSE_JOB)
    with configured_instance() as instance, workspace_of(instance, directory, utc_now()) as context:
        [location] = context.create_request_context().code_locations
        [repository] = location.get_repositories().values()
        remote = repository.get_full_job(WAREHOUSE_JOB)
        instance.create_run_for_job(
            job, tags=tags, remote_job_origin=remote.get_remote_origin(), job_code_origin=remote.get_python_origin()
        )
        for _ in range(times):
            for run in instance.get_runs():
                if not run.is_finished:
                    instance.report_run_failed(run, "its process is gone")
            records = instance.get_run_records()
            list(consume_new_runs_for_automatic_reexecution(context, records, logging.getLogger("retries")))
        return len(instance.get_runs()) - 1


def test_it_is_launched_once_and_not_again(tmp_path: Path) -> None:
    assert launched_again(tmp_path, {}, times=3) == 1


@pytest.mark.parametrize("tags", [NEVER_RETRIED, command_line_tags("a run")], ids=["asked for again", "of a command"])
def test_what_somebody_asks_for_again_is_not(tmp_path: Path, tags: dict[str, str]) -> None:
    assert launched_again(tmp_path, tags) == 0


def test_what_failed_by_itself_is_not(tmp_path: Path) -> None:
    assert launched_again(tmp_path, {RUN_FAILURE_REASON_TAG: RunFailureReason.STEP_FAILURE.value}) == 0
