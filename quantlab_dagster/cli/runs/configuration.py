"""What a dagster.yaml of somebody's own must keep for this project to be safe.

Other storages, launchers and numbers are theirs to choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LONGEST_RUN_SECONDS", "concerns"]

LONGEST_RUN_SECONDS = 21_600
"""After so long a run that nobody can see counts as dead (defs/liveness.py), so none may take longer."""


def concerns(configuration: Mapping[str, Any]) -> list[str]:
    """Where an instance is configured in a way that this project is not made for, one line for each; [] if nowhere.

    Values that Dagster takes from the environment (`env: NAME`) are not judged.

    Args:
        configuration: the content of a dagster.yaml.
    """
    found = []
    coordinator = _at(configuration, "run_coordinator", "class")
    if coordinator not in (None, "QueuedRunCoordinator"):
        found.append(f"run_coordinator is {coordinator}: without a queue, priorities and pools mean nothing")
    granularity = _at(configuration, "concurrency", "pools", "granularity")
    if granularity != "run":
        said = f"is {granularity}" if granularity else "is not set"
        found.append(f"concurrency.pools.granularity {said}, not run: runs that wait would take the others' places")
    found += _starving(configuration)
    if _at(configuration, "run_monitoring", "enabled") is not True:
        found.append("run_monitoring is not enabled: runs that never start, or hang, read as running for ever")
    given = _at(configuration, "run_monitoring", "max_runtime_seconds")
    longest = _number(given)
    if given is None or (longest is not None and not 0 < longest <= LONGEST_RUN_SECONDS):
        said = "is not set: it must be" if given is None else f"is {longest}, not"
        found.append(
            f"run_monitoring.max_runtime_seconds {said} at most {LONGEST_RUN_SECONDS}: "
            "after that long a run that cannot be seen counts as dead, and its day is run again"
        )
    fails_again = _at(configuration, "run_retries", "retry_on_asset_or_op_failure") is not False
    if _at(configuration, "run_retries", "enabled") is True and fails_again:
        found.append(
            "run_retries.retry_on_asset_or_op_failure is not false: failed days would be run again at once, "
            "and use up the attempts that catch-up spreads over hours"
        )
    if _at(configuration, "telemetry", "enabled") is not False:
        found.append("telemetry.enabled is not false: Dagster sends usage statistics to its makers")
    return found


def _starving(configuration: Mapping[str, Any]) -> list[str]:
    runs = _number(_at(configuration, "concurrency", "runs", "max_concurrent_runs"))
    pool = _number(_at(configuration, "concurrency", "pools", "default_limit"))
    if _at(configuration, "concurrency", "pools", "default_limit") is None:
        return ["concurrency.pools.default_limit is not set: a backfill of one lake keeps the other's runs waiting"]
    if runs is None or pool is None or 0 < pool < runs or runs < 0:
        return []
    said = f"concurrency.pools.default_limit is {pool}, and max_concurrent_runs {runs}: "
    return [f"{said}with fewer of a pool than in all, a backfill of one lake never keeps the other's runs waiting"]


def _at(mapping: Mapping[str, Any], *path: str) -> Any:
    value: Any = mapping
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
