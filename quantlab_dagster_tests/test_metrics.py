from __future__ import annotations

import base64
import datetime as dt
import logging
import math
import multiprocessing
import os
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from prometheus_client.parser import text_string_to_metric_families

from quantlab_dagster import metrics
from quantlab_dagster.metrics import MetricsTarget, RunCounts, record_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Barrier

NOW = dt.datetime(2026, 1, 9, 2, 31, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(hours=1)

BBO = RunCounts(
    "market_data",
    "binance/bbo",
    succeeded=True,
    seconds=12.5,
    rows=3_270_000,
    files_in=3252,
    files_out=2,
    bytes_in=86_000_000,
    bytes_out=36_000_000,
    partitions={"compacted": 2, "skipped": 1},
)
EVENTS = RunCounts("events", "warehouse/events", succeeded=True, seconds=3, rows=10, partitions={"compacted": 4})
FAILED = RunCounts(
    "market_data", "binance/bbo", succeeded=False, seconds=1.5, partitions={"quarantined": 1, "failed": 3}
)

PROCESSES = 8
RUNS = 25


def values(text: str) -> dict[str, float]:
    """Series, written as `name target [result]`, to values."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = (sample.labels["target"], sample.labels.get("result", ""))
            found[" ".join([sample.name.removeprefix("quantlab_compaction_"), *labels]).strip()] = sample.value
    return found


def written(target: MetricsTarget) -> dict[str, float]:
    return values(target.file.read_text())


@pytest.fixture
def target(tmp_path: Path) -> MetricsTarget:
    return MetricsTarget(tmp_path / "quantlab.prom", instance="host-1")


@dataclass(slots=True)
class Gateway:
    """A Pushgateway that remembers what it got."""

    url: str
    status: int = 202
    answer: threading.Event = field(default_factory=threading.Event)
    called: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None, str]] = field(default_factory=list)

    def sums(self) -> list[dict[str, float]]:
        return [values(body) for _, _, body in self.requests]


@contextmanager
def serving() -> Iterator[Gateway]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            served.requests.append((self.path, self.headers["Authorization"], body))
            served.called.set()
            served.answer.wait(30)
            try:
                self.send_response(served.status)
                self.end_headers()
            except ConnectionError:
                pass  # the client has given up

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Gateway(f"http://127.0.0.1:{server.server_port}")
        served.answer.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.answer.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as served:
        yield served


# --- Counting ---------------------------------------------------------------------------------------------------------


def test_runs_add_up(target: MetricsTarget, caplog: pytest.LogCaptureFixture) -> None:
    record_run(target, BBO, NOW)
    record_run(target, replace(BBO, seconds=2.25, rows=1, partitions={"skipped": 3}), LATER)
    assert written(target) == {
        "runs_total binance/bbo success": 2,
        "runs_total binance/bbo failure": 0,
        "partitions_total binance/bbo compacted": 2,
        "partitions_total binance/bbo skipped": 4,
        "partitions_total binance/bbo quarantined": 0,
        "partitions_total binance/bbo failed": 0,
        "duration_seconds_total binance/bbo": 14.75,
        "rows_total binance/bbo": 3_270_001,
        "input_files_total binance/bbo": 6504,
        "output_files_total binance/bbo": 4,
        "input_bytes_total binance/bbo": 172_000_000,
        "output_bytes_total binance/bbo": 72_000_000,
        "last_run_timestamp_seconds binance/bbo": LATER.timestamp(),
        "last_success_timestamp_seconds binance/bbo": LATER.timestamp(),
        "last_duration_seconds binance/bbo": 2.25,
    }
    assert caplog.records == []


def test_both_lakes_side_by_side(target: MetricsTarget) -> None:
    for counts in (BBO, EVENTS, EVENTS, BBO, EVENTS):
        record_run(target, counts, NOW)
    found = written(target)
    assert found["runs_total binance/bbo success"] == 2
    assert found["runs_total warehouse/events success"] == 3
    assert found["rows_total warehouse/events"] == 30
    assert found["partitions_total warehouse/events compacted"] == 12
    lines = target.file.read_text().splitlines()
    assert 'quantlab_compaction_rows_total{lake="events",target="warehouse/events"} 30.0' in lines
    assert 'quantlab_compaction_runs_total{lake="market_data",result="success",target="binance/bbo"} 2.0' in lines


def test_a_failed_run_leaves_the_time_of_the_last_success(target: MetricsTarget) -> None:
    record_run(target, BBO, NOW)
    record_run(target, FAILED, LATER)
    found = written(target)
    assert found["runs_total binance/bbo success"] == found["runs_total binance/bbo failure"] == 1
    assert found["partitions_total binance/bbo failed"] == 3
    assert found["partitions_total binance/bbo quarantined"] == 1
    assert found["duration_seconds_total binance/bbo"] == 14
    assert found["last_run_timestamp_seconds binance/bbo"] == LATER.timestamp()
    assert found["last_success_timestamp_seconds binance/bbo"] == NOW.timestamp()
    assert found["last_duration_seconds binance/bbo"] == 1.5


def test_every_series_is_there_after_a_first_run_that_failed(target: MetricsTarget) -> None:
    record_run(target, FAILED, NOW)
    found = written(target)
    assert found["runs_total binance/bbo success"] == found["rows_total binance/bbo"] == 0
    assert found["partitions_total binance/bbo compacted"] == 0
    assert found["last_success_timestamp_seconds binance/bbo"] == 0
    assert len(found) == 15


def test_the_text_is_as_the_text_format_wants_it(target: MetricsTarget) -> None:
    record_run(target, BBO, NOW)
    record_run(target, EVENTS, NOW)
    text = target.file.read_text()
    assert text.endswith("\n")
    assert "_created" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# HELP ") == text.count("# TYPE ") == 11
    for name, family in families.items():
        assert name.startswith("quantlab_compaction_")
        assert len(family.documentation) > 20
        assert family.type == ("gauge" if "_last_" in name else "counter")
        assert {sample.labels["lake"] for sample in family.samples} == {"market_data", "events"}


def test_nothing_counts_backwards_and_nothing_poisons_a_counter(target: MetricsTarget) -> None:
    record_run(target, BBO, NOW)
    odd = replace(BBO, seconds=math.nan, rows=-5, bytes_in=-1, partitions={"failed": -2})
    for seconds in (math.nan, -1.0, math.inf):
        record_run(target, replace(odd, seconds=seconds), LATER)
    found = written(target)
    assert found["runs_total binance/bbo success"] == 4
    assert found["duration_seconds_total binance/bbo"] == 12.5
    assert found["last_duration_seconds binance/bbo"] == 0
    assert found["rows_total binance/bbo"] == 3_270_000
    assert found["partitions_total binance/bbo failed"] == 0


def test_numbers_and_names_survive_the_file_exactly(target: MetricsTarget) -> None:
    awkward = replace(BBO, target='a "b"\\c\nd, e="f"} é', bytes_in=1_234_567_890_123_457, seconds=0.1)
    for _ in range(3):
        record_run(target, awkward, NOW)
    found = written(target)
    assert found[f"input_bytes_total {awkward.target}"] == 3 * awkward.bytes_in
    assert found[f"duration_seconds_total {awkward.target}"] == 0.1 + 0.1 + 0.1
    assert found[f"last_run_timestamp_seconds {awkward.target}"] == NOW.timestamp()
    assert len(found) == 15


def test_a_new_result_is_counted_too(target: MetricsTarget) -> None:
    for _ in range(2):
        record_run(target, replace(BBO, partitions={"postponed": 1}), NOW)
    assert written(target)["partitions_total binance/bbo postponed"] == 2


def _record_many(file: Path, target: str, barrier: Barrier) -> None:
    barrier.wait(60)
    for _ in range(RUNS):
        record_run(MetricsTarget(file), RunCounts("market_data", target, succeeded=True, seconds=1, rows=7), NOW)


def test_processes_at_once_lose_nothing(target: MetricsTarget) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(PROCESSES)
    processes = [
        spawn.Process(target=_record_many, args=(target.file, f"binance/{number % 2}", barrier))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
        process.close()
    found = written(target)
    for stream in ("binance/0", "binance/1"):
        assert found[f"runs_total {stream} success"] == PROCESSES // 2 * RUNS
        assert found[f"rows_total {stream}"] == PROCESSES // 2 * RUNS * 7


# --- The file ---------------------------------------------------------------------------------------------------------


def test_the_directory_is_made_and_the_file_is_readable_by_node_exporter(target: MetricsTarget) -> None:
    nested = replace(target, file=target.file.parent / "a" / "b" / "quantlab.prom")
    before = os.umask(0o077)
    try:
        record_run(nested, BBO, NOW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(nested.file.stat().st_mode) == 0o644
    # The textfile collector reads whatever ends in .prom.
    assert [path.name for path in nested.file.parent.glob("*.prom")] == ["quantlab.prom"]
    assert not list(nested.file.parent.glob("*.tmp"))


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\x00 no text",
        b"this is { no metric\n",
        b"# TYPE quantlab_compaction_rows_total counter\nquantlab_compaction_rows_total{lake=\n",
        b'# TYPE quantlab_compaction_rows_total counter\nquantlab_compaction_rows_total{lake="events"} 3\n',
        b'quantlab_compaction_rows_total{lake="events",target="t"} NaN\n',
        b'quantlab_compaction_rows_total{lake="events",target="t"} -1\n',
    ],
)
def test_a_file_that_makes_no_sense_is_moved_aside(
    target: MetricsTarget, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    target.file.write_bytes(damage)
    record_run(target, BBO, NOW)
    record_run(target, BBO, NOW)
    assert target.file.with_name("quantlab.prom.bad").read_bytes() == damage
    assert written(target)["runs_total binance/bbo success"] == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "quantlab.prom.bad" in record.getMessage()


def test_an_empty_file_begins_at_zero(target: MetricsTarget, caplog: pytest.LogCaptureFixture) -> None:
    target.file.touch()
    record_run(target, BBO, NOW)
    assert written(target)["runs_total binance/bbo success"] == 1
    assert caplog.records == []


def test_metrics_of_others_are_dropped(target: MetricsTarget) -> None:
    record_run(target, BBO, NOW)
    with target.file.open("a") as file:
        file.write('# TYPE other_total counter\nother_total{a="b"} 1\nquantlab_compaction_old_total 3\n')
    record_run(target, BBO, NOW)
    assert written(target)["runs_total binance/bbo success"] == 2
    assert "other" not in target.file.read_text()
    assert "old" not in target.file.read_text()


def test_a_directory_that_cannot_be_made_is_a_warning(
    target: MetricsTarget, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    target.file.write_text("in the way")
    below = replace(target, file=target.file / "quantlab.prom", pushgateway_url=gateway.url)
    record_run(below, BBO, NOW)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(below.file) in record.getMessage()
    assert "binance/bbo" in record.getMessage()
    assert "Error" in record.getMessage()
    # The run alone would look like counters that start at zero again.
    assert gateway.requests == []


def test_a_file_that_cannot_be_opened_is_left_alone(
    target: MetricsTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_run(target, BBO, NOW)
    before = target.file.read_text()

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", denied)
        record_run(target, BBO, NOW)
    assert target.file.read_text() == before
    assert not target.file.with_name("quantlab.prom.bad").exists()
    (record,) = caplog.records
    assert "PermissionError" in record.getMessage()


def test_a_write_that_fails_leaves_the_counters(
    target: MetricsTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_run(target, BBO, NOW)
    before = target.file.read_bytes()

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        record_run(target, BBO, NOW)
    assert target.file.read_bytes() == before
    assert "No space left on device" in caplog.text
    record_run(target, BBO, NOW)
    assert written(target)["runs_total binance/bbo success"] == 2


def test_a_lock_that_stays_held_is_a_warning(
    target: MetricsTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_LOCK_SECONDS", 0.2)
    with FileLock(f"{target.file}.lock"):
        thread = threading.Thread(target=record_run, args=(target, BBO, NOW))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert not target.file.exists()
    (record,) = caplog.records
    assert "quantlab.prom.lock" in record.getMessage()


# --- Pushing ----------------------------------------------------------------------------------------------------------


def test_the_sums_are_pushed(target: MetricsTarget, gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    pushing = replace(target, pushgateway_url=gateway.url)
    record_run(target, BBO, NOW)  # counted before there was a gateway
    record_run(pushing, EVENTS, NOW)
    record_run(pushing, BBO, LATER)
    assert [path for path, _, _ in gateway.requests] == ["/metrics/job/quantlab/instance/host-1"] * 2
    assert [authorization for _, authorization, _ in gateway.requests] == [None, None]
    assert [sums["rows_total binance/bbo"] for sums in gateway.sums()] == [3_270_000, 6_540_000]
    assert gateway.requests[-1][2] == target.file.read_text()
    assert caplog.records == []


def test_the_path_of_the_gateway_is_kept(target: MetricsTarget, gateway: Gateway) -> None:
    record_run(replace(target, pushgateway_url=f"{gateway.url}/push/", instance="a/b"), BBO, NOW)
    assert gateway.requests[0][0] == "/push/metrics/job/quantlab/instance@base64/YS9i"


def test_a_gateway_that_is_down_is_a_warning(target: MetricsTarget, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as gone:
        pass
    down = replace(target, pushgateway_url=gone.url)
    started = time.monotonic()
    record_run(down, BBO, NOW)
    assert time.monotonic() - started < 4.5
    assert written(target)["runs_total binance/bbo success"] == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert gone.url in record.getMessage()
    assert "refused" in record.getMessage()


def test_what_a_push_missed_comes_with_the_next(target: MetricsTarget, gateway: Gateway) -> None:
    pushing = replace(target, pushgateway_url=gateway.url)
    gateway.status = 503
    record_run(pushing, BBO, NOW)
    gateway.status = 202
    record_run(pushing, BBO, NOW)
    assert gateway.sums()[-1]["runs_total binance/bbo success"] == 2


def test_a_gateway_that_is_slow_is_not_waited_for(
    target: MetricsTarget, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.answer.clear()
    started = time.monotonic()
    record_run(replace(target, pushgateway_url=gateway.url), BBO, NOW, push_timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 4.5
    assert written(target)["runs_total binance/bbo success"] == 1
    (record,) = caplog.records
    assert "timed out" in record.getMessage()


def test_a_slow_push_delays_no_counting_and_is_not_overtaken(target: MetricsTarget, gateway: Gateway) -> None:
    """A push of older counters after one of newer counters would look like a restart, and count twice in rate()."""
    gateway.answer.clear()
    pushing = replace(target, pushgateway_url=gateway.url)
    threads = [
        threading.Thread(target=record_run, args=(pushing, BBO, NOW), kwargs={"push_timeout": 20}) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    assert gateway.called.wait(10)
    deadline = time.monotonic() + 10
    while not target.file.exists() or written(target)["runs_total binance/bbo success"] < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(gateway.requests) == 1
    gateway.answer.set()
    for thread in threads:
        thread.join(30)
    pushed = [sums["runs_total binance/bbo success"] for sums in gateway.sums()]
    assert len(pushed) == 6
    assert pushed == sorted(pushed)
    assert pushed[-1] == 6


@pytest.mark.guards("secrets-told")
def test_credentials_are_sent_but_never_told(
    target: MetricsTarget, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.status = 401
    private = replace(target, pushgateway_url=gateway.url.replace("://", "://bob:s3cr%40t/x#y@"))
    with caplog.at_level(logging.DEBUG):
        record_run(private, BBO, NOW)
    (path, authorization, _) = gateway.requests[0]
    assert path == "/metrics/job/quantlab/instance/host-1"
    assert authorization is not None
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == "bob:s3cr@t/x#y"
    assert f"{gateway.url} " in caplog.text
    assert "401" in caplog.text
    for secret in ("bob", "s3cr", "x#y"):
        assert secret not in caplog.text
        assert secret not in repr(private)


@pytest.mark.guards("secrets-told")
@pytest.mark.parametrize(
    "url",
    [
        "http://bob:s3cret@127.0.0.1:port",
        "https://bob:s3cret@127.0.0.1:1/push",
        "HTTPS://bob:s3cret@127.0.0.1:1",
        "bob:s3cret@127.0.0.1:1",
        "bob:s3c://ret@127.0.0.1:1",
        "http://bob:s3cret:@/x@127.0.0.1:1",
        "http://bob:s3cret@",
        "http://bob:s3cret@a b\n",
        "ftp://bob:s3cret@127.0.0.1:1",
    ],
)
def test_no_url_gives_its_credentials_away(
    target: MetricsTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    record_run(replace(target, pushgateway_url=url), BBO, NOW, push_timeout=1)
    (record,) = caplog.records
    assert "not pushed" in record.getMessage()
    assert "bob" not in caplog.text
    assert "s3c" not in caplog.text


@pytest.mark.parametrize(
    ("url", "split"),
    [
        ("http://gateway:9091", ("http://gateway:9091", None, None)),
        ("https://gateway/push", ("https://gateway/push", None, None)),
        ("gateway:9091", ("http://gateway:9091", None, None)),
        ("https://bob:s%3Acret@gateway", ("https://gateway", "bob", "s:cret")),
        ("bob:secret@gateway:9091", ("http://gateway:9091", "bob", "secret")),
        ("http://token@gateway", ("http://gateway", "token", "")),
    ],
)
def test_a_url_is_split_from_its_credentials(url: str, split: tuple[str, str | None, str | None]) -> None:
    assert metrics._split_credentials(url) == split
