"""The hook after a run over the event lake that replaced files: run, logged, counted. It never fails the run."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from quantlab_dagster.defs.meter import EVENTS, Meter
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.settings import Settings, load_aws
from quantlab_dagster.warehouse.hook import changed_directories, facts
from quantlab_dagster.work.hook import (
    Hook,
    HookEnded,
    HookResult,
    hook_line,
    parse_command,
    run_hook,
    secret_arguments,
    secrets_in,
    without_secrets,
)
from quantlab_dagster.work.stopping import run_interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import dagster as dg

    from quantlab_dagster.warehouse.outcome import HourOutcome

__all__ = ["after_run", "describe_hook", "extra_hook_listener"]

extra_hook_listener: ContextVar[Callable[[HookEnded], None] | None] = ContextVar("extra_hook_listener", default=None)
"""Told how the hook ended, in the process that executes a run itself: the command line."""


def after_run(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    settings: Settings,
    url: str,
    outcomes: Iterable[HourOutcome],
    meter: Meter,
) -> HookEnded | None:
    """Run the hook of the settings if files were replaced. Returns how it ended; None if there was none to run.

    Args:
        context: of the run, whose log gets what it wrote.
        settings: of the project.
        url: of the event lake.
        outcomes: of the run.
        meter: counts it.
    """
    directories = changed_directories(outcomes)
    hook = _hook(settings)
    if hook is None or not directories:
        return None
    environment = {**without_secrets(os.environ), **facts(url, directories), "COMPACTED_RUN": context.run.run_id}
    try:
        secrets = _secrets(settings) | secret_arguments(hook.command)
        ended = run_interruptible(run_hook(hook, directories, environment, secrets))
    except Exception as error:  # noqa: BLE001 - what is done is done: nothing of the hook's fails it
        ended = HookEnded(hook.name, HookResult.FAILURE, None, 0.0, type(error).__name__)
    say = context.log.info if ended.result is HookResult.SUCCESS else context.log.warning
    say(f"{hook_line(ended)}\n{ended.output}" if "\n" in ended.output else hook_line(ended))
    meter.hook(EVENTS, ended.result.value)
    tell = extra_hook_listener.get()
    if tell is not None:
        tell(ended)
    return ended


def describe_hook(ended: HookEnded | None) -> dict[str, Any]:
    """Metadata of the run: how its hook ended, and its last words."""
    if ended is None:
        return {}
    return {"hook": hook_line(ended), "hook seconds": round(ended.seconds, 3), "hook output": ended.output}


def _hook(settings: Settings) -> Hook | None:
    if settings.compaction_hook_command is None:
        return None
    command = parse_command(settings.compaction_hook_command.get_secret_value())
    statement = (settings.compaction_hook_sql,) if settings.compaction_hook_sql else ()
    return Hook((*command, *statement), settings.compaction_hook_seconds)


def _secrets(settings: Settings) -> set[str]:
    """What must not be shown, wherever it is set."""
    found = secrets_in(os.environ)
    if settings.pushgateway_url is not None:
        found.add(settings.pushgateway_url.get_secret_value())
    try:
        aws = load_aws("warehouse")
    except QuantlabError:  # the lake was opened with other ones
        return found
    return found | {one.get_secret_value() for one in (aws.secret_access_key, aws.session_token) if one is not None}
