"""Runs of compaction as Prometheus metrics, for both lakes.

A run is a short-lived process, so the counters live in a file in Prometheus' text format. node_exporter's textfile
collector can read that file, and it can be pushed to a Pushgateway.
"""

from __future__ import annotations

import logging
import math
import re
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from filelock import FileLock
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import basic_auth_handler, generate_latest, push_to_gateway
from prometheus_client.parser import text_string_to_metric_families

from quantlab_dagster.work.aliases import Durations, aliases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

__all__ = ["MetricsTarget", "RunCounts", "record_hook", "record_judgement", "record_live", "record_run"]

logger = logging.getLogger(__name__)

_JOB = "quantlab"
_PREFIX = "quantlab_compaction_"
_LOCK_SECONDS = 10.0
_PUSH_SECONDS = 5.0

_RUN_RESULTS = ("success", "failure")
_HOOK_RESULTS = ("success", "failure", "timeout")
_PARTITION_RESULTS = ("compacted", "skipped", "quarantined", "failed")

_LABELS = ("lake", "target")
_LAKE_AND_RESULT = ("lake", "result")
_LABELS_AND_RESULT = (*_LABELS, "result")

_COUNTERS = {
    "runs_total": (_LABELS_AND_RESULT, "Compaction runs that ended, by result."),
    "partitions_total": (
        _LABELS_AND_RESULT,
        (
            "Symbol-days (market_data) or hours of an app (events) that runs dealt with. "
            "Compacted: published anew. Skipped: nothing to do. Quarantined: an input is damaged. Failed: an error."
        ),
    ),
    "duration_seconds_total": (_LABELS, "Time that runs took, failed ones included."),
    "rows_total": (_LABELS, "Rows written to compacted files."),
    "input_files_total": (_LABELS, "Small files (raw parts) that were merged."),
    "output_files_total": (_LABELS, "Compacted files written."),
    "input_bytes_total": (_LABELS, "Size of the small files merged."),
    "output_bytes_total": (_LABELS, "Size of the compacted files written."),
    "requests_total": ((*_LABELS, "kind"), "Requests to stores by store and kind, such as raw GET."),
    "hook_runs_total": (_LAKE_AND_RESULT, "Commands that followed a run (COMPACTION_HOOK_COMMAND), by result."),
}
"""Name to labels and help text."""

_ONLY_WITH_SAMPLES = ("requests_total", "hook_runs_total")
"""Not every run says its requests, nor has a hook."""

_GAUGES = {
    "last_run_timestamp_seconds": "When the last run ended, whatever its result.",
    "last_success_timestamp_seconds": "When the last successful run ended; 0 if there was none yet.",
    "last_duration_seconds": "Time that the last run took, whatever its result.",
}


_JUDGED = "quantlab_lake_"
_LAKE = ("lake",)
_LAKE_GAUGES = {
    "fine": "1 if nobody need look, as the exit code 0 of `quantlab status` says; else 0.",
    "watermark_lag_days": "Days from last_compacted_date to the day that should be settled by now.",
    "open_days": "Days that are not settled for all pairs.",
    "overdue_days": "Days that should be settled by now, and are open.",
    "failed_days": "Days that failed and are not settled since, waiting and exhausted ones included.",
    "exhausted_days": "Days that failed too often to be tried again.",
    "worst_day_failed_attempts": "Failed attempts at the day that failed most often.",
    "stale_symbol_days": "Symbol-days with raw parts that the published file does not hold, not accepted.",
    "unreadable_symbol_days": "Symbol-days that cannot be looked at.",
    "quarantined_symbol_days": "Symbol-days in quarantine that nobody accepted.",
    "accepted_symbol_days": "Symbol-days that an operator accepted as they are.",
    "failed_symbol_days": "Symbol-days whose last try failed.",
    "pairs_behind": "Configured exchanges and streams with overdue days.",
    "silent_symbols": "Symbols that had data in the last days and have none on the latest settled day.",
    "delisted": "Symbols, or whole pairs, of which an operator said that no more data are to come.",
    "partial_days": "Days that are PARTIAL by their quality windows, and looked at again.",
    "unreadable_windows": "Quality windows of the look-back that cannot be understood.",
    "unexplained_places": "Directories with files that the layout does not explain, and tables of others.",
    "withheld_places": "Hours that may not be read (denied, or in cold storage), and apps that may not be listed.",
    "overdue_hours": "Hours of an app that ended two hours ago or earlier, and have small files that could be merged.",
    "unfinished_plans": "Replacements of files that are to be completed: until then readers may see rows twice.",
    "corrupt_files": "Files that cannot be merged, and stay as they are.",
    "judged_timestamp_seconds": "When all this was judged: old means that nobody looks any more, or nobody can.",
}
"""Name to help text: a judgement of a lake, as it was last looked at."""


