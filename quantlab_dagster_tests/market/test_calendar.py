"""The calendar: a day's index of all symbol-days, and a month's page."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from quantlab_dagster.errors import PathError, QuantlabError
from quantlab_dagster.lake.market import Pair, find_pairs
from quantlab_dagster.market import calendar
from quantlab_dagster.market.calendar import (
    Written,
    days_of_month,
    index_bytes,
    index_key,
    index_rows,
    page_key,
    parse_month,
    write_calendar,
)
from quantlab_dagster.market.calendar_page import Cell, code_of, month_page
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.rebuild import rebuild_state
from quantlab_dagster.market.state import PartitionRecord, State
from quantlab_dagster.work.limits import Limits
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import NOON_AFTER
from quantlab_dagster_tests.reader.lakes import DAY, DAY_MS, MIDNIGHT_MS, ReadLake, day_of

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store

QUARANTINE = {"schema_version": 1, "raw_fingerprint": "f", "part": "part-1-000001.parquet", "reason": "no magic"}
NEXT = DAY + dt.timedelta(days=1)


@pytest.fixture
def lake(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> ReadLake:
    return ReadLake.of(rig, monkeypatch)


@pytest.fixture
def local(tmp_path: Path) -> ReadLake:
    return ReadLake.of(Rig("local", None, tmp_path))


def place_of(lake: ReadLake) -> MarketPlace:
    return MarketPlace(lake.rig.store(lake.rig.new_url()), lake.store, Limits(64 << 20), clock=lambda: NOON_AFTER)


def write(lake: ReadLake, *days: dt.date) -> Written:
    return asyncio.run(write_calendar(place_of(lake), days or [DAY]))


def index_of(lake: ReadLake, day: dt.date = DAY) -> pl.DataFrame:
    return pl.read_parquet(asyncio.run(lake.store.get(index_key(day)))[0])


def page_of(lake: ReadLake, month: str = "202601") -> str:
    return asyncio.run(lake.store.get(page_key(month)))[0].decode()


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = json.loads(match[1])
    return found


def put_state(lake: ReadLake, **partitions: str) -> None:
    records = {
        f"binance/bbo/{symbol}/20260108": PartitionRecord(status=status, updated_at="x", error=f"why {symbol}")
        for symbol, status in partitions.items()
    }
    state = State(catch_up_from="20260108", partitions=records)
    asyncio.run(lake.store.put("compacted/_state.json", state.dump()))


def fill(lake: ReadLake) -> dict[str, Any]:
    times = [MIDNIGHT_MS - 5_000, MIDNIGHT_MS + 1_500]
    meta = lake.put(day_of("adausdt"), times, day_quality="GOOD", revision=2, gaps=4)
    lake.put(day_of("badusdt"), [MIDNIGHT_MS], day_quality="BAD")
    lake.put(day_of("emptyusdt", stream="trade"), [])
    lake.put_object(day_of("quausdt"), "quarantine.json", QUARANTINE)
    lake.put(day_of("unusdt"), [MIDNIGHT_MS])
    lake.put_object(day_of("unusdt"), "data.parquet", b"half")
    lake.put(day_of("adausdt", day=NEXT), [MIDNIGHT_MS + DAY_MS], day_quality="DEGRADED")
    put_state(lake, adausdt="success", failusdt="failed", partusdt="skipped", noneusdt="no_files", goneusdt="success")
    return meta


@pytest.mark.guards("bad-day-without-worth")
def test_a_bad_day_that_is_not_published_is_called_bad(local: ReadLake) -> None:
    record = {"schema_version": 1, "raw_fingerprint": "f", "reason": "the day is BAD (3 BAD windows)"}
    local.put_object(day_of("adausdt"), "quarantine.json", {**record, "day_quality": "BAD"})
    local.put_object(day_of("quausdt"), "quarantine.json", QUARANTINE)
    local.put_object(day_of("oddusdt"), "quarantine.json", b"{")
    write(local)
    assert index_of(local).select("symbol", "status", "day_quality", "rows").rows() == [
        ("adausdt", "quarantine", "BAD", None),
        ("oddusdt", "quarantine", None, None),
        ("quausdt", "quarantine", None, None),
    ]
    worth = [(day.symbol, day.quality, day.status) for day in local.open().days()]
    assert worth == [
        ("adausdt", "BAD", "quarantined"),
        ("oddusdt", "UNKNOWN", "quarantined"),
        ("quausdt", "UNKNOWN", "quarantined"),
    ]


def test_the_index_has_every_symbol_day_of_the_lake_and_of_the_state(lake: ReadLake) -> None:
    meta = fill(lake)
    written = write(lake)
    assert written.days == {DAY: 8}
    assert written.changed == (index_key(DAY), page_key("202601"))
    table = index_of(lake)
    assert table.select("stream", "symbol", "status", "day_quality", "rows").rows() == [
        ("bbo", "adausdt", "success", "GOOD", 2),
        ("bbo", "badusdt", "success", "BAD", 1),
        ("bbo", "failusdt", "failed", None, None),
        ("bbo", "goneusdt", "failed", None, None),
        ("bbo", "partusdt", "skipped", None, None),
        ("bbo", "quausdt", "quarantine", None, None),
        ("bbo", "unusdt", "failed", "UNKNOWN", 1),
        ("trade", "emptyusdt", "success", "UNKNOWN", 0),
    ]
    first = table.row(0, named=True)
    assert first == {
        "date": DAY,
        "exchange": "binance",
        "stream": "bbo",
        "symbol": "adausdt",
        "status": "success",
        "day_quality": "GOOD",
        "rows": 2,
        "ts_event_min": MIDNIGHT_MS - 5_000,
        "ts_event_max": MIDNIGHT_MS + 1_500,
        "ts_event_unit": "ms",
        "first": dt.datetime(2026, 1, 7, 23, 59, 55, tzinfo=dt.UTC),
        "last": dt.datetime(2026, 1, 8, 0, 0, 1, 500_000, tzinfo=dt.UTC),
        "gaps": 4,
        "size_bytes": meta["data_size_bytes"],
        "revision": 2,
        "sha256": meta["sha256"],
        "why": None,
    }
    why = dict(table.select("symbol", "why").rows())
    assert why["quausdt"] == "in quarantine: part-1-000001.parquet: no magic"
    assert why["goneusdt"] == "the state says that it is published, and nothing is there"
    assert why["failusdt"] == "why failusdt"
    assert "meta.json says" in why["unusdt"]


def test_the_page_has_the_numbers_of_the_months_days(local: ReadLake) -> None:
    meta = fill(local)
    write(local, DAY, NEXT)
    found = data_of(page_of(local))
    assert (found["month"], found["days"]) == ("2026-01", 31)
    bbo, trade = found["pairs"]
    assert (bbo["exchange"], bbo["stream"], trade["stream"]) == ("binance", "bbo", "trade")
    rows = {name: (letters, numbers) for name, letters, numbers in bbo["symbols"]}
    letters, numbers = rows["adausdt"]
    assert letters == "." * 7 + "GD" + "." * 22
    assert numbers[0] == [2, meta["data_size_bytes"], -5, 1, meta["sha256"][:12], 2, 4]
    assert len(numbers) == 2
    assert len(numbers[1]) == 5, "the first revision goes without saying"
    assert {name: found[0][7] for name, found in rows.items()} == {
        "adausdt": "G",
        "badusdt": "B",
        "failusdt": "F",
        "goneusdt": "F",
        "partusdt": "S",
        "quausdt": "Q",
        "unusdt": "F",
    }
    assert trade["symbols"][0][1][7] == "U"


def test_what_has_not_changed_is_left_alone_and_bytes_are_the_same(local: ReadLake) -> None:
    fill(local)
    write(local, DAY, NEXT)
    before = asyncio.run(local.store.list_objects("calendar/"))
    contents = [asyncio.run(local.store.get(info.key))[0] for info in before]
    assert write(local, DAY, NEXT).changed == ()
    assert asyncio.run(local.store.list_objects("calendar/")) == before
    for info in before:
        asyncio.run(local.store.delete(info.key))
    assert len(write(local, NEXT, DAY).changed) == 3
    assert [asyncio.run(local.store.get(info.key))[0] for info in before] == contents


def test_days_that_are_written_side_by_side_are_both_on_the_page(
    local: ReadLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that read the indexes too early must not have the last word."""
    fill(local)
    cells_of = calendar._cells_of
    raced = False

    async def late(compact: Store, month: str) -> list[Cell]:
        nonlocal raced
        found = await cells_of(compact, month)
        if not raced:
            raced = True
            await write_calendar(place_of(local), [NEXT])
        return found

    monkeypatch.setattr(calendar, "_cells_of", late)
    write(local)
    [symbols] = [pair["symbols"] for pair in data_of(page_of(local))["pairs"] if pair["stream"] == "bbo"]
    assert symbols[0][1][7:9] == "GD"


