"""Runs of the command line in a history, for tests: of processes that live, and of processes that were killed."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.test_utils import create_run_for_test

from quantlab_dagster.defs.liveness import command_line_tags
from quantlab_dagster.work.processes import Machine, Process, process_of

if TYPE_CHECKING:
    from collections.abc import Mapping

LIVING = process_of(os.getpid())


def killed() -> Process:
    """A process that was."""
    with subprocess.Popen(["sleep", "60"]) as child:
        process = process_of(child.pid)
        child.kill()
    return process


def tags_of(process: Process, run_id: str = "") -> dict[str, str]:
    """What a run of that process says."""
    machine: Machine = process.machine
    return {
        **command_line_tags(run_id),
        ".dagster/quantlab_host": f"{machine.name}/{machine.boot}/{machine.pids}",
        ".dagster/quantlab_pid": str(process.pid),
        ".dagster/quantlab_pid_started": process.started,
    }


def put_run(
    instance: dg.DagsterInstance,
    process: Process,
    *,
    job: str = "compact_day",
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Put a run of that process into the history; returns its id."""
    run = create_run_for_test(instance, job_name=job, status=status, tags={**tags_of(process), **(tags or {})})
    return str(run.run_id)
