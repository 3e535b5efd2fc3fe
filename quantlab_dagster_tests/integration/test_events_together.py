"""Compactors of the event lake at once, beside a sink; and one that is told to stop. Real processes, real stores."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import duckdb
import pytest

from quantlab_dagster.lake.warehouse import AppHour, Scope
from quantlab_dagster.synthetic.warehouse import generate_event_files, write_local_hour
from quantlab_dagster.warehouse.look import look_over
from quantlab_dagster.warehouse.slot import Slot
from quantlab_dagster.warehouse.sweep import sweep
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, PARTITION, EventLake, HourRecorder, rows_of, spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import Staged

pytestmark = pytest.mark.slow

_A_FILE_EVERY_SECONDS = 0.2
_STOPS_WITHIN_SECONDS = 15  # "seconds", on a machine that does other things as well


@contextmanager
def _compacting(lake: EventLake, home: Path) -> Iterator[subprocess.Popen[str]]:
    """`quantlab warehouse compact`, which does not outlive the context."""
    env = {
        **os.environ,
        "WAREHOUSE_URL": lake.url,
        "QUANTLAB_SCRATCH_DIR": str(lake.scratch),
        "DAGSTER_HOME": str(home),
        **lake.rig.env(),
    }
    command = [sys.executable, "-m", "quantlab_dagster.cli", "warehouse", "compact"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, cwd=home, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _ends_well(process: subprocess.Popen[str]) -> str:
    """What it printed."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, (output, errors)
    return output + errors


def _new_home(tmp_path: Path) -> Path:
    """Its databases first: several processes making them at once is Dagster's matter, not ours."""
    home = tmp_path / "home"
    home.mkdir()
    dg.DagsterInstance.local_temp(str(home)).dispose()
    return home


def _statuses(home: Path) -> list[dg.DagsterRunStatus]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return [run.status for run in instance.get_runs()]


# ---- together --------------------------------------------------------------------------------------------------------


@contextmanager
def _sink(lake: EventLake) -> Iterator[list[bytes]]:
    """Somebody who puts a new file into a cold hour again and again; what was put, once the context has ended."""
    put: list[bytes] = []
    stopped = threading.Event()

    def work() -> None:
        for seed in range(1000, 1200):
            if stopped.wait(_A_FILE_EVERY_SECONDS):
                return
            put.extend(lake.put(PARTITION, generate_event_files(spec(files=1, rows=5, seed=seed))))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield put
    finally:
        stopped.set()
        thread.join()


@pytest.mark.guards("rows-doubled")
def test_nobody_loses_or_doubles_a_row(rig: Rig, tmp_path: Path) -> None:
    lake = EventLake.of(rig)
    home = _new_home(tmp_path)
    partitions = [AppHour(app, HOUR - number * LATER) for app in ("demo", "shop") for number in range(6)]
    original = [
        data
        for partition in partitions
        for data in lake.put_spec(spec(app=partition.app, hour=partition.hour, files=12, rows=120))
    ]
    with ExitStack() as stack:
        late = stack.enter_context(_sink(lake))
        processes = [stack.enter_context(_compacting(lake, home)) for _ in range(3)]
        said = [_ends_well(process) for process in processes]
    assert len(late) >= 5
    assert sum(" files → " in text for text in said) > 1, said
    lake.sweep(now=utc_now())

    assert lake.rows() == rows_of(original + late)
    assert {partition: len(lake.names(partition)) for partition in partitions} == dict.fromkeys(partitions, 1)
    assert [lake.slot(partition) for partition in partitions] == [Slot()] * len(partitions)
    assert lake.staged() == []
    assert asyncio.run(look_over(lake.place(now=utc_now()), Scope())).work == []
    assert not [path for path in lake.scratch.rglob("*") if path.is_file()], "scratch is left"
    assert _statuses(home) == [dg.DagsterRunStatus.SUCCESS] * 3


