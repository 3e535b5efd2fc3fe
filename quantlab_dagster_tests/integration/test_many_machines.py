"""Days on Celery workers, with the history in Postgres and one lake: one worker is killed, and the days end right.

The usual size is for CI. `MACHINES_SIZE=days,pairs,symbols,rows,parts` makes it another. With `MACHINES_COMPARE=yes`
all days are then built again, with one worker and with two: docs/scale.md has the numbers. With
`MACHINES_IMAGE=file.png` the page of the run whose worker was killed is left there.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from playwright.sync_api import Error, sync_playwright

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.market.handover import HANDED_OVER
from quantlab_dagster.defs.names import JOB, compact_key
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.market.journal import JOURNAL
from quantlab_dagster.market.outcome import Verdict
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.settings import load_settings
from quantlab_dagster_tests import cluster
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.daemon import dequeue
from quantlab_dagster_tests.lakes import Lakes, spec
from quantlab_dagster_tests.postgres import postgres
from quantlab_dagster_tests.servers import HOST, free_ports, started_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dagster._core.workspace.context import WorkspaceProcessContext

    from quantlab_dagster_tests.cluster import Worker
    from quantlab_dagster_tests.servers import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(7200)]

_SECONDS = 600.0
_SECONDS_A_DAY = 180.0  # of 600 symbol-days, by one worker: 75 on a machine with nothing else to do
_LOST_AFTER = 20  # longer than a step takes on a loaded machine: one that is begun twice ends twice, too
_FEW = 4
_FIRST_DAY = dt.date(2026, 1, 5)
_CODE_SERVER_ENDS = 30.0
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to do."""

    days: int = 2
    pairs: int = 2
    symbols: int = 3
    rows: int = 10_000
    parts: int = 20

    @classmethod
    def wanted(cls) -> Size:
        text = os.environ.get("MACHINES_SIZE", "")
        return cls(*map(int, text.split(","))) if text else cls()

    @property
    def all_days(self) -> list[dt.date]:
        return [_FIRST_DAY + dt.timedelta(days=number) for number in range(self.days)]

    @property
    def all_pairs(self) -> list[Pair]:
        return [Pair(exchange, stream) for exchange in ("binance", "okx", "bybit") for stream in ("bbo", "trade")][
            : self.pairs
        ]


@dataclass(frozen=True, slots=True)
class Machines:
    """Everything that runs."""

    instance: dg.DagsterInstance
    context: WorkspaceProcessContext
    lakes: Lakes
    directory: Path
    broker: str

    @contextmanager
    def workers(self, *names: str) -> Iterator[list[Worker]]:
        config = self.directory / "celery.yaml"
        with ExitStack() as stack:
            made = [
                stack.enter_context(cluster.worker(name, config, self.directory, dict(os.environ))) for name in names
            ]
            cluster.await_workers(made)
            yield made

    def launch(self, days: Sequence[dt.date], pairs: Sequence[Pair] = ()) -> list[str]:
        """Put a run of each day into the queue, which builds again what these pairs have."""
        again = {"config": {"overwrite": True}}
        config = {"ops": {"__".join(compact_key(pair).path): again for pair in pairs}}
        [location] = self.context.create_request_context().code_locations
        [repository] = location.get_repositories().values()
        remote, job = repository.get_full_job(JOB), build_definitions(load_settings()).resolve_job_def(JOB)
        ids = []
        for day in days:
            run = self.instance.create_run_for_job(
                job,
                run_config=config,
                tags={"dagster/partition": f"{day}"},
                remote_job_origin=remote.get_remote_origin(),
                job_code_origin=remote.get_python_origin(),
            )
            self.instance.submit_run(run.run_id, self.context.create_request_context())
            ids.append(run.run_id)
        return ids

    def ended(self, ids: Sequence[str]) -> bool:
        """Let the daemon look; whether all runs have ended."""
        dequeue(self.context)
        runs = [self.instance.get_run_by_id(run_id) for run_id in ids]
        return all(run is not None and run.status in _ENDED for run in runs)

    def await_end(self, ids: Sequence[str]) -> None:
        deadline = time.monotonic() + _SECONDS + len(ids) * _SECONDS_A_DAY
        while not self.ended(ids):
            assert time.monotonic() < deadline, self.story(ids)
            time.sleep(0.5)

    def steps(self, run_id: str, kind: dg.DagsterEventType) -> Counter[str]:
        return Counter(entry.step_key or "" for entry in self.instance.all_logs(run_id, of_type=kind))

    def at_work(self, ids: Sequence[str], name: str) -> list[str]:
        """Chunks that this worker has begun and nobody has ended."""
        found = []
        for run_id in ids:
            ended = self.steps(run_id, dg.DagsterEventType.STEP_SUCCESS)
            for entry in self.instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
                event = entry.dagster_event
                assert event is not None
                by = str(event.engine_event_data.metadata.get("Celery worker", dg.MetadataValue.text("")).value)
                step = entry.step_key or ""
                begun = self.steps(run_id, dg.DagsterEventType.STEP_START)
                if by.startswith(f"{name}@") and ".chunk[" in step and step in begun and step not in ended:
                    found.append(f"{run_id} {step}")
        return found

    def kill_at_work(self, victim: Worker, ids: Sequence[str]) -> str:
        """Kill a worker in the middle of a chunk; which one that is."""
        deadline = time.monotonic() + _SECONDS
        while True:
            assert not self.ended(ids), "ended before anything was killed"
            assert time.monotonic() < deadline, self.story(ids)
            os.killpg(victim.popen.pid, signal.SIGSTOP)  # so that it does not end while it is looked at
            if found := self.at_work(ids, victim.name):
                victim.kill()
                return found[0]
            os.killpg(victim.popen.pid, signal.SIGCONT)
            time.sleep(0.1)

    def story(self, ids: Sequence[str]) -> str:
        lines = [f"{entry.step_key}: {entry.message}" for run in ids for entry in self.instance.all_logs(run)[-15:]]
        logs = [path.read_text(errors="replace")[-3000:] for path in self.directory.glob("*.log")]
        return "\n".join([*lines, *logs])