def test_nothing_else_takes_the_calendar_for_days(local: ReadLake) -> None:
    fill(local)
    write(local)
    asyncio.run(local.store.put("compacted/_state.json", b"{"))
    place = place_of(local)
    pairs = asyncio.run(find_pairs(local.store))
    assert [str(pair) for pair in pairs.items] == ["binance/bbo", "binance/trade"]
    assert pairs.odd == ()
    state = asyncio.run(rebuild_state(place, [Pair("binance", "bbo")]))
    assert "binance/bbo/adausdt/20260109" in state.partitions
    assert not [key for key in state.partitions if "calendar" in key]
    assert write(local, DAY).days[DAY] == 5


def test_a_lake_without_anything_has_an_empty_calendar(local: ReadLake) -> None:
    assert write(local).days == {DAY: 0}
    assert index_of(local).height == 0
    assert data_of(page_of(local))["pairs"] == []


def test_a_damaged_index_is_named_with_what_to_do(local: ReadLake) -> None:
    asyncio.run(local.store.put(index_key(NEXT), b"PAR1 or not"))
    with pytest.raises(QuantlabError, match=r"date=20260109/index\.parquet: is no index.*quantlab calendar 2026-01-09"):
        write(local)


def test_records_of_other_software_are_no_symbol_days() -> None:
    records = {"a/20260108": PartitionRecord(status="failed", updated_at="")}
    assert index_rows(DAY, {}, State(catch_up_from="20260108", partitions=records)) == []
    assert index_rows(DAY, {}, None) == []
    assert index_bytes([]) == index_bytes([])


