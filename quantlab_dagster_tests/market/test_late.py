"""The search for late parts: in slices, resumed where the last one stopped, within a cap of requests."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.market.late import scan_slice
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.state import State, begin, settle_day
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.synthetic.market import generate_parts
from quantlab_dagster_tests.lakes import DAY, PAIR, Lakes, spec, symbol_day

if TYPE_CHECKING:
    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster_tests.conftest import Rig

NOW = dt.datetime(2026, 1, 11, 12, tzinfo=dt.UTC)
DAYS = [DAY, DAY + dt.timedelta(days=1), DAY + dt.timedelta(days=2)]
SYMBOLS = ["a", "b", "c"]


@pytest.fixture
def lakes(rig: Rig) -> Lakes:
    """Three symbols on three days, compacted and settled; the day before the beginning has raw parts as well."""
    lakes = Lakes.of(rig)
    for day in DAYS:
        for symbol in SYMBOLS:
            lakes.put_spec(spec(symbol, day=day, parts=2, rows=20))
        lakes.run(day=day, place=lakes.place(now=NOW))
    lakes.put_spec(spec("a", day=DAY - dt.timedelta(days=1), parts=2, rows=20))

    def settled(before: State | None) -> State:
        state = begin(before, DAYS[0], NOW)
        for day in DAYS:
            state = settle_day(state, day, Status.SUCCESS, NOW)
        return state

    asyncio.run(StateStore(lakes.compact).update(settled))
    return lakes


def put_late(lakes: Lakes, day: SymbolDay) -> None:
    [part] = generate_parts(spec(day.symbol, day=day.day, parts=1, rows=10, seed=9))
    lakes.put_raw(day, [replace(part, name="part-1999999999-000001.parquet")])


def scan(lakes: Lakes, now: dt.datetime, *, cap: int = 4, look_back_days: int = 7) -> tuple[State, int]:
    """One slice: the state after it, and the requests it made of the raw lake."""
    place = lakes.place(now=now)
    store = StateStore(place.compact)

    async def work() -> State:
        state = await store.read()
        assert state is not None
        return await scan_slice(place, store, state, [PAIR], look_back_days=look_back_days, cap=cap)

    return asyncio.run(work()), place.raw.requests.total


def test_slices_go_on_where_the_last_one_stopped_and_find_everything(lakes: Lakes) -> None:
    late = [symbol_day("a", DAYS[0]), symbol_day("b", DAYS[1]), symbol_day("c", DAYS[2])]
    for day in late:
        put_late(lakes, day)
    cursors, found = [], []
    for _ in range(3):
        state, requests = scan(lakes, NOW)
        assert requests <= 1 + 4, "the symbols, and one listing per symbol-day of the slice"
        cursors.append(state.late_scan.cursor)
        found.append(set(state.late_scan.stale))
    assert cursors[0] is not None
    assert cursors[1] is not None
    assert cursors[0] < cursors[1]
    assert cursors[2] is None, "nine symbol-days in slices of four"
    assert found[0] <= found[1] <= found[2] == {day.state_key for day in late}
    _, requests = scan(lakes, NOW + dt.timedelta(minutes=59))
    assert requests == 0, "the next round is not due"


def test_what_is_mended_is_forgotten_in_the_next_round(lakes: Lakes) -> None:
    put_late(lakes, symbol_day("a"))
    state, _ = scan(lakes, NOW, cap=100)
    assert set(state.late_scan.stale) == {symbol_day("a").state_key}
    lakes.run(place=lakes.place(now=NOW))
    state, _ = scan(lakes, NOW + dt.timedelta(minutes=61), cap=100)
    assert state.late_scan.stale == {}


def test_only_the_look_back_is_looked_at(lakes: Lakes) -> None:
    put_late(lakes, symbol_day("a"))
    state, requests = scan(lakes, NOW, cap=100, look_back_days=1)
    assert state.late_scan.stale == {}
    assert requests == 1 + len(SYMBOLS)


def test_an_unreadable_record_is_not_passed_over(lakes: Lakes) -> None:
    asyncio.run(lakes.compact.put(symbol_day("b").key("meta.json"), b"{"))
    state, _ = scan(lakes, NOW, cap=100)
    assert set(state.late_scan.stale) == {symbol_day("b").state_key}


def test_late_parts_make_a_new_revision_and_the_same_bytes_again(lakes: Lakes) -> None:
    put_late(lakes, symbol_day("a"))
    [item] = lakes.run(symbols=["a"], place=lakes.place(now=NOW)).outcomes
    assert item.revision == 2
    content = lakes.get(symbol_day("a").key("data.parquet"))
    [again] = lakes.run(symbols=["a"], overwrite=True, place=lakes.place(now=NOW)).outcomes
    assert again.revision == 2
    assert lakes.get(symbol_day("a").key("data.parquet")) == content
