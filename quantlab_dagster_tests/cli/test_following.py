"""`quantlab warehouse run`: a loop without Dagster's daemon, its `/metrics`, and that it ends when it is told to."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest

from quantlab_dagster.cli import following
from quantlab_dagster.cli.app import main
from quantlab_dagster.cli.exporter import serving
from quantlab_dagster.cli.following import Stopping, follow, stopped_by_signals
from quantlab_dagster.cli.runs.ticks import next_tick
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster.work.processes import has_ended, process_of
from quantlab_dagster.work.schedule import Schedule
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import EventLake, spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_STOPS_WITHIN_SECONDS = 10


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("schedule", "now", "tick"),
    [
        ("1h", "2026-01-15T10:00:00", "2026-01-15T11:00"),
        ("1h", "2026-01-15T10:00:00.5", "2026-01-15T11:00"),
        ("15m", "2026-01-15T23:50", "2026-01-16T00:00"),
        ("90m", "2026-01-15T10:00", "2026-01-15T10:30"),
        ("90m", "2026-01-15T10:30", "2026-01-15T12:00"),
        ("7 3 * * *", "2026-01-15T03:08", "2026-01-16T03:07"),
    ],
)
def test_the_next_tick_is_that_of_the_schedule(schedule: str, now: str, tick: str) -> None:
    assert next_tick(Schedule.parse(schedule), moment(now)) == moment(tick)


# ---- the loop --------------------------------------------------------------------------------------------------------


def followed(script: str, stopping: Stopping, next_tick: Callable[[dt.datetime], dt.datetime]) -> list[str]:
    said: list[str] = []
    environment = {"PATH": os.environ["PATH"], "SAID": "yes"}
    follow([sys.executable, "-c", script], environment, next_tick, stopping, clock=utc_now, tell=said.append)
    return said


def test_it_runs_at_once_and_at_each_tick_also_after_a_run_that_failed(tmp_path: Path) -> None:
    stopping, asked = Stopping(), []

    def soon(now: dt.datetime) -> dt.datetime:
        asked.append(now)
        if len(asked) == 3:
            stopping.ask()
        return now + dt.timedelta(seconds=0.2)

    script = f"import os, sys; open({str(tmp_path / 'runs')!r}, 'a').write(os.environ['SAID'] + '.'); sys.exit(1)"
    said = followed(script, stopping, soon)
    assert (tmp_path / "runs").read_text() == "yes.yes.yes."
    assert said[0] == "the run ended with exit code 1; the loop goes on"


def test_a_run_that_does_not_stop_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PATIENCE_SECONDS", 1.0)
    stopping = Stopping()
    pids = tmp_path / "pids"
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    script = f"""
import os, signal, subprocess, sys, time
signal.signal(15, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {child!r}])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}} ")
time.sleep(60)
"""

    def ask() -> None:
        while not pids.exists() or not pids.read_text().endswith(" "):
            time.sleep(0.02)
        time.sleep(0.5)  # the child, too, has to ignore it by now
        stopping.ask()

    threading.Thread(target=ask).start()
    started = time.monotonic()
    assert followed(script, stopping, lambda now: now + dt.timedelta(hours=1)) == [], "its end is no failure"
    assert time.monotonic() - started < 20
    for pid in pids.read_text().split():
        deadline = time.monotonic() + 5
        while not has_ended(process_of(int(pid))):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_signals_ask_to_stop_and_their_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals() as stopping:
        assert not stopping.asked
        signal.raise_signal(signal.SIGTERM)
        assert stopping.wait(0)
    assert signal.getsignal(signal.SIGTERM) is before


# ---- /metrics --------------------------------------------------------------------------------------------------------


def read(url: str) -> tuple[int, str, str]:
    try:
        with urlopen(url, timeout=10) as answer:  # noqa: S310  # our own
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_the_file_is_served_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "quantlab.prom"
    with serving(file, "127.0.0.1", 0, "") as url:
        assert read(url) == (200, "text/plain; version=0.0.4; charset=utf-8", ""), "nothing is counted yet"
        for text in ("a_total 1.0\n", "a_total 2.0\n"):
            file.write_text(text)
            assert read(url)[2] == text
        assert read(f"{url}?name[]=x")[0] == 200
        assert read(url.removesuffix("metrics") + "quantlab.env")[0] == 404
        file.unlink()
        file.mkdir()
        assert read(url)[0] == 500
        said = r"cannot be listened at \(Address already in use\)\. Use another --host or --port"
        with pytest.raises(SettingsError, match=said), serving(file, "127.0.0.1", port_of(url), "--host or --port"):
            pass
    with pytest.raises(OSError, match="refused"):
        urlopen(url, timeout=5)  # noqa: S310  # our own


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].partition("/")[0])


# ---- as it is typed --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_compacts_serves_the_metrics_and_ends_when_told_to(tmp_path: Path, number: signal.Signals) -> None:
    lake = EventLake.of(Rig("local", None, tmp_path))
    lake.put_spec(spec())
    env = {
        **os.environ,
        "WAREHOUSE_URL": lake.url,
        "QUANTLAB_SCRATCH_DIR": str(lake.scratch),
        "DAGSTER_HOME": str(tmp_path / "home"),
        "COMPACTION_METRICS_ALIASES": "true",
        "COMPACTION_SCHEDULE": "1h0m0s",
    }
    command = [sys.executable, "-m", "quantlab_dagster.cli", "warehouse", "run", "--metrics-port", "0"]
    process = subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        said = ""
        while "metrics at" not in said:
            said += process.stderr.readline()
            assert process.poll() is None, said
        [url] = re.findall(r"http://\S+", said)
        deadline = time.monotonic() + 90
        while "\ncompaction_runs_total 1.0\n" not in (text := read(url)[2]):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        assert len(lake.names()) == 1
        assert '\nquantlab_compaction_input_files_total{lake="events",target="warehouse/events"} 4.0\n' in text
        assert "\ncompaction_files_compacted_total 4.0\n" in text
        assert '\ncompaction_duration_seconds_bucket{le="+Inf"} 1.0\n' in text
        while psutil.Process(process.pid).children():  # the run counts, and then says what it did
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        asked = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - asked < _STOPS_WITHIN_SECONDS
        assert (process.returncode, err.splitlines()[-1]) == (0, "stopped"), err
        assert "compacted 1: 4 files → 1" in out
    finally:
        process.kill()
        process.communicate()


def test_wrong_settings_are_said_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COMPACTION_SCHEDULE", "30s")
    with pytest.raises(SystemExit) as ended:
        main(["warehouse", "run"])
    assert ended.value.code == 2
    assert "has seconds: hours become cold by the minute" in capsys.readouterr().err
