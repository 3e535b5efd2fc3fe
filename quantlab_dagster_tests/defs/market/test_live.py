"""The sensor `live`, `quantlab live` and the check that can be run by hand say the same of the same lake."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.names import raw_key
from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text
from quantlab_dagster.market import listening
from quantlab_dagster.market.live import NONE_EXPECTED, NOTHING_KNOWN
from quantlab_dagster.market.settling import delist
from quantlab_dagster.market.state import DayRecord, PartitionRecord, State, utc_text
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.settings import load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import PAIR, Lakes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRADE = Pair("binance", "trade")
NOW = utc_now()
CHECK = "parts_arriving"


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    """Yesterday two symbols of bbo had data; one was flushed a minute ago."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo,trade",
        "QUANTLAB_METRICS_FILE": str(tmp_path / "q.prom"),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    settle(lakes)
    flush(lakes, "adausdt", 1)
    flush(lakes, "btcusdt", 2)
    return lakes


def settle(lakes: Lakes, *, symbols: tuple[str, ...] = ("adausdt", "btcusdt")) -> None:
    day = day_text(NOW.date() - dt.timedelta(days=1))
    state = State(
        last_compacted_date=day,
        catch_up_from=day,
        days={day: DayRecord(status="success", updated_at=utc_text(NOW))},
        partitions={
            f"{PAIR}/{symbol}/{day}": PartitionRecord(status="success", rows=1, updated_at=utc_text(NOW))
            for symbol in symbols
        },
        settled_pairs={str(pair): ((day, day),) for pair in (PAIR, TRADE)},
    )
    asyncio.run(StateStore(lakes.compact).update(lambda _: state))


def flush(lakes: Lakes, symbol: str, minutes_ago: float, now: dt.datetime = NOW) -> None:
    moment = now - dt.timedelta(minutes=minutes_ago)
    of = SymbolDay("binance", "bbo", symbol, moment.date())
    asyncio.run(lakes.raw.put(of.key(f"part-{int(moment.timestamp())}-000001.parquet"), b"x"))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(instance: dg.DagsterInstance, minutes: float) -> dict[str, tuple[bool, str | None]]:
    """What a tick reports so many minutes from now, by pair."""
    definitions = build_definitions(load_settings(), clock=lambda: NOW + dt.timedelta(minutes=minutes))
    sensor = definitions.get_repository_def().get_sensor_def("live")
    with dg.build_sensor_context(instance, resources=dict(definitions.resources or {})) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    events = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    assert {event.check_name for event in events} <= {CHECK}
    return {"/".join(event.asset_key.path[1:]): (event.passed, event.description) for event in events}


def gauges(tmp_path: Path) -> dict[str, float]:
    lines = [line for line in (tmp_path / "q.prom").read_text().splitlines() if line.startswith("quantlab_live_")]
    return {name.removeprefix("quantlab_live_"): float(value) for name, value in (li.rsplit(" ", 1) for li in lines)}


BBO = '{lake="market_data",target="binance/bbo"}'


