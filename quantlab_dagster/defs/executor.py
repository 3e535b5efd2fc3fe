"""What executes the steps of a run: this process, or something that Dagster has for more processes and machines."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import yaml  # type: ignore[import-untyped]
from dagster._config import validate_config

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.settings import Settings

__all__ = ["executor_of"]

_ELSEWHERE: Final = {
    "celery": ("dagster_celery", "celery_executor"),
    "k8s": ("dagster_k8s", "k8s_job_executor"),
}
"""Module and name of executors that are no part of Dagster itself; an extra of the same name installs them."""

_MULTIPROCESS: Final = {"max_concurrent": 2}
"""Each step has a memory budget, and uses every core for a while: as many as there are cores would be too many."""


def executor_of(settings: Settings) -> dg.ExecutorDefinition:
    """The executor that the settings name, configured by their file.

    In one process by default: a step uses every core itself.

    Raises:
        SettingsError: it is not installed, or its file is missing or wrong.
    """
    executor = _named(settings.executor)
    config = _config_of(settings.executor_config) if settings.executor_config else {}
    if settings.executor == "multiprocess":
        config = {**_MULTIPROCESS, **config}
    if not config:
        return executor
    found = validate_config(executor.config_schema.config_type, config)
    if not found.success:
        # Not what was given: the broker's URL may hold its password.
        errors = found.errors or ()
        where = "; ".join(f"{'.'.join(error.stack.levels) or 'the whole'}: {error.reason.value}" for error in errors)
        cause = f"{settings.executor_config} does not configure the executor {settings.executor} ({where})"
        raise SettingsError("QUANTLAB_EXECUTOR_CONFIG", cause, "See the example below deploy/")
    return executor.configured(config, name=executor.name)


def _named(name: str) -> dg.ExecutorDefinition:
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor
    module, attribute = _ELSEWHERE[name]
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as error:
        cause = f"{name} needs a package that is not installed ({error})"
        raise SettingsError("QUANTLAB_EXECUTOR", cause, f"pip install '.[{name}]' -c constraints.txt") from error
    assert isinstance(found, dg.ExecutorDefinition)
    return found


def _config_of(path: Path) -> dict[str, Any]:
    """What a file says below `execution: config:`, as in run configuration and in the file of Celery's workers."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = str(error).splitlines()[0]
        raise SettingsError("QUANTLAB_EXECUTOR_CONFIG", f"{path} cannot be read ({text})") from error
    execution = document.get("execution") if isinstance(document, dict) else None
    config = execution.get("config") if isinstance(execution, dict) else None
    if not isinstance(config, dict):
        raise SettingsError("QUANTLAB_EXECUTOR_CONFIG", f"{path} has no mapping below execution: config:")
    return config
