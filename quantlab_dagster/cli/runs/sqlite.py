"""Dagster's history in SQLite, for a process that writes some hundred short transactions one after the other.

Dagster opens a connection for each. When the last one of a file is closed, SQLite moves its write-ahead log into the
file, and waits for the disk twice; a new run's file is made in twenty steps that wait, too. So here a connection stays
open, and a commit waits for nothing: the log is moved, and the disk waited for, at the end.

What is lost by that: if the machine loses power meanwhile, the last events of this run. The files stay consistent, and
a process that is killed loses nothing (https://sqlite.org/pragma.html#pragma_synchronous, NORMAL with WAL). A run whose
last events are missing is found dead like any other, and what is published is told from the lake, never from here.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["files_held_open"]

_KEPT = 16


@contextmanager
def files_held_open() -> Iterator[None]:
    """Keep a connection to the SQLite files that are used in the body: those used last, since each run has its own."""
    kept: OrderedDict[str, sqlite3.Connection] = OrderedDict()
    turn = threading.Lock()

    def connected(connection: object, _: object) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return  # of another kind of storage
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        connection.execute("PRAGMA journal_mode=WAL")  # as Dagster makes it a little later
        connection.execute("PRAGMA synchronous=NORMAL")
        with turn:
            if path not in kept:
                kept[path] = sqlite3.connect(path, check_same_thread=False)
            # One that has read nothing is not counted among those that have the file open.
            kept[path].execute("SELECT count(*) FROM sqlite_master").fetchone()
            kept.move_to_end(path)
            if len(kept) > _KEPT:
                kept.popitem(last=False)[1].close()

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)
        for connection in kept.values():
            connection.close()
