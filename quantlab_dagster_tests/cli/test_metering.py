"""`quantlab metrics`: what it judges, what it says where it cannot, and that it serves until it is told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import Lakes
from quantlab_dagster_tests.warehouse.event_lakes import EventLake, spec

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rig = Rig("local", None, tmp_path)
    lakes, events = Lakes.of(rig), EventLake.of(rig)
    events.put_spec(spec())
    file = tmp_path / "quantlab.prom"
    for name, value in {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "WAREHOUSE_URL": events.url,
        "QUANTLAB_METRICS_FILE": str(file),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return file


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def values(file: Path) -> dict[str, float]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_both_lakes_are_judged_and_what_is_wrong_in_them_is_no_failure(metrics: Path) -> None:
    assert ended("metrics", "write") == 0
    found = values(metrics)
    assert found['quantlab_lake_fine{lake="events"}'] == 0, "an hour waits to be merged"
    assert found['quantlab_lake_overdue_hours{lake="events"}'] == 1
    assert found['quantlab_lake_fine{lake="market_data"}'] == 0, "the raw lake is empty"
    assert time.time() - found['quantlab_lake_judged_timestamp_seconds{lake="market_data"}'] < 60
    assert found['quantlab_live_symbols{lake="market_data",target="binance/bbo"}'] == 0


def test_a_lake_that_cannot_be_looked_at_is_said_and_the_other_is_judged(
    metrics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTLAB_RAW_URL", str(tmp_path / "nowhere"))
    assert ended("metrics", "write") == 1
    assert "nowhere" in capsys.readouterr().err
    found = values(metrics)
    assert found['quantlab_lake_fine{lake="market_data"}'] == 0
    assert 'quantlab_lake_judged_timestamp_seconds{lake="market_data"}' not in found
    assert 'quantlab_lake_judged_timestamp_seconds{lake="events"}' in found

    metrics.unlink()
    monkeypatch.setenv("QUANTLAB_RAW_URL", str(tmp_path))
    monkeypatch.setenv("WAREHOUSE_URL", str(tmp_path / "nowhere"))
    assert ended("metrics", "write") == 1
    found = values(metrics)
    assert found['quantlab_lake_fine{lake="events"}'] == 0
    assert 'quantlab_lake_judged_timestamp_seconds{lake="events"}' not in found
    assert 'quantlab_lake_judged_timestamp_seconds{lake="market_data"}' in found


@pytest.mark.parametrize("command", [("metrics", "write"), ("status",), ("status", "--metrics")])
def test_what_only_looks_makes_no_lake(
    metrics: Path,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("QUANTLAB_COMPACT_URL", str(tmp_path / "new"))
    assert ended(*command) != 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'new'}: this local lake does not exist" in out + err
    assert not (tmp_path / "new").exists()
    assert metrics.exists() == (command != ("status",))


def test_an_event_lake_that_nobody_configured_is_not_judged(metrics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAREHOUSE_URL")
    assert ended("metrics", "write") == 0
    assert not [name for name in values(metrics) if 'lake="events"' in name and name.startswith("quantlab_lake")]


def test_market_lakes_that_nobody_configured_are_not_judged(
    metrics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A deployment of the event lake alone is green where that lake is, and no gauge is 0 for ever."""
    for name in ("QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("COMPACTION_MIN_FILES", "1000")  # nothing waits
    assert ended("metrics", "write") == 0
    found = values(metrics)
    assert found['quantlab_lake_fine{lake="events"}'] == 1
    assert not [name for name in found if 'lake="market_data"' in name]
    assert "no market lake is configured" in capsys.readouterr().err

    assert ended("status", "--metrics") == 0
    out = capsys.readouterr().out
    assert "MARKET DATA\nno market lake is configured" in out
    assert "demo-lake" not in out
    assert values(metrics).keys() == found.keys()
    assert ended("status", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["fine"], "problem" in document["event_lake"]) == (True, False)
    assert "no market lake is configured" in document["market_data"]["problem"]


def test_what_cannot_be_written_is_no_success(
    metrics: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTLAB_METRICS_FILE", str(tmp_path / "file" / "quantlab.prom"))
    assert ended("metrics", "write") == 1
    assert caplog.text.count("is not counted in") == 3
    monkeypatch.setenv("QUANTLAB_METRICS_FILE", str(metrics))
    assert ended("metrics", "write") == 0
    monkeypatch.setenv("QUANTLAB_PUSHGATEWAY_URL", "http://127.0.0.1:1")
    assert ended("metrics", "write") == 1, "not pushed"


def test_without_a_place_to_write_to_nothing_is_judged(
    metrics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("QUANTLAB_METRICS_FILE")
    assert ended("metrics", "write") == 2
    assert "nowhere to write to" in capsys.readouterr().err
    assert not metrics.exists()


@pytest.mark.slow
def test_it_serves_what_it_judges_and_ends_when_told_to(metrics: Path) -> None:
    command = [sys.executable, "-m", "quantlab_dagster.cli", "metrics", "serve", "--port", "0", "--every", "10"]
    process = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        [url] = re.findall(r"http://\S+/metrics", process.stderr.readline())
        deadline = time.monotonic() + 90
        text = ""
        while "quantlab_live_looked_timestamp_seconds{" not in text or 'fine{lake="events"}' not in text:
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
            with urlopen(url, timeout=10) as answer:  # noqa: S310  # our own
                text = answer.read().decode()
        assert text == metrics.read_text()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err.splitlines()[-1]) == (0, "stopped")
    finally:
        process.kill()
        process.communicate()