class _Feeding:
    """A store in which a new file is put into the hour whenever an output appears, thirty times at most."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.put: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def publish(self, staged: Staged) -> object:
        published = await self._store.publish(staged)
        if len(self.put) < 30:
            for file in generate_event_files(spec(files=1, rows=5, seed=2000 + len(self.put))):
                await self._store.put(PARTITION.key(file.name), file.data)
                self.put.append(file.data)
        return published


def test_a_sink_that_never_rests_does_not_keep_a_compactor_for_ever(tmp_path: Path) -> None:
    lake = EventLake.of(Rig("local", None, tmp_path))
    original = lake.put_spec(spec(files=12, rows=120))
    feeding = _Feeding(lake.store)
    [outcome] = lake.sweep(store=cast("Store", feeding)).outcomes
    assert lake.rows() == rows_of(original + feeding.put)
    assert len(outcome.replacements) <= 4


# ---- told to stop ----------------------------------------------------------------------------------------------------

HOURS = [AppHour("demo", HOUR - number * LATER) for number in range(30)]

_COPIES = """
    select regexp_extract(filename, '(app_id=.*/)[^/]*', 1) as prefix, id,
           hash(id, app_id, device_id, timestamp_ms, correlation_id, event_category, event_type, carrier,
                battery_level::integer, screen_width, is_jailbroken, payload_json, year, month, day, hour) as row,
           count(*) as copies
    from read_parquet($files, union_by_name = true, hive_partitioning = false, filename = true) group by all
"""


def _copies(root: Path) -> dict[tuple[str, str, int], int]:
    """How often a reader who globs finds each row, by the partition's prefix, the row's id and a hash of it."""
    with duckdb.connect() as connection:
        found = connection.execute(_COPIES, {"files": f"{root}/app_id=*/**/*.parquet"}).fetchall()
    return {(prefix, row_id, row): copies for prefix, row_id, row, copies in found}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that takes some seconds."""
    root = tmp_path_factory.mktemp("made")
    for partition in HOURS:
        write_local_hour(root, spec(hour=partition.hour, files=30, rows=450))
    return root


@pytest.mark.guards("signal-lost")
@pytest.mark.parametrize(("how", "after"), [(signal.SIGTERM, 1), (signal.SIGINT, 6)])
def test_told_to_stop_in_the_middle(made: Path, tmp_path: Path, how: signal.Signals, after: int) -> None:
    lake = EventLake.of(Rig("local", None, tmp_path))
    root = Path(lake.url)
    shutil.copytree(made, root, dirs_exist_ok=True)
    home = _new_home(tmp_path)
    with _compacting(lake, home) as process:
        _wait_for_outputs(root, after, process)
        process.send_signal(how)
        asked = time.monotonic()
        output, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked < _STOPS_WITHIN_SECONDS
    assert "Traceback" not in errors, errors
    assert process.returncode != 0, (output, errors)
    [status] = _statuses(home)
    assert status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

    expected = _copies(made)
    found = _copies(root)
    assert found.keys() == expected.keys(), "no row is lost"
    slots = {partition: lake.slot(partition) for partition in HOURS}
    planned = {partition.prefix for partition, slot in slots.items() if slot.state == "planned"}
    assert {prefix for (prefix, *_), copies in found.items() if copies > 1} <= planned
    assert max(found.values()) <= 2
    assert any(len(lake.names(partition)) > 1 for partition in HOURS), "it was in the middle"
    assert not [path for path in lake.scratch.rglob("*") if path.is_file()], "scratch is left"

    done = lake.sweep(now=utc_now() + LATER)
    assert all(finding.passed for finding in done.findings)
    assert _copies(root) == dict.fromkeys(expected, 1)
    assert {len(lake.names(partition)) for partition in HOURS} == {1}
    assert [lake.slot(partition) for partition in HOURS] == [Slot()] * len(HOURS)
    assert lake.staged() == []
    assert not [path for path in lake.scratch.rglob("*") if path.is_file()], "scratch is left"


class _Answering:
    """A store that says when a slot was written, and answers the writer only later."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def compare_and_swap(self, key: str, content: bytes, expected_etag: str | None) -> str:
        etag = await self._store.compare_and_swap(key, content, expected_etag)
        if not self.written.is_set():
            self.written.set()
            await asyncio.sleep(0.2)
        return etag


def test_told_to_stop_while_claiming_an_hour_leaves_no_claim(tmp_path: Path) -> None:
    lake = EventLake.of(Rig("local", None, tmp_path))
    lake.put_spec(spec())

    async def stop_while_claiming() -> None:
        store = _Answering(lake.store)
        working = asyncio.create_task(sweep(lake.place(store=cast("Store", store)), Scope(), HourRecorder()))
        await store.written.wait()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    asyncio.run(stop_while_claiming())
    assert lake.slot() == Slot(), "others need not wait for a quarter of an hour"


def _wait_for_outputs(root: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list(root.glob("app_id=*/**/compacted_*.parquet"))) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
