"""`quantlab catch-up` is killed at any moment: the next command, or the sensor, ends its run and finishes its days.

With the daemon off the next command does it; with a real one on, its sensor and the next command do it at the same
time, or the sensor alone.

python -m pytest quantlab_dagster_tests/integration/test_killed_catch_up.py, with KILLS=30 for more moments.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.settings import load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.e2e.dagster_dev import REPOSITORY, session
from quantlab_dagster_tests.lakes import Lakes, oracle, same_rows, spec, symbol_day

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

pytestmark = [pytest.mark.slow, pytest.mark.present]

_DAYS = 3
_KILLS = int(os.environ.get("KILLS", "5"))
_KILLS_WITH_DAEMON = int(os.environ.get("KILLS", "2"))
_SEED = 20260108
_GRACE_SECONDS = 300  # on a machine with much else to do
_COMMAND_SECONDS = 600
_DAEMON_SECONDS = 600.0  # its sensor ticks every 30 seconds

_LOG = logging.getLogger(__name__)


def _days() -> list[dt.date]:
    last = last_eligible_day(utc_now())
    return [last - dt.timedelta(days=number) for number in reversed(range(_DAYS))]


@dataclass(frozen=True, slots=True)
class Raw:
    """A raw lake of some days, made once, and how long it takes to catch up on it after the first run has begun."""

    lakes: Lakes
    expected: dict[dt.date, pa.Table]
    seconds: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """A compact lake of its own, with a history of its own."""

    lakes: Lakes
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "QUANTLAB_RAW_URL": self.lakes.raw_url,
            "QUANTLAB_COMPACT_URL": self.lakes.compact_url,
            "QUANTLAB_EXCHANGES": "binance",
            "QUANTLAB_STREAMS": "bbo",
            "QUANTLAB_SCRATCH_DIR": str(self.lakes.scratch),
            "QUANTLAB_MEMORY_BUDGET": "16MiB",  # many small windows: it takes a while
            "DAGSTER_HOME": str(self.home),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "quantlab_dagster.cli", *arguments]
        env = {**os.environ, **self.env}
        return subprocess.Popen(
            command, env=env, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=_COMMAND_SECONDS)
        return process.returncode, output, errors

    def seed(self) -> None:
        code, _, errors = self.run("state", "seed", "--last-compacted", f"{_days()[0] - dt.timedelta(days=1)}")
        assert code == 0, errors

    def wait_for_the_first_run(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + _GRACE_SECONDS
        while not list((self.home / "history" / "runs").glob("*-*.db")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def unfinished(self) -> list[dg.DagsterRun]:
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return [run for run in instance.get_runs() if not run.is_finished]

    def killed(self, moment: float) -> list[dg.DagsterRun]:
        """Kill a catch-up so long after it has begun its first run; returns the runs that it leaves unfinished."""
        process = self.start("catch-up")
        try:
            self.wait_for_the_first_run(process)
            time.sleep(moment)
        finally:
            process.kill()
            process.wait()
            # Not until nobody writes there: killed at a bad moment, Dagster leaves a `tail` of its logs behind.
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()
        return self.unfinished()

    def status(self) -> tuple[int, dict[str, Any]]:
        """The exit code, and what is said of the market-data lake."""
        code, output, errors = self.run("status", "--json")
        assert code in (0, 1), output + errors
        document: dict[str, Any] = json.loads(output)["market_data"]
        return code, document

    def assert_done(self, expected: dict[dt.date, pa.Table]) -> None:
        assert self.unfinished() == []
        code, output, errors = self.run("status", "--json")
        assert code == 0, output + errors
        assert json.loads(output)["market_data"]["backlog"] == []
        assert json.loads(output)["market_data"]["last_compacted_date"] == f"{_days()[-1]:%Y%m%d}"
        assert len([key for key in self.lakes.compact_keys() if key.endswith("data.parquet")]) == _DAYS
        for day, rows in expected.items():
            assert same_rows(self.lakes.published(symbol_day(day=day)), rows), day
        assert not [path for path in self.lakes.scratch.rglob("*") if path.is_file()], "scratch of a killed run is left"


def _deployment(lakes: Lakes, home: Path) -> Deployment:
    home.mkdir()
    return Deployment(Lakes(lakes.rig, lakes.raw_url, lakes.rig.new_url(), lakes.scratch), home)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Raw:
    lakes = Lakes.of(Rig("local", None, tmp_path_factory.mktemp("lakes")))
    expected = {day: oracle(lakes.put_spec(spec(day=day, parts=400, rows=40_000))) for day in _days()}
    whole = _deployment(lakes, tmp_path_factory.mktemp("whole") / "home")
    whole.seed()
    process = whole.start("catch-up")
    try:
        whole.wait_for_the_first_run(process)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=_COMMAND_SECONDS)
        seconds = time.monotonic() - begun
    finally:
        process.kill()
    assert process.returncode == 0, errors
    whole.assert_done(expected)
    return Raw(lakes, expected, seconds)


@pytest.fixture
def deployment(raw: Raw, tmp_path: Path) -> Deployment:
    deployment = _deployment(raw.lakes, tmp_path / "home")
    deployment.seed()
    return deployment


def _moments(number: int) -> Iterator[float]:
    """The first early enough to be in the middle of a run; as fractions of a whole catch-up."""
    random_ = random.Random(_SEED)
    yield 0.02
    for _ in range(number - 1):
        yield 0.9 * random_.random()  # at the very end its process only exits


@pytest.mark.guards("dead-run")
@pytest.mark.parametrize("fraction", [pytest.param(value, id=f"{value:.3f}") for value in _moments(_KILLS)])
def test_the_next_command_finishes_the_day(raw: Raw, deployment: Deployment, fraction: float) -> None:
    dead = deployment.killed(fraction * raw.seconds)
    _LOG.info("left by the killed one: %s", ", ".join(run.status.value for run in dead) or "nothing")
    if fraction < 0.05:
        assert dead, "it was to be killed in the middle of a run"
    code, output, errors = deployment.run("catch-up", "--json")
    assert code == 0, output + errors
    assert json.loads(output)["failures"] == []
    for run in dead:
        assert f"ended run {run.run_id[:8]} (compact_day {run.tags['dagster/partition']})" in errors
    assert errors.count("ended run") == len(dead) <= 1
    deployment.assert_done(raw.expected)


@pytest.fixture(scope="module")
def home_with_sensor(raw: Raw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which nothing has run yet, and the sensor is on."""
    deployment = _deployment(raw.lakes, tmp_path_factory.mktemp("sensor") / "home")
    (deployment.home / "dagster.yaml").symlink_to(REPOSITORY / "dagster.yaml")
    command = [str(Path(sys.executable).parent / "dagster"), "sensor", "start", "catch_up", "-w", "workspace.yaml"]
    env = {**os.environ, **deployment.env}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return deployment.home