_LIVE = "quantlab_live_"
_LIVE_GAUGES = {
    "symbols": "Symbols of the exchange and stream that had data in the last days.",
    "silent_symbols": "Those of them whose newest part is older than is usual.",
    "unknown_symbols": "Those of them that could not be looked at.",
    "newest_part_age_seconds": "Age of the newest part of all of them, when it was looked at.",
    "looked_timestamp_seconds": "When that was: old means that nobody looks any more.",
}
"""Name to help text: what is flushed between midnights."""


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What one run did.

    Attributes:
        lake: "market_data" or "events".
        target: the asset, such as "binance/bbo" or "warehouse/events".
        succeeded: whether the run as a whole did.
        seconds: how long it took.
        rows: rows written.
        files_in: parts or small files merged.
        files_out: files written.
        bytes_in: the size of what was merged.
        bytes_out: the size of what was written.
        partitions: number of symbol-days or (app, hour)s by result: compacted, skipped, quarantined, failed.
        requests: number of requests by store and kind.
    """

    lake: str
    target: str
    succeeded: bool
    seconds: float
    rows: int = 0
    files_in: int = 0
    files_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    partitions: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MetricsTarget:
    """Where runs are counted.

    Attributes:
        file: holds the counters. For the textfile collector it lies in its directory and ends in .prom.
        pushgateway_url: where the whole file is pushed after each run; may contain user:password@.
        instance: sets the pushes of this file apart; two files that share it overwrite each other in the Pushgateway.
        aliases: whether the first system's names are written, too.
    """

    file: Path
    pushgateway_url: str | None = field(default=None, repr=False)
    instance: str = field(default_factory=socket.gethostname)
    aliases: bool = False


def record_run(target: MetricsTarget, counts: RunCounts, now: datetime, *, push_timeout: float = _PUSH_SECONDS) -> None:
    """Add a run to the counters and push them. What goes wrong is logged as a warning, never raised.

    Args:
        target: where.
        counts: what the run did.
        now: when it ended.
        push_timeout: seconds to wait for another run's push, and again for the Pushgateway to connect and to answer.
    """
    what = f"a run of {counts.target}"
    _record(target, what, lambda series: series.add(counts, now), push_timeout=push_timeout)


def record_hook(target: MetricsTarget, lake: str, result: str, *, push_timeout: float = _PUSH_SECONDS) -> None:
    """Count a command that followed a run. What goes wrong is logged as a warning, never raised.

    Args:
        target: where.
        lake: "market_data" or "events".
        result: success, failure or timeout.
        push_timeout: as of `record_run`.
    """
    what = f"the hook of a run over {lake}"
    _record(target, what, lambda series: series.add_hook(lake, result), push_timeout=push_timeout)


def record_judgement(
    target: MetricsTarget,
    lake: str,
    gauges: Mapping[str, float],
    now: datetime | None,
    *,
    push_timeout: float = _PUSH_SECONDS,
) -> bool:
    """Replace what was judged of a lake, and push it. What goes wrong is logged as a warning, never raised.

    Args:
        target: where.
        lake: "market_data" or "events".
        gauges: by name (see `_LAKE_GAUGES`).
        now: when it was judged; None if these gauges can be said although it could not be.
        push_timeout: as of `record_run`.

    Returns:
        Whether nothing went wrong.
    """
    what = f"the judgement of {lake}"
    return _record(target, what, lambda series: series.judge(lake, gauges, now), push_timeout=push_timeout)


def record_live(
    target: MetricsTarget,
    lake: str,
    found: Mapping[str, Mapping[str, float]],
    now: datetime,
    *,
    push_timeout: float = _PUSH_SECONDS,
) -> bool:
    """Replace what was found of live symbols, and push it. What goes wrong is logged as a warning, never raised.

    Args:
        target: where.
        lake: "market_data".
        found: by exchange/stream, the gauges by name (see `_LIVE_GAUGES`).
        now: when it was looked at.
        push_timeout: as of `record_run`.

    Returns:
        Whether nothing went wrong.
    """
    what = f"what is live of {lake}"
    return _record(target, what, lambda series: series.live(lake, found, now), push_timeout=push_timeout)


def _record(target: MetricsTarget, what: str, change: Callable[[_Series], None], *, push_timeout: float) -> bool:
    try:
        _change(target.file, change, aliases=target.aliases)
    except Exception as error:  # noqa: BLE001 - the run has done its work; counting it must not fail it
        logger.warning("%s is not counted in %s: %s", what, target.file, _cause(error))
        return False
    if not target.pushgateway_url:
        return True
    url, user, password = _split_credentials(target.pushgateway_url)
    try:
        # Under a lock of its own, so that no older state overwrites a newer one, and a slow push delays no counting.
        with FileLock(f"{target.file}.push.lock").acquire(timeout=push_timeout):
            push_to_gateway(
                url,
                job=_JOB,
                registry=_Series(target.file.read_bytes(), aliases=target.aliases),
                grouping_key={"instance": target.instance},
                timeout=push_timeout,
                handler=partial(basic_auth_handler, username=user, password=password),
            )
    except Exception as error:  # noqa: BLE001 - as above
        logger.warning(
            "%s is counted in %s, but not pushed to %s (the next push makes up for it): %s",
            what,
            target.file,
            url,
            _cause(error),
        )
        return False
    return True


def _change(file: Path, change: Callable[[_Series], None], *, aliases: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock").acquire(timeout=_LOCK_SECONDS, poll_interval=0.01):
        series = _load(file, aliases=aliases)
        change(series)
        text = generate_latest(series)
        temporary = file.with_name(f"{file.name}.tmp")
        temporary.write_bytes(text)
        temporary.chmod(0o644)  # node_exporter runs as another user
        temporary.replace(file)


def _load(file: Path, *, aliases: bool) -> _Series:
    """The counters so far; a file that makes no sense is moved aside."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return _Series(b"", aliases=aliases)
    try:
        return _Series(content, aliases=aliases)
    except Exception as error:  # noqa: BLE001 - the parser raises whatever damage leads it to
        aside = file.with_name(f"{file.name}.bad")
        file.replace(aside)
        logger.warning("%s cannot be read, counting begins anew; kept as %s: %s", file, aside, _cause(error))
        return _Series(b"", aliases=aliases)


