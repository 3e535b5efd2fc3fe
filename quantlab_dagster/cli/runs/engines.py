"""What Dagster's SQLite storages make anew for each transaction, made once.

They make an SQLAlchemy engine each time they connect, some 180 in a run that finds nothing to do, and a new engine
compiles each statement again. And they ask Alembic for the newest revision of each file that they open, which reads
the 90 scripts of all revisions each time.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from sqlalchemy import create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy.engine import Engine

__all__ = ["engines_shared", "replaced"]

_STORAGES = (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)
_ENGINES = 16
"""Those of the instance's three files, and of the last runs': each run has a file of its own."""


@contextmanager
def engines_shared() -> Iterator[None]:
    """Within, Dagster's SQLite storages share one engine a file, and one reading of Alembic's revisions."""
    engines, scripts = _Engines(), _Scripts()
    with ExitStack() as stack:
        for storage in _STORAGES:
            stack.enter_context(replaced(storage, "create_engine", engines.of))
        stack.enter_context(replaced(ScriptDirectory, "from_config", staticmethod(scripts.of)))
        yield


class _Engines:
    """Engines by what they are made with. Their pool is none (NullPool): each transaction still has its connection."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, Engine] = OrderedDict()
        self._turn = Lock()

    def of(self, url: str, **options: Any) -> Engine:
        """As `sqlalchemy.create_engine`."""
        name = f"{url} {sorted(options.items())}"
        with self._turn:
            if name not in self._made:
                self._made[name] = create_engine(url, **options)
            self._made.move_to_end(name)
            if len(self._made) > _ENGINES:
                self._made.popitem(last=False)
            return self._made[name]


class _Scripts:
    """Alembic's scripts by where a configuration says that they are."""

    def __init__(self) -> None:
        self._read: dict[str, ScriptDirectory] = {}
        self._from_config = ScriptDirectory.from_config

    def of(self, config: Config) -> ScriptDirectory:
        """As `ScriptDirectory.from_config`."""
        name = str(sorted(config.get_section(config.config_ini_section, {}).items()))
        if name not in self._read:
            self._read[name] = self._from_config(config)
        return self._read[name]


@contextmanager
def replaced(owner: Any, name: str, replacement: object) -> Iterator[None]:
    """Within, a module's or class's attribute is another."""
    original = vars(owner)[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