@contextmanager
def _daemon(deployment: Deployment) -> Iterator[Path]:
    """A daemon, of which in the end nothing is left; yields what it prints."""
    with tempfile.TemporaryDirectory(prefix="daemon-") as temporary:  # not pytest's: it would be too long for sockets
        command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-w", "workspace.yaml"]
        env = {**os.environ, **deployment.env, "TMPDIR": temporary}
        log = deployment.home.parent / "daemon.log"
        with session(command, log, env):
            yield log


@pytest.mark.guards("dead-run")
@pytest.mark.parametrize(
    ("fraction", "alone"),
    [
        pytest.param(value, bool(number % 2), id=f"{value:.3f}-{'alone' if number % 2 else 'beside'}")
        for number, value in enumerate(_moments(_KILLS_WITH_DAEMON))
    ],
)
def test_with_a_daemon_the_next_one_finishes_the_day(
    raw: Raw, home_with_sensor: Path, tmp_path: Path, fraction: float, alone: bool
) -> None:
    shutil.copytree(home_with_sensor, tmp_path / "home", symlinks=True)
    lakes = Lakes(raw.lakes.rig, raw.lakes.raw_url, raw.lakes.rig.new_url(), raw.lakes.scratch)
    deployment = Deployment(lakes, tmp_path / "home")
    deployment.seed()
    with _daemon(deployment) as log:
        dead = deployment.killed(fraction * raw.seconds)
        _LOG.info("left by the killed one: %s", ", ".join(run.status.value for run in dead) or "nothing")
        code = None
        if not alone:
            code, output, errors = deployment.run("catch-up", "--json")
            assert code in (0, 1), output + errors
            assert json.loads(output)["failures"] == []
        deadline = time.monotonic() + _DAEMON_SECONDS
        while True:
            said, document = deployment.status()
            settled = document["last_compacted_date"] == f"{_days()[-1]:%Y%m%d}"
            assert (said == 0) == settled, document
            assert settled or code != 0, "the next command said that all is well"
            if settled and not deployment.unfinished():
                break
            assert time.monotonic() < deadline, f"{document}\n{log.read_text()[-20_000:]}"
            time.sleep(2)
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        runs = instance.get_runs()
    by_status = {f"{run.tags['dagster/partition']} {run.status.value}" for run in runs}
    _LOG.info("runs in the end: %s", ", ".join(sorted(by_status)))
    failed = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
    assert all("quantlab/died" in run.tags for run in failed), "no run failed, but for the one that was killed"
    assert len(failed) <= 1
    deployment.assert_done(raw.expected)


@pytest.mark.guards("dead-run")
def test_the_sensor_finishes_the_day(raw: Raw, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    assert deployment.killed(0.02 * raw.seconds)
    for name, value in deployment.env.items():
        monkeypatch.setenv(name, value)
    definitions = build_definitions(load_settings())
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        asked = []
        while requests := _tick(definitions, instance):
            for request in requests:
                asked.append((request.run_key, request.tags["quantlab/attempt"]))
                _run(definitions, instance, request)
    assert asked[0] == (f"day:{_days()[0]:%Y%m%d}:1", "2"), "the attempt that died counts, and had no key"
    assert len(asked) == _DAYS
    deployment.assert_done(raw.expected)


def _tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    resources: dict[str, Any] = dict(definitions.resources or {})
    repository = definitions.get_repository_def()
    sensor = repository.get_sensor_def("catch_up")
    with dg.build_sensor_context(instance, repository_def=repository, resources=resources) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return list(result.run_requests or ())


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance, request: dg.RunRequest) -> None:
    done = definitions.resolve_job_def("compact_day").execute_in_process(
        instance=instance,
        partition_key=request.partition_key,
        asset_selection=request.asset_selection,
        tags=request.tags,
    )
    assert done.success
