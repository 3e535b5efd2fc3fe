"""Runs of the command line say which code location they are of, so that Dagster's pages show them with the others."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

__all__ = ["runs_located"]

_MODULE = "quantlab_dagster.definitions"
_LOCATION = "quantlab"
"""As workspace.yaml says."""


@contextmanager
def runs_located(instance: dg.DagsterInstance) -> Iterator[None]:
    """Within, runs that this process makes in the instance have the origin that Dagster gives those that it launches.

    `execute_in_process` leaves it out: then the pages show a run of no code location, which cannot be executed again.
    """
    make = instance.create_run_for_job

    def make_located(job_def: dg.JobDefinition, **options: Any) -> dg.DagsterRun:
        return make(job_def, **{**options, "remote_job_origin": _origin(job_def.name)})

    instance.create_run_for_job = make_located  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del instance.create_run_for_job


def _origin(job: str) -> RemoteJobOrigin:
    target = LoadableTargetOrigin(module_name=_MODULE)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, _LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)