def test_a_collector_that_is_killed_turns_its_check_red_and_green_again(
    lakes: Lakes, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert tick(instance, 0) == {
        "binance/bbo": (True, "every symbol is flushed"),
        "binance/trade": (True, NONE_EXPECTED),
    }
    assert tick(instance, 2) == {}, "said once"
    assert gauges(tmp_path)[f"silent_symbols{BBO}"] == 0
    assert 60 <= gauges(tmp_path)[f"newest_part_age_seconds{BBO}"] <= 181

    said = tick(instance, 3.9)
    assert list(said) == ["binance/bbo"]
    passed, text = said["binance/bbo"]
    assert not passed
    assert text is not None
    assert text.startswith("1 of 2 symbols are silent: binance/bbo/btcusdt (no part since ")
    assert gauges(tmp_path)[f"silent_symbols{BBO}"] == 1
    assert tick(instance, 3.95) == {}, "the same text at every look"

    flush(lakes, "btcusdt", -3)
    assert tick(instance, 3.9) == {"binance/bbo": (True, "every symbol is flushed")}


def test_a_store_that_does_not_answer_is_no_health(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def failing(*_: Any) -> Any:
        raise StoreUnavailable(lakes.raw_url, "no usable answer after retries", "Run again")

    monkeypatch.setattr(listening, "_look_at", failing)
    passed, text = tick(instance, 0)["binance/bbo"]
    assert (passed, "2 of 2 symbols could not be looked at" in str(text)) == (False, True)
    assert gauges(tmp_path)[f"unknown_symbols{BBO}"] == 2
    assert f"newest_part_age_seconds{BBO}" not in gauges(tmp_path)
    assert quantlab_live(None)[0] == 1


def test_the_check_run_by_hand_says_the_same(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    flush(lakes, "adausdt", 0)
    definitions = build_definitions(load_settings(), clock=lambda: NOW + dt.timedelta(minutes=4))
    job = definitions.resolve_implicit_global_asset_job_def()
    wanted = [dg.AssetCheckKey(raw_key(PAIR), CHECK)]
    selection = dg.AssetSelection.checks(*wanted)
    with_checks = dg.define_asset_job("by_hand", selection=selection)
    found = dg.Definitions.merge(definitions, dg.Definitions(jobs=[with_checks])).resolve_job_def("by_hand")
    assert job is not None
    result = found.execute_in_process(instance=instance)
    [evaluation] = result.get_asset_check_evaluations()
    assert (evaluation.asset_key, evaluation.passed) == (raw_key(PAIR), False)
    assert "binance/bbo/btcusdt" in str(evaluation.description)


def quantlab_live(capsys: pytest.CaptureFixture[str] | None, arguments: str = "") -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["live", *arguments.split()])
    return int(ended.value.code or 0), capsys.readouterr().out if capsys else ""


def test_the_command_line_says_so_too(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for symbol in ("adausdt", "btcusdt"):
        flush(lakes, symbol, 1.1, utc_now())  # this session of tests may have begun long ago
    code, text = quantlab_live(capsys, "--json --metrics")
    document = json.loads(text)
    assert (code, document["fine"]) == (0, True), text
    assert [item["hearing"] for item in document["symbols"]] == ["speaking", "speaking"]
    assert gauges(tmp_path)[f"symbols{BBO}"] == 2

    monkeypatch.setenv("QUANTLAB_LIVE_LIMITS", "bbo=1")
    code, text = quantlab_live(capsys, "--json")
    document = json.loads(text)
    [ada, btc] = document["symbols"]
    assert (code, document["fine"], btc["hearing"], btc["limit_seconds"]) == (1, False, "silent", 60)
    assert ada["age_seconds"] >= 60
    code, text = quantlab_live(capsys)
    assert code == 1
    assert "FAIL 2 of 2 symbols are silent or unknown" in text
    assert quantlab_live(capsys, "--stream trade")[0] == 0, "of these none is expected, as the check says"
    assert quantlab_live(capsys, "--stream what")[0] == 2

    settle(lakes, symbols=())
    assert f"FAIL {NOTHING_KNOWN}" in quantlab_live(capsys)[1]


@pytest.mark.guards("all-delisted-fails")
def test_where_all_is_delisted_the_command_and_the_check_say_that_nothing_is_wrong(
    lakes: Lakes, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [f"{PAIR}/adausdt", f"{PAIR}/btcusdt"]
    asyncio.run(StateStore(lakes.compact).update(lambda state: delist(some(state), both, "merged", NOW)))
    code, text = quantlab_live(capsys, "--json")
    assert (code, json.loads(text)["fine"]) == (0, True)
    assert f"ok   {NONE_EXPECTED}" in quantlab_live(capsys)[1]
    assert tick(instance, 0)["binance/bbo"] == (True, NONE_EXPECTED)

    settle(lakes, symbols=())
    assert quantlab_live(capsys)[0] == 1
    assert set(tick(instance, 0).values()) == {(False, NOTHING_KNOWN)}


def some(state: State | None) -> State:
    assert state is not None
    return state


def test_without_a_state_nothing_is_well(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_COMPACT_URL", str(lakes.scratch / "new"))
    assert quantlab_live(capsys)[0] == 1


def test_what_is_not_looked_at_in_time_is_said(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    del lakes

    async def hanging(*_: Any) -> Any:
        await asyncio.sleep(60)

    async def at_once(*arguments: Any, seconds: float) -> Any:
        assert seconds == listening.LIVE_SECONDS
        return await look(*arguments, seconds=0.05)

    look = listening.look_live
    monkeypatch.setattr(listening, "_look_at", hanging)
    monkeypatch.setattr(listening, "look_live", at_once)
    assert "not looked at within 0.05 s" in str(tick(instance, 0)["binance/bbo"][1])