class _Series:
    """The value of each series by metric and label values, read from a file's content.

    Not the library's Counter: it would add `_created` series, unless they are switched off for the whole process.
    """

    def __init__(self, content: bytes, *, aliases: bool) -> None:
        self._aliases = aliases
        self._durations = Durations()
        self._counters: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _COUNTERS}
        self._gauges: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _GAUGES}
        self._judged: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _LAKE_GAUGES}
        self._live: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _LIVE_GAUGES}
        for family in text_string_to_metric_families(content.decode()):
            for sample in family.samples:
                name = sample.name.removeprefix(_PREFIX)
                if name in _COUNTERS:
                    labels, known = _COUNTERS[name][0], self._counters[name]
                elif name in _GAUGES:
                    labels, known = _LABELS, self._gauges[name]
                elif (judged := sample.name.removeprefix(_JUDGED)) in _LAKE_GAUGES and judged != sample.name:
                    labels, known = _LAKE, self._judged[judged]
                elif (live := sample.name.removeprefix(_LIVE)) in _LIVE_GAUGES and live != sample.name:
                    labels, known = _LABELS, self._live[live]
                else:
                    self._durations.take(sample)
                    continue
                if not (math.isfinite(sample.value) and sample.value >= 0):
                    raise ValueError(f"{sample.name} is {sample.value}")
                known[tuple(sample.labels[label] for label in labels)] = sample.value

    def add(self, counts: RunCounts, now: datetime) -> None:
        """Add a run. Every result gets a series, for rate() needs a zero to start from.

        That of the first run begins with 1: the alerts count what begins (deploy/prometheus/alerts.yaml).
        """
        key = (counts.lake, counts.target)
        for result in _RUN_RESULTS:
            self._increase("runs_total", (*key, result), counts.succeeded == (result == "success"))
        for result, number in (dict.fromkeys(_PARTITION_RESULTS, 0) | dict(counts.partitions)).items():
            self._increase("partitions_total", (*key, result), number)
        self._increase("duration_seconds_total", key, counts.seconds)
        if counts.lake == "events":
            self._durations.add(_amount(counts.seconds))
        self._increase("rows_total", key, counts.rows)
        self._increase("input_files_total", key, counts.files_in)
        self._increase("output_files_total", key, counts.files_out)
        self._increase("input_bytes_total", key, counts.bytes_in)
        self._increase("output_bytes_total", key, counts.bytes_out)
        for kind, number in counts.requests.items():
            self._increase("requests_total", (*key, kind), number)
        ended = now.timestamp()
        self._gauges["last_run_timestamp_seconds"][key] = ended
        succeeded = self._gauges["last_success_timestamp_seconds"]
        succeeded[key] = ended if counts.succeeded else succeeded.get(key, 0)
        self._gauges["last_duration_seconds"][key] = _amount(counts.seconds)

    def add_hook(self, lake: str, result: str) -> None:
        """Add a hook that ended."""
        for one in _HOOK_RESULTS:
            self._increase("hook_runs_total", (lake, one), one == result)

    def judge(self, lake: str, gauges: Mapping[str, float], now: datetime | None) -> None:
        """Replace what was judged of a lake."""
        when = {"judged_timestamp_seconds": now.timestamp()} if now is not None else {}
        for name, value in {**gauges, **when}.items():
            self._judged[name][(lake,)] = float(value)

    def live(self, lake: str, found: Mapping[str, Mapping[str, float]], now: datetime) -> None:
        """Replace what was found of the live symbols of these targets; what is not said of one any more goes."""
        for target, gauges in found.items():
            for name, known in self._live.items():
                known.pop((lake, target), None)
                if name in gauges:
                    known[lake, target] = float(gauges[name])
            self._live["looked_timestamp_seconds"][lake, target] = now.timestamp()

    def _increase(self, name: str, labels: tuple[str, ...], amount: float) -> None:
        known = self._counters[name]
        known[labels] = known.get(labels, 0) + _amount(amount)

    def collect(self) -> Iterator[Metric]:
        """All metrics, as the library's writers ask for them."""
        for name, (labels, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=labels)
            for values, value in sorted(self._counters[name].items()):
                counter.add_metric(values, value)
            if self._counters[name] or name not in _ONLY_WITH_SAMPLES:
                yield counter
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=_LABELS)
            for values, value in sorted(self._gauges[name].items()):
                gauge.add_metric(values, value)
            yield gauge
        yield from _gauges(_JUDGED, _LAKE_GAUGES, _LAKE, self._judged)
        yield from _gauges(_LIVE, _LIVE_GAUGES, _LABELS, self._live)
        if self._aliases:
            yield from aliases(self._counters, self._durations)


def _gauges(
    prefix: str,
    texts: Mapping[str, str],
    labels: tuple[str, ...],
    found: Mapping[str, Mapping[tuple[str, ...], float]],
) -> Iterator[GaugeMetricFamily]:
    """Gauges of which there is something to say."""
    for name, text in texts.items():
        if found[name]:
            gauge = GaugeMetricFamily(f"{prefix}{name}", text, labels=labels)
            for values, value in sorted(found[name].items()):
                gauge.add_metric(values, value)
            yield gauge


def _amount(value: float) -> float:
    """What a counter may grow by: never less than nothing, never NaN, which would stay for good."""
    return value if math.isfinite(value) and value > 0 else 0


def _split_credentials(url: str) -> tuple[str, str | None, str | None]:
    """A URL without user:password@, fit to be logged; user and password.

    All before the last @ counts as credentials, so that no part of a password with an unescaped / or # stays behind.
    """
    scheme = "https://" if url.lower().startswith("https://") else "http://"
    credentials, found, address = re.sub("^https?://", "", url, flags=re.IGNORECASE).rpartition("@")
    if not found:
        return f"{scheme}{address}", None, None
    user, _, password = credentials.partition(":")
    return f"{scheme}{address}", unquote(user), unquote(password)


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
