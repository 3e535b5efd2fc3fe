"""What a command does that finds nothing to do: it waits for the disk seldom, loads little, and loses no history."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from alembic.script import ScriptDirectory
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from quantlab_dagster.cli.loading import modules_loaded
from quantlab_dagster.cli.runs.engines import engines_shared
from quantlab_dagster.cli.runs.sqlite import files_held_open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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


def test_of_many_files_only_the_last_are_held(tmp_path: Path) -> None:
    """A range of a thousand days is a thousand runs, and a process may open a thousand files."""
    with files_held_open():
        for number in range(20):
            write(create_engine(f"sqlite:///{tmp_path}/{number}.db", poolclass=NullPool), number)
        logs = {int(path.name.partition(".")[0]) for path in tmp_path.glob("*.db-wal")}
    assert logs == set(range(4, 20))
    assert list(tmp_path.glob("*.db-wal")) == []


@dg.asset(check_specs=[dg.AssetCheckSpec("sound", asset="day")])
def day() -> Any:
    yield dg.MaterializeResult(metadata={"rows": 1}, check_results=[dg.AssetCheckResult(passed=True)])


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with engines_shared(), dg.DagsterInstance.get() as instance:
        instance.get_asset_keys()
        yield instance


def told_to(heard: list[Any], method: Callable[..., Any]) -> Callable[..., Any]:
    def told(self: object, *args: Any, **options: Any) -> Any:
        heard.append(self)
        return method(self, *args, **options)

    return told


def test_dagster_makes_no_engine_a_transaction(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each compiles all its statements anew. Three files are of the instance, one is of the run."""
    made: list[Engine] = []
    connected: list[Engine] = []
    monkeypatch.setattr(Engine, "__init__", told_to(made, Engine.__init__))
    monkeypatch.setattr(Engine, "connect", told_to(connected, Engine.connect))
    assert dg.materialize([day], instance=instance).success
    assert len(made) == 1
    assert len(connected) > 50, "else there was nothing to save"
    assert len(set(connected)) <= 4


def test_the_revisions_of_dagsters_tables_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    read: list[ScriptDirectory] = []
    monkeypatch.setattr(ScriptDirectory, "_load_revisions", told_to(read, ScriptDirectory._load_revisions))
    for name in ("runs.db", "index.db"):
        assert list(tmp_path.rglob(name)), "their revisions were looked up"
    assert dg.materialize([day], instance=instance).success
    assert read == []


def test_what_is_shared_records_all_that_dagster_records(instance: dg.DagsterInstance) -> None:
    run_id = dg.materialize([day], instance=instance).run_id
    with dg.DagsterInstance.from_config(instance.root_directory) as another:
        types = [entry.dagster_event_type for entry in another.all_logs(run_id) if entry.dagster_event_type]
        assert types[0] is dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        assert types[-1] is dg.DagsterEventType.RUN_SUCCESS
        assert another.get_latest_materialization_event(day.key) is not None


def dagsters_create_engine() -> Callable[..., Engine]:
    found: Callable[..., Engine] = vars(sqlite_run_storage)["create_engine"]
    return found


def test_a_file_of_the_same_name_with_other_options_is_another_engine(tmp_path: Path) -> None:
    with engines_shared():
        make = dagsters_create_engine()
        url = f"sqlite:///{tmp_path}/runs.db"
        assert make(url, poolclass=NullPool) is make(url, poolclass=NullPool)
        assert make(url, poolclass=NullPool, connect_args={"timeout": 9}) is not make(url, poolclass=NullPool)


def test_engines_of_runs_that_are_over_are_not_kept() -> None:
    with engines_shared():
        make = dagsters_create_engine()
        first = make("sqlite:///0.db")
        for number in range(1, 17):
            make(f"sqlite:///{number}.db")
        assert make("sqlite:///0.db") is not first


def test_afterwards_dagster_makes_what_it_makes() -> None:
    before = ScriptDirectory.from_config
    with engines_shared():
        assert dagsters_create_engine() is not create_engine
        assert ScriptDirectory.from_config != before
    assert dagsters_create_engine() is create_engine
    assert ScriptDirectory.from_config == before


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


_COLLECTED = """
import gc, sys
from quantlab_dagster.cli.app import main
passes = []
gc.callbacks.append(lambda phase, found: passes.append(phase))
sys.argv = ["quantlab", "compact", "--date", "2099-01-01"]
try:
    main()
except SystemExit as left:
    print(left.code, "dagster" in sys.modules, len(passes), gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


def test_nobody_looks_for_garbage_while_dagster_is_loaded_nor_in_it(tmp_path: Path) -> None:
    """Three passes over a quarter of a million objects that all stay, a tenth of the command."""
    said = subprocess.check_output([sys.executable, "-c", _COLLECTED], text=True, cwd=tmp_path).splitlines()[-1]
    assert said == "2 True 0 True True"


def test_who_had_switched_collections_off_finds_them_off() -> None:
    gc.disable()
    try:
        with modules_loaded():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
