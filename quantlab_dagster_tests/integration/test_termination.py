"""A run that is told to stop, or killed, leaves everything as it was or complete; the next run finishes the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import Lakes, oracle, same_rows, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.synthetic.market import RawPart

_STOPS_WITHIN_SECONDS = 15  # "seconds", on a machine that does other things as well


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lakes, list[RawPart]]:
    lakes = Lakes.of(Rig("local", None, tmp_path_factory.mktemp("lakes")))
    return lakes, lakes.put_spec(spec(parts=500, rows=500_000))


def _start(lakes: Lakes, compact_url: str, home: Path, *command: str) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "QUANTLAB_MEMORY_BUDGET": "16MiB",  # many small windows: it takes a while
        "DAGSTER_HOME": str(home),
    }
    arguments = [sys.executable, "-m", "quantlab_dagster.cli", *(command or ("compact", "--date", "2026-01-08"))]
    return subprocess.Popen(arguments, env=env, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_work(lakes: Lakes, process: subprocess.Popen[str], marker: str) -> None:
    deadline = time.monotonic() + 60
    while not list(lakes.scratch.rglob(marker)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.guards("half-published", "signal-lost")
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("delay", [0.0, 0.4, 1.0])
def test_stopped_in_the_middle(
    made: tuple[Lakes, list[RawPart]], tmp_path: Path, how: signal.Signals, delay: float
) -> None:
    lakes, parts = made
    compact_url = str(tmp_path / "compact")
    home = tmp_path / "home"
    home.mkdir()
    process = _start(lakes, compact_url, home)
    _wait_for_work(lakes, process, "*.lock")
    time.sleep(delay)
    process.send_signal(how)
    asked = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked < _STOPS_WITHIN_SECONDS
    assert "Traceback" not in errors, errors
    finished = process.returncode == 0
    after = Lakes(lakes.rig, lakes.raw_url, compact_url, lakes.scratch)
    published = [key for key in after.compact_keys() if key.endswith("meta.json")]
    if finished or published:  # a fast machine is through by then: what is there is whole
        assert same_rows(after.published(symbol_day()), oracle(parts))
    if published and not finished and how != signal.SIGKILL:
        assert "published as revision 1" in errors, "what stands is not said"
    if how != signal.SIGKILL:
        assert not [path for path in lakes.scratch.rglob("*") if path.is_file()], "scratch is left"
        with dg.DagsterInstance.from_config(str(home)) as instance:
            [run] = instance.get_runs()
            assert run.is_finished, run.status

    again = _start(lakes, compact_url, home)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert same_rows(after.published(symbol_day()), oracle(parts))
    assert not [path for path in lakes.scratch.rglob("*") if path.is_file()], "scratch of a killed run is left"
