"""For which lakes a run was launched: those of the code location that made it, whoever asked for it.

A code server keeps the environment that it was started with, and each run is a process of its own, perhaps on another
machine. Where they read different settings (a new quantlab.env, an old container), the daemon would ask one lake what
is to be done, and its runs would do it to another. Every run has the snapshot of its job, and in it the configuration
of its lakes as the code location had loaded it: so runs from the pages and backfills say it, too, and nothing is to be
tagged.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from quantlab_dagster.access import server_of
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import dagster as dg

    from quantlab_dagster.settings import Lake, Settings

__all__ = ["refuse_other_lake", "settings_guard"]

_REMEDY = "Reload the code location (Deployment, Reload), or restart the daemon and the web server; then run it again"


def refuse_other_lake(instance: dg.DagsterInstance, run: dg.DagsterRun, lake: str, url: str, server: str) -> None:
    """Refuse to work on a lake that the run was not launched for. One that its run configuration names is meant.

    Raises:
        SettingsError: naming both.
    """
    meant = _launched_for(instance, run, lake)
    if meant is None or lake in _configured(run):
        return
    here = _text(url, server)
    if meant != here:
        raise SettingsError(
            f"the {lake} lake",
            f"of this run's process is {here}, but the run was launched for {meant}: they read different settings",
            _REMEDY,
        )


def settings_guard(*lakes: Lake) -> Callable[[], None]:
    """What refuses to go on once new processes would read other lakes than this one did when it asked for the guard.

    For schedules and sensors: a tick asks the lakes that were loaded, and its runs would work on those of today's file.
    The guard raises a SettingsError that names the lakes, before and now.

    Args:
        lakes: that the automation works on; of the others it does not care.
    """
    before = _lakes(load_settings(), lakes)

    def refuse_changes() -> None:
        now = _lakes(load_settings(), lakes)
        changed = [f"{name} was {before[name]} and is {now[name]}" for name in before if before[name] != now[name]]
        if changed:
            raise SettingsError("the settings", f"have changed since they were loaded: {'; '.join(changed)}", _REMEDY)

    return refuse_changes


def _lakes(settings: Settings, lakes: Iterable[Lake]) -> dict[str, str]:
    urls = {lake: settings.url(lake) for lake in lakes}
    found = {f"the {lake} lake": _text(url, server_of(url, lake)) for lake, url in urls.items()}
    if "warehouse" in urls:  # two that look for slots at two places could merge the same hour
        found["the place of the slots"] = _text(settings.slots_url, "") or "in the event lake"
    return found


def _launched_for(instance: dg.DagsterInstance, run: dg.DagsterRun, lake: str) -> str | None:
    """The lake as the code location had it; None if the run does not say, as those of older versions."""
    if run.job_snapshot_id is None or not instance.has_historical_job(run.job_snapshot_id):
        return None
    for mode in instance.get_historical_job(run.job_snapshot_id).job_snapshot.mode_def_snaps:
        for resource in mode.resource_def_snaps:
            field = resource.config_field_snap
            text = field.default_value_as_json_str if field is not None else None
            value = json.loads(text) if text else None
            if isinstance(value, dict) and value.get("lake") == lake and "url" in value and "server" in value:
                return _text(value["url"], value["server"])
    return None


def _configured(run: dg.DagsterRun) -> set[str]:
    """Lakes that the run configuration itself names."""
    resources: Any = run.run_config.get("resources", {})
    configs = [one.get("config") or {} for one in resources.values() if isinstance(one, dict)]
    return {config.get("lake", "") for config in configs if "url" in config}


def _text(url: str, server: str) -> str:
    """A lake for people, and for comparing: a slash at an end means nothing."""
    url, server = url.rstrip("/") or url, server.rstrip("/")
    return f"{url} at {server}" if server else url