@pytest.mark.parametrize(("text", "month"), [("2026-01", "202601"), ("202612", "202612")])
def test_months(text: str, month: str) -> None:
    assert parse_month(text) == month
    assert len(days_of_month(month)) == 31
    assert days_of_month("202402")[-1] == dt.date(2024, 2, 29)


@pytest.mark.parametrize("text", ["2026", "2026-13", "2026-1", "20260108", "٢٠٢٦٠١"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(PathError):
        parse_month(text)


# ---- the page --------------------------------------------------------------------------------------------------------


def cell_of(symbol: str = "adausdt", **changes: Any) -> Cell:
    cell = Cell("binance", "bbo", symbol, 8, "success", "GOOD", 5, 9, 0, 1, 1, "a" * 64, None, "")
    return replace(cell, **changes)


@pytest.mark.parametrize(
    ("status", "quality", "code"),
    [
        ("success", "GOOD", "G"),
        ("success", "degraded", "D"),
        ("success", "BAD", "B"),
        ("success", "UNKNOWN", "U"),
        ("success", "GREAT", "O"),
        ("success", "", "O"),
        ("quarantine", "GOOD", "Q"),
        ("failed", "UNKNOWN", "F"),
        ("skipped", "PARTIAL", "S"),
        ("new word", "", "O"),
    ],
)
def test_each_worth_has_a_letter(status: str, quality: str, code: str) -> None:
    assert code_of(cell_of(status=status, quality=quality)) == code


def test_names_are_text_whatever_they_hold() -> None:
    hostile = "</script><script>alert(1)</script>&<!--\u2028"
    page = month_page("202601", 31, [cell_of(hostile, exchange="{{month}}{{data}}", why=hostile)])
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    [pair] = data_of(page)["pairs"]
    assert pair["exchange"] == "{{month}}{{data}}"
    assert pair["symbols"][0][0] == hostile
    assert pair["symbols"][0][2][0][7] == hostile


def test_a_page_takes_nothing_from_anywhere() -> None:
    page = month_page("202601", 31, [cell_of()])
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?:", page)


def test_a_page_of_five_hundred_symbols_is_small() -> None:
    cells = [
        cell_of(
            f"sym{number:03d}usdt",
            day=day,
            rows=1_000_000 + number * 7919 * day,
            size_bytes=9_000_000 + number * 6101 * day,
            last_second=86_399,
            sha256=f"{number * 31 + day:064x}"[::-1],
        )
        for number in range(500)
        for day in range(1, 32)
    ]
    size = len(month_page("202601", 31, cells).encode())
    assert size < 900_000
