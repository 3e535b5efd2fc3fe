"""A part of which Polars dies, through the command line: it is quarantined, its neighbours are published, and the next
run says the same without dying again."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.market.outcome import Status, Verdict
from quantlab_dagster.market.state import STATE_KEY
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.synthetic.market import RawPart, generate_parts
from quantlab_dagster_tests.cli.test_market import Shell, environment
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.kernel.building import part_from
from quantlab_dagster_tests.kernel.lying import with_negative_page
from quantlab_dagster_tests.lakes import DAY, PAIR, Lakes, oracle, same_rows, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path

SYMBOLS = ("adausdt", "bnbusdt", "btcusdt", "dogeusdt", "ethusdt", "xrpusdt")
DEADLY, BAD = "btcusdt", 4


def put_day(lakes: Lakes) -> tuple[dict[str, list[RawPart]], str]:
    """Six symbol-days, one of them with a part whose data page has a negative number of values."""
    days = {symbol: list(generate_parts(spec(symbol, seed=at))) for at, symbol in enumerate(SYMBOLS)}
    part = days[DEADLY][BAD]
    bad = with_negative_page(part_from(part.name, part.data)).source
    assert isinstance(bad, bytes)
    days[DEADLY][BAD] = RawPart(part.name, bad)
    for symbol, parts in days.items():
        lakes.put_raw(symbol_day(symbol), parts)
    return days, part.name


def test_its_neighbours_are_published_and_it_is_quarantined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    days, name = put_day(lakes)
    with caplog.at_level(logging.WARNING):
        outcome = lakes.run()
    assert "trying again by itself" in caplog.text, "it did die"
    [quarantined] = outcome.having(Status.QUARANTINE)
    assert quarantined.symbol_day.symbol == DEADLY
    assert quarantined.reason.startswith(f"{name}: the decoder was ended by SIGABRT")
    assert len(outcome.having(Status.SUCCESS)) == 5
    for symbol in set(SYMBOLS) - {DEADLY}:
        assert same_rows(lakes.published(symbol_day(symbol)), oracle(days[symbol]))
    said = json.loads(lakes.get(symbol_day(DEADLY).key("quarantine.json")))
    assert said["part"] == name

    before = lakes.compact_keys()
    caplog.clear()
    again = lakes.run()
    assert [(item.symbol_day, item.status) for item in again.outcomes] == [
        (item.symbol_day, item.status) for item in outcome.outcomes
    ]
    assert caplog.text == "", "it does not die again"
    assert lakes.compact_keys() == before


@pytest.mark.slow
def test_compact_says_so_and_ends_with_1_today_and_tomorrow(tmp_path: Path) -> None:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    _, name = put_day(lakes)
    work = tmp_path / "work"
    work.mkdir()
    quantlab = Shell(work, environment(lakes))
    for _ in range(2):
        done = quantlab("compact", "--date", str(DAY), "--json")
        assert done.returncode == 1, done.stderr
        days = {item["symbol"]: item for item in json.loads(done.stdout)["symbol_days"]}
        assert {symbol for symbol, item in days.items() if item["status"] == "success"} == set(SYMBOLS) - {DEADLY}
        assert days[DEADLY]["status"] == "quarantine"
        assert f"{name}: " in days[DEADLY]["reason"]
        assert "the decoder was ended by SIGABRT" in days[DEADLY]["reason"]
        state = json.loads(lakes.get(STATE_KEY))["partitions"]
        assert state[f"binance/bbo/{DEADLY}/20260108"]["status"] == "quarantine"


def test_verification_does_not_die_of_what_is_published(tmp_path: Path) -> None:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    lakes.put_spec(spec())
    lakes.run()
    data = with_negative_page(part_from("data", lakes.get(symbol_day().key("data.parquet"))), 1).source
    assert isinstance(data, bytes)
    lakes.put_beside(symbol_day(), "data.parquet", data)
    [item] = asyncio.run(verify_pair(lakes.place(), PAIR, DAY))
    assert item.verdict is Verdict.WRONG
    assert "data.parquet: " in item.findings[0]
