"""What a command does that finds nothing to do: it waits for the disk seldom, loads little, and loses no history."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import NullPool

from quantlab_dagster.cli.runs.sqlite import files_held_open

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/runs.db", poolclass=NullPool)
    yield engine
    engine.dispose()


def write(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("create table if not exists events (number integer)"))
        connection.execute(text("insert into events values (:number)"), {"number": number})


def read(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text("select number from events")).scalars())


def test_the_log_is_moved_into_the_file_once_and_not_with_every_connection(tmp_path: Path, history: Engine) -> None:
    log = tmp_path / "runs.db-wal"
    with files_held_open():
        write(history, 1)
        assert log.stat().st_size
        write(history, 2)
        assert log.stat().st_size
    assert not log.exists()
    assert read(history) == [1, 2]


def test_a_commit_is_in_the_log_but_does_not_wait_for_the_disk(history: Engine) -> None:
    """NORMAL with a write-ahead log keeps the file consistent whatever happens; OFF would not."""
    with files_held_open(), history.connect() as connection:
        assert connection.execute(text("pragma journal_mode")).scalar() == "wal"
        assert connection.execute(text("pragma synchronous")).scalar() == 1


_LOOK = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select * from events').fetchall())"


def test_others_see_what_is_written_at_once(history: Engine, tmp_path: Path) -> None:
    """The UI and the daemon look at the history of a run that goes on."""
    with files_held_open():
        write(history, 7)
        said = subprocess.check_output([sys.executable, "-c", _LOOK, str(tmp_path / "runs.db")], text=True)
    assert said.strip() == "[(7,)]"


_KILLED = """
import os, signal, sys
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool
from quantlab_dagster.cli.runs.sqlite import files_held_open
from quantlab_dagster_tests.cli.test_fixed_cost import write
with files_held_open():
    write(create_engine(sys.argv[1], poolclass=NullPool), 7)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_wrote_is_in_the_history(history: Engine) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(history.url)], check=False)
    assert done.returncode == -9
    assert read(history) == [7]


def test_afterwards_nothing_is_held_and_nobody_listens(history: Engine, tmp_path: Path) -> None:
    with files_held_open():
        write(history, 1)
        heard = len(event.registry._key_to_collection)
    assert len(event.registry._key_to_collection) < heard
    write(history, 2)
    assert not (tmp_path / "runs.db-wal").exists()  # the last connection has closed


def test_a_database_in_memory_has_no_file_to_hold() -> None:
    with files_held_open():
        write(create_engine("sqlite://"), 1)


_LOADED = """
import gc, sys
from quantlab_dagster.cli.app import main
sys.argv = ["quantlab", "--version"]
try:
    main()
except SystemExit:
    import quantlab_dagster.cli.runs.market
print(gc.get_threshold()[0], sorted({"PIL", "numpy", "polars", "pyarrow"} & set(sys.modules)))
"""


def test_a_command_that_runs_days_loads_no_engine_and_no_picture() -> None:
    said = subprocess.check_output([sys.executable, "-c", _LOADED], text=True).splitlines()[-1]
    assert said == "100000 []"
