"""A tick of the sensor over a store that takes 50 ms for every request, with 1,500 symbol-days a day."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.lake.store.base import Store
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.market.settling import begin, seed
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.defs.market.test_automation import NOW, day, tick
from quantlab_dagster_tests.lakes import Lakes

if TYPE_CHECKING:
    from collections.abc import Iterator

EXCHANGES = ["binance", "bybit", "okx"]
STREAMS = ["bbo", "trade", "mark_price", "funding", "open_interest"]
PAIRS = [Pair(exchange, stream) for exchange in EXCHANGES for stream in STREAMS]
SYMBOLS = 100
DAYS = [day(number) for number in range(5, 12)]
REQUEST_SECONDS = 0.05
LATE_EVERY = 499
"""A prime, so that the late symbol-days lie everywhere in a round."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": ",".join(EXCHANGES),
        "QUANTLAB_STREAMS": ",".join(STREAMS),
        "QUANTLAB_LATE_LOOK_BACK_DAYS": "8",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def settled(_: object) -> Any:
        return seed(begin(None, DAYS[0], NOW), DAYS[-1], NOW, PAIRS)

    asyncio.run(StateStore(lakes.compact).update(settled))
    return lakes


def fill(lakes: Lakes) -> set[str]:
    """Seven settled days of 1,500 symbol-days; what was never published is late. Returns the late ones."""
    symbol_days = [
        SymbolDay(pair.exchange, pair.stream, f"s{number:03d}", one)
        for pair in PAIRS
        for number in range(SYMBOLS)
        for one in DAYS
    ]
    late = set()
    for number, symbol_day in enumerate(symbol_days):
        raw = Path(lakes.raw_url) / symbol_day.prefix
        raw.mkdir(parents=True)
        (raw / "part-1767830426-000001.parquet").write_bytes(b"x")
        if number % LATE_EVERY == 0:
            late.add(symbol_day.state_key)
            continue
        published = Path(lakes.compact_url) / symbol_day.prefix
        published.mkdir(parents=True)
        (published / "data.parquet").write_bytes(b"x")
        meta = {"rows": 1, "ts_event_min": 1, "ts_event_max": 1, "stream_type": symbol_day.stream, "source_files": 1}
        (published / "meta.json").write_text(json.dumps(meta))
    return late


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request takes its time, as on a store that is far away."""
    for kind, name in ((Store, "list_objects"), (Store, "list_directory"), (Store, "get"), (LocalStore, "_swap")):
        original = getattr(kind, name)

        async def slow(store: Store, *arguments: Any, original: Any = original) -> Any:
            await asyncio.sleep(REQUEST_SECONDS)
            return await original(store, *arguments)

        monkeypatch.setattr(kind, name, slow)


@pytest.mark.guards("scan-one-by-one")
@pytest.mark.slow
def test_every_tick_succeeds_in_time_and_every_late_symbol_day_is_found(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = fill(lakes)
    slow_down(monkeypatch)
    ticks: list[float] = []
    while True:
        began = time.monotonic()
        result = tick(instance)
        ticks.append(time.monotonic() - began)
        assert str((result.run_requests or [])[0].partition_key) == "2026-01-12", "the open day, every time"
        state = asyncio.run(StateStore(lakes.compact).read())
        assert state is not None
        if next(iter(state.late_scan.rounds.values())).cursor is None:
            break
        assert len(ticks) < 20
    print([round(seconds, 1) for seconds in ticks])  # noqa: T201  # the figures for ADR 5
    assert set(state.late_scan.stale) == late
    assert len(late) == 22
    assert max(ticks) < 35, "Dagster ends a tick after 60 s"
    assert len(ticks) <= 6, "one begins every 30 s: found three minutes after the round began"