@pytest.fixture
def size() -> Size:
    return Size.wanted()


@pytest.fixture
def machines(seaweed: S3Server, size: Size, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    if reason := cluster.missing():
        pytest.skip(f"needs {reason}")
    home, directory = tmp_path / "home", tmp_path / "machines"
    home.mkdir()
    directory.mkdir()
    lakes = Lakes.of(Rig("seaweedfs", seaweed, tmp_path))
    with ExitStack() as stack:
        database = stack.enter_context(postgres(directory / "postgres.log")).url
        broker = stack.enter_context(cluster.redis_server(directory / "redis.log"))
        variables = {
            **seaweed.env(),
            "QUANTLAB_RAW_URL": lakes.raw_url,
            "QUANTLAB_COMPACT_URL": lakes.compact_url,
            "QUANTLAB_EXCHANGES": ",".join(sorted({pair.exchange for pair in size.all_pairs})),
            "QUANTLAB_STREAMS": ",".join(sorted({pair.stream for pair in size.all_pairs})),
            "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
            "QUANTLAB_EXECUTOR": "celery",
            "QUANTLAB_EXECUTOR_CONFIG": str(
                cluster.celery_file(directory / "celery.yaml", visibility_timeout=_LOST_AFTER)
            ),
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": database,
            "CELERY_BROKER_URL": broker,
            "CELERY_RESULT_BACKEND": broker,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        (home / "dagster.yaml").write_text(cluster.shipped_with(cluster.DEPLOY / "celery" / "dagster.yaml"))
        total = put_days(lakes, size)
        monkeypatch.setenv("QUANTLAB_CHUNK_SIZE", str(total // 2 + 1))  # two or three chunks of each day of a pair
        instance = stack.enter_context(dg.DagsterInstance.get())
        assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        target = ModuleTarget("quantlab_dagster.definitions", None, str(directory), "quantlab")
        context = stack.enter_context(create_test_daemon_workspace_context(target, instance))
        yield Machines(instance, context, lakes, directory, broker)
    # Dagster tells its code server to end, and does not wait: it would be missed in whatever test comes then.
    popens = [found for found in gc.get_objects() if isinstance(found, subprocess.Popen)]
    for process in [popen for popen in popens if "grpc" in str(popen.args)]:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_CODE_SERVER_ENDS)


def put_days(lakes: Lakes, size: Size) -> int:
    """Fill the raw lake; returns the bytes of a pair's day."""
    total = 0
    for pair in size.all_pairs:
        for day in size.all_days:
            for number in range(size.symbols):
                one = spec(f"sym{number:03d}usdt", parts=size.parts, rows=size.rows, seed=number, day=day)
                parts = lakes.put_spec(replaced(one, pair))
                total += sum(len(part.data) for part in parts)
    return total // (size.pairs * size.days)


def replaced(one: Any, pair: Pair) -> Any:
    return type(one)(pair.exchange, pair.stream, one.symbol, one.day, one.parts, one.rows, one.seed)


def assert_right(machines: Machines, size: Size) -> None:
    """What is published is what the raw lake has, every symbol-day once, and everything says so.

    Of more days than a few the rows of the first and the last are compared; that takes longer than to compact them.
    """
    place = machines.lakes.place(now=dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    for pair in size.all_pairs:
        for day in size.all_days if size.days <= _FEW else (size.all_days[0], size.all_days[-1]):
            verified = asyncio.run(verify_pair(place, pair, day))
            assert len(verified) == size.symbols
            assert {(one.verdict, one.against_raw, one.rows) for one in verified} == {(Verdict.RIGHT, True, size.rows)}
            for one in verified:
                assert machines.lakes.meta(one.symbol_day)["revision"] == 1, "nothing was published twice"
    state = asyncio.run(StateStore(place.compact).read())
    assert state is not None
    expected = {
        SymbolDay(pair.exchange, pair.stream, f"sym{number:03d}usdt", day).state_key
        for pair in size.all_pairs
        for day in size.all_days
        for number in range(size.symbols)
    }
    assert set(state.partitions) == expected
    assert {record.status for record in state.partitions.values()} == {"success"}
    listed = asyncio.run(place.compact.list_objects("compacted/"))
    left = [info.key for info in listed if info.key.startswith((JOURNAL, HANDED_OVER))]
    assert left == [], "what steps recorded is folded, and what they handed over is removed"


def test_a_worker_is_killed_and_its_days_end_right(
    machines: Machines, size: Size, capsys: pytest.CaptureFixture[str]
) -> None:
    with machines.workers("one", "two") as (one, _):
        started = time.monotonic()
        ids = machines.launch(size.all_days)
        run_id, _, step = machines.kill_at_work(one, ids).partition(" ")
        machines.await_end(ids)
        seconds = time.monotonic() - started
    runs = [machines.instance.get_run_by_id(run_id) for run_id in ids]
    assert [run.status for run in runs if run] == [dg.DagsterRunStatus.SUCCESS] * size.days, machines.story(ids)
    assert machines.steps(run_id, dg.DagsterEventType.STEP_START)[step] == 2, "another worker did it again"
    assert machines.steps(run_id, dg.DagsterEventType.STEP_SUCCESS)[step] == 1
    assert_right(machines, size)
    for pair in size.all_pairs:
        records = machines.instance.fetch_materializations(compact_key(pair), limit=100).records
        days = Counter(record.partition_key for record in records)
        assert days == dict.fromkeys((f"{day}" for day in size.all_days), 1)
    with capsys.disabled():
        print(f"\n{size}: two workers, one killed in {step}: {seconds:.1f} s")  # noqa: T201
        if os.environ.get("MACHINES_COMPARE"):
            for names in (("three",), ("four", "five")):
                print(f"{len(names)} of them, all days again: {built_again(machines, size, names):.1f} s")  # noqa: T201
        if image := os.environ.get("MACHINES_IMAGE"):
            picture(machines, run_id, image)


def built_again(machines: Machines, size: Size, names: Sequence[str]) -> float:
    """Seconds that workers need to build all days again, after they have begun once."""
    with machines.workers(*names):
        started = time.monotonic()
        ids = machines.launch(size.all_days, size.all_pairs)
        machines.await_end(ids)
        seconds = time.monotonic() - started
    assert_right(machines, size)
    return seconds


def picture(machines: Machines, run_id: str, file: str) -> None:
    """The page of a run, as it stands."""
    [port] = free_ports(1)
    program = Path(sys.executable).parent / "dagster-webserver"
    argv: list[str | Path] = [program, "-m", "quantlab_dagster.definitions", "-h", HOST, "-p", str(port)]
    with (
        started_process(argv, log=machines.directory / "webserver.log", env=dict(os.environ)),
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]) as browser,
    ):
        deadline = time.monotonic() + _SECONDS
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        while True:
            try:
                page.goto(f"http://{HOST}:{port}/runs/{run_id}", timeout=120_000)
                break
            except Error:
                assert time.monotonic() < deadline
                time.sleep(1)
        page.get_by_text("finish").first.wait_for(timeout=300_000)
        page.mouse.click(1183, 140)  # the steps on all of the page, the log away
        page.wait_for_timeout(3_000)
        page.screenshot(path=file, animations="disabled", timeout=300_000)
