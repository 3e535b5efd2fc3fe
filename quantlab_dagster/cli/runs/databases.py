"""Dagster's SQLite databases of a home, made by one process at a time.

Processes that start together on a new home (the web server, the daemon and a loop, when a machine boots) would all find
no tables and all make them, and all but the first end with "table alembic_version already exists". Dagster itself minds
that for its event log only.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_databases"]

_DATABASES: Final = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
_LOCK: Final = ".databases.lock"
_PATIENCE_SECONDS: Final = 120.0  # making them takes one, and importing Dagster another


def make_databases(home: Path) -> None:
    """Make the databases of a home that keeps its history in SQLite below itself, unless they are there.

    Args:
        home: Dagster's, with its dagster.yaml.

    Raises:
        SettingsError: another process has been making them for too long, or Dagster refuses what configures the home.
        QuantlabError: they cannot be made.
    """
    if _made(home):
        return
    import dagster as dg  # a second, that a home which is ready need not wait for

    from quantlab_dagster.cli.runs.instance import faults_of_opening
    from quantlab_dagster.cli.runs.sqlite import files_held_open

    try:
        with FileLock(home / _LOCK, timeout=_PATIENCE_SECONDS), faults_of_opening(home):
            if not _made(home):
                with files_held_open(), dg.DagsterInstance.from_config(str(home)) as instance:
                    # Opening makes the others; a half-made one of the event log, the first look at an asset.
                    instance.get_asset_keys(limit=1)
    except Timeout:
        cause = f"another process has been making the databases of {home} for {_PATIENCE_SECONDS:.0f} s"
        raise SettingsError("DAGSTER_HOME", cause, f"End the process that holds {home / _LOCK}") from None


def _made(home: Path) -> bool:
    return all(_stamped(home / name) for name in _DATABASES)


def _stamped(database: Path) -> bool:
    """Whether all tables are there: Dagster writes the revision of the schema last."""
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("SELECT version_num FROM alembic_version").fetchall())
    except sqlite3.Error:  # no such table yet; a file that is no database is Dagster's to complain of
        return False
