"""Where Dagster keeps its history, made ready before anything of Dagster starts.

Dagster reads `dagster.yaml` of its home before it loads any code of ours, so whatever starts (a command that runs
something, the web server, the daemon) goes through here first.
"""

from __future__ import annotations

import os
import pwd
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

import quantlab_dagster
from quantlab_dagster.cli.runs.configuration import concerns
from quantlab_dagster.cli.runs.databases import make_databases
from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantlab_dagster.settings import Settings

__all__ = ["CONFIGURATION", "WORKSPACE", "ensure_dagster_home"]

_PACKAGE = Path(quantlab_dagster.__file__).parent
CONFIGURATION = _PACKAGE / "dagster.yaml"
"""The instance as it is shipped. In a checkout it is a link to the repository's."""
WORKSPACE = _PACKAGE / "workspace.yaml"
"""The code location as it is shipped."""

_SETTING = "DAGSTER_HOME"
_STORAGES = {"storage", "run_storage", "event_log_storage", "schedule_storage"}
_DATABASES = ("history/*.db*", "history/runs/index.db*", "schedules/*.db*")


def ensure_dagster_home(settings: Settings, tell: Callable[[str], None] | None = None) -> Path:
    """Make the home and link dagster.yaml into it; sets DAGSTER_HOME for this process and its children.

    A home that has a dagster.yaml of its own keeps it. Where that names no storage, the databases are made, too.

    Args:
        settings: of the project.
        tell: shows people a line, once in a process: where the home's own dagster.yaml is not safe for this project.

    Raises:
        SettingsError: the home cannot be made or written to, belongs to somebody else, or its dagster.yaml is no YAML.
    """
    home = settings.home.expanduser().absolute()
    try:
        _make(home)
        _refuse_foreign(home)
        own = _own_configuration(home / CONFIGURATION.name)
        for line in concerns(own) if own is not None and tell is not None else ():
            _tell_once(tell, f"{home / CONFIGURATION.name}: {line}")
        if own is None or not own.keys() & _STORAGES:
            make_databases(home)
    except OSError as error:
        cause = f"{home} cannot be used ({error.strerror or error})"
        raise SettingsError(_SETTING, cause, "Set it to a writable path") from error
    os.environ[_SETTING] = str(home)
    return home


def _make(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    configuration = home / CONFIGURATION.name
    if configuration.is_symlink() and not configuration.exists():
        _replace(configuration)  # its installation is gone, or was moved
    elif not configuration.exists():
        _replace(configuration)


def _replace(configuration: Path) -> None:
    """Put the link there at once: two processes may start together in a new home."""
    new = configuration.with_name(f"{configuration.name}.{os.getpid()}")
    new.symlink_to(CONFIGURATION)
    new.replace(configuration)


def _refuse_foreign(home: Path) -> None:
    owner = home.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        name = _name_of(owner)
        raise SettingsError(
            _SETTING,
            f"{home} belongs to {name}, and this is root: files that root makes in it would lock {name} out",
            f"Run it as {name} (sudo -u {name} …), or set {_SETTING} to a home of root's",
        )
    for path in (home, *_databases(home)):
        needed = os.W_OK | (os.X_OK if path.is_dir() else 0)
        if not os.access(path, needed, effective_ids=os.access in os.supports_effective_ids):
            name = _name_of(path.stat().st_uid)
            raise SettingsError(
                _SETTING,
                f"{path} belongs to {name}, and this user ({_name_of(os.geteuid())}) cannot write to it",
                f"Run as {name}, or set {_SETTING} to a path of your own",
            )


def _databases(home: Path) -> Iterator[Path]:
    """Dagster's databases, and the directories they are in. Not those of single runs, which may be many thousands."""
    directories = (home / "history", home / "history" / "runs", home / "schedules", home / "storage")
    yield from (path for path in directories if path.exists())
    for pattern in _DATABASES:
        yield from (path for path in home.glob(pattern) if path.exists())


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _own_configuration(configuration: Path) -> dict[str, Any] | None:
    """What a dagster.yaml says that is not the shipped one; None for that."""
    try:
        if configuration.samefile(CONFIGURATION):
            return None
        found = yaml.safe_load(configuration.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = f"is not valid YAML ({str(error).splitlines()[0]})"
        raise SettingsError(str(configuration), cause, "Mend it, or remove it: then the shipped one is used") from error
    if not isinstance(found, dict):
        remedy = "Mend it, or remove it: then the shipped one is used"
        raise SettingsError(str(configuration), "is no mapping", remedy)
    return found


@cache
def _tell_once(tell: Callable[[str], None], line: str) -> None:
    tell(line)
