"""The search for late parts: in slices, resumed where the last one stopped, within a cap of requests."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.lake.store.objects import Names
from quantlab_dagster.market.judgement import judge
from quantlab_dagster.market.late import round_name, scan_slice
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.plan import plan_days
from quantlab_dagster.market.settling import begin, settle_day
from quantlab_dagster.market.state import Round, State
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.synthetic.market import generate_parts
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, PAIR, Lakes, spec, symbol_day

if TYPE_CHECKING:
    from collections.abc import Collection

    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo

NOW = dt.datetime(2026, 1, 11, 12, tzinfo=dt.UTC)
DAYS = [DAY, DAY + dt.timedelta(days=1), DAY + dt.timedelta(days=2)]
SYMBOLS = ["a", "b", "c"]


@pytest.fixture
def lakes(rig: Rig) -> Lakes:
    return settled_lakes(rig)


@pytest.fixture
def local_lakes(tmp_path: Path) -> Lakes:
    return settled_lakes(Rig("local", None, tmp_path))


def settled_lakes(rig: Rig) -> Lakes:
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
            state = settle_day(state, day, Status.SUCCESS, NOW, [PAIR])
        return state

    asyncio.run(StateStore(lakes.compact).update(settled))
    return lakes


def put_late(lakes: Lakes, day: SymbolDay) -> None:
    [part] = generate_parts(spec(day.symbol, day=day.day, parts=1, rows=10, seed=9))
    lakes.put_raw(day, [replace(part, name="part-1999999999-000001.parquet")])


@dataclass
class Faulty:
    """A raw lake whose listings of some symbol-days never end, fail, or take their time; it remembers all of them."""

    store: Store
    stuck: Collection[str] = ()
    failing: Collection[str] = ()
    each_takes: float = 0.0
    listed: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def list_objects(self, prefix: str) -> list[ObjectInfo]:
        if prefix.startswith("quality/"):  # once a day: what the days are worth
            return await type(self.store).list_objects(self.store, prefix)
        self.listed.append(prefix)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.each_takes)
            if prefix in self.stuck:
                await asyncio.Event().wait()
            if prefix in self.failing:
                raise StoreUnavailable(prefix, "made up")
            return await type(self.store).list_objects(self.store, prefix)
        finally:
            self.at_once -= 1


def scan_faulty(
    lakes: Lakes, now: dt.datetime, *, seconds: float | None = None, look_back_days: int = 7, **faults: Any
) -> tuple[State, Faulty]:
    """One slice, of which the state is read after it."""
    place = lakes.place(now=now)
    place = replace(place, limits=replace(place.limits, request_concurrency=faults.pop("request_concurrency", 64)))
    store = StateStore(place.compact)
    faulty = Faulty(place.raw, **faults)

    async def work() -> State:
        state = await store.read()
        assert state is not None
        return await scan_slice(place, store, state, [PAIR], look_back_days=look_back_days, seconds=seconds)

    with patch.object(place.raw, "list_objects", faulty.list_objects):
        return asyncio.run(work()), faulty


def scan(lakes: Lakes, now: dt.datetime, *, look_back_days: int = 7) -> tuple[State, int]:
    """What is left of a round: the state after it, and the requests it made of the raw lake."""
    state, faulty = scan_faulty(lakes, now, look_back_days=look_back_days)
    return state, faulty.store.requests.total


def state_of(lakes: Lakes) -> State:
    state = asyncio.run(StateStore(lakes.compact).read())
    assert state is not None
    return state


def cursor_of(state: State) -> str | None:
    return state.late_scan.rounds[round_name([PAIR])].cursor


ROUND = [symbol_day(symbol, day).prefix for symbol in SYMBOLS for day in DAYS]


@pytest.mark.guards("scan-gap", "mutant-cursor")
def test_slices_go_on_after_what_was_looked_at_without_a_gap_and_find_everything(lakes: Lakes) -> None:
    late = [symbol_day("a", DAYS[0]), symbol_day("b", DAYS[1]), symbol_day("b", DAYS[2]), symbol_day("c", DAYS[2])]
    for day in late:
        put_late(lakes, day)
    state, faulty = scan_faulty(lakes, NOW, seconds=1.0, stuck=[ROUND[4], ROUND[6]])
    assert faulty.listed == ROUND, "all are begun in order, side by side"
    assert cursor_of(state) == ROUND[3], "the fifth was not looked at: it must not be passed over"
    assert set(state.late_scan.stale) == {day.state_key for day in late} - {late[1].state_key}
    state, faulty = scan_faulty(lakes, NOW, seconds=1.0, stuck=[ROUND[6]])
    assert faulty.listed == ROUND[4:]
    assert cursor_of(state) == ROUND[5]
    assert set(state.late_scan.stale) == {day.state_key for day in late}
    state, faulty = scan_faulty(lakes, NOW, seconds=30.0)
    assert faulty.listed == ROUND[6:]
    assert cursor_of(state) is None
    assert set(state.late_scan.stale) == {day.state_key for day in late}
    _, requests = scan(lakes, NOW + dt.timedelta(minutes=59))
    assert requests == 0, "the next round is not due"
    _, faulty = scan_faulty(lakes, NOW + dt.timedelta(minutes=61))
    assert faulty.listed == ROUND


@pytest.mark.guards("scan-one-by-one")
def test_a_slice_ends_at_its_deadline_and_says_if_it_got_nowhere(lakes: Lakes) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"bbo/a/20260108, the next .* not looked at within 0.3 s"):
        scan_faulty(lakes, NOW, seconds=0.3, stuck=ROUND)
    assert time.monotonic() - began < 10
    assert cursor_of(state_of(lakes)) == "", "begun, and nothing passed over"
    state, faulty = scan_faulty(lakes, NOW)
    assert (faulty.listed, cursor_of(state)) == (ROUND, None)


@pytest.mark.guards("scan-gap")
def test_a_store_error_ends_the_slice_and_what_was_looked_at_before_is_kept(lakes: Lakes) -> None:
    put_late(lakes, symbol_day("a", DAYS[1]))
    with pytest.raises(StoreUnavailable, match="made up"):
        scan_faulty(lakes, NOW, failing=[ROUND[5]], request_concurrency=1)
    state = state_of(lakes)
    assert cursor_of(state) == ROUND[4]
    assert set(state.late_scan.stale) == {symbol_day("a", DAYS[1]).state_key}


@pytest.mark.guards("scan-one-by-one")
@pytest.mark.parametrize("request_concurrency", [2, 64])
def test_many_symbol_days_are_looked_at_at_once_but_no_more_than_is_allowed(
    lakes: Lakes, request_concurrency: int
) -> None:
    _, faulty = scan_faulty(lakes, NOW, each_takes=0.2, request_concurrency=request_concurrency)
    assert faulty.listed == ROUND
    assert faulty.most_at_once == min(len(ROUND), request_concurrency)


@pytest.mark.guards("scan-one-by-one")
def test_the_symbols_of_all_pairs_are_listed_at_once(lakes: Lakes) -> None:
    pairs = [Pair("binance", f"stream{number}") for number in range(8)]
    place = lakes.place(now=NOW)
    at_once, most = 0, 0

    async def list_names(prefix: str) -> Names:  # noqa: ARG001
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.1)
        at_once -= 1
        return Names(("symbol=a",))

    with patch.object(place.raw, "list_names", list_names):
        store = StateStore(place.compact)
        asyncio.run(scan_slice(place, store, state_of(lakes), pairs, look_back_days=0))
        assert most == len(pairs)
        most = 0
        asyncio.run(plan_days(place, pairs, []))
        assert most == len(pairs)


@pytest.mark.guards("stale-never-ends")
def test_what_is_mended_is_forgotten_in_the_next_round(lakes: Lakes) -> None:
    put_late(lakes, symbol_day("a"))
    state, _ = scan(lakes, NOW)
    assert set(state.late_scan.stale) == {symbol_day("a").state_key}
    lakes.run(place=lakes.place(now=NOW))
    state, _ = scan(lakes, NOW + dt.timedelta(minutes=61))
    assert state.late_scan.stale == {}


def test_only_the_look_back_is_looked_at(lakes: Lakes) -> None:
    put_late(lakes, symbol_day("a"))
    state, requests = scan(lakes, NOW, look_back_days=1)
    assert state.late_scan.stale == {}
    assert requests == 1 + 1 + len(SYMBOLS), "the symbols, what the day is worth, and each symbol-day"


@pytest.mark.guards("unreadable-record-stops-all")
def test_an_unreadable_record_names_itself_and_stops_nothing_else(lakes: Lakes) -> None:
    asyncio.run(lakes.compact.put(symbol_day("b").key("meta.json"), b"{"))
    put_late(lakes, symbol_day("c", DAYS[2]))
    state, _ = scan(lakes, NOW)
    assert set(state.late_scan.stale) == {symbol_day("b").state_key, symbol_day("c", DAYS[2]).state_key}
    assert set(state.unreadable) == {symbol_day("b").state_key}
    not_stale = judge(state, [PAIR], NOW).findings[1]
    assert not not_stale.passed
    assert (
        f"late parts, or another quality label: {symbol_day('c', DAYS[2])}; cannot be looked at: {symbol_day('b')} ("
        in not_stale.text
    )
    assert f"{symbol_day('b').key('meta.json')}: is not a valid DayMeta record" in not_stale.text


@pytest.mark.guards("odd-name-stops-all")
def test_an_odd_name_stops_itself_only_and_is_reported(local_lakes: Lakes) -> None:
    lakes = local_lakes
    odd_part = Path(lakes.raw_url) / symbol_day("b").key("part-\x01.parquet")
    odd_part.write_bytes(b"x")
    (Path(lakes.raw_url) / PAIR.prefix / "symbol=x\x01y").mkdir()
    put_late(lakes, symbol_day("c"))
    state, faulty = scan_faulty(lakes, NOW)
    assert faulty.listed == ROUND
    assert set(state.late_scan.stale) == {symbol_day("b").state_key, symbol_day("c").state_key}
    assert "cannot be addressed" in state.unreadable[symbol_day("b").state_key]
    [_, not_stale, unclaimed, *_] = judge(state, [PAIR], NOW).findings
    assert symbol_day("b").state_key in not_stale.text
    assert not unclaimed.passed
    assert f"cannot be addressed: {PAIR.prefix}'symbol=x\\x01y'" in unclaimed.text


def test_late_parts_make_a_new_revision_and_the_same_bytes_again(lakes: Lakes) -> None:
    put_late(lakes, symbol_day("a"))
    [item] = lakes.run(symbols=["a"], place=lakes.place(now=NOW)).outcomes
    assert item.revision == 2
    content = lakes.get(symbol_day("a").key("data.parquet"))
    [again] = lakes.run(symbols=["a"], overwrite=True, place=lakes.place(now=NOW)).outcomes
    assert again.revision == 2
    assert lakes.get(symbol_day("a").key("data.parquet")) == content


@pytest.mark.guards("odd-times")
@pytest.mark.parametrize("moment", ["yesterday", "2026-01-11T11:59:59", "9999-01-01T00:00:00Z"])
def test_a_moment_that_makes_no_sense_does_not_stop_the_search(local_lakes: Lakes, moment: str) -> None:
    late = symbol_day("b", DAYS[1])
    put_late(local_lakes, late)
    store = StateStore(local_lakes.compact)

    def confused(before: State | None) -> State:
        assert before is not None
        return before.model_copy(
            update={
                "late_scan": before.late_scan.model_copy(
                    update={"rounds": {round_name([PAIR]): Round(started_at=moment)}}
                )
            }
        )

    state = asyncio.run(store.update(confused))
    after = asyncio.run(scan_slice(local_lakes.place(now=NOW), store, state, [PAIR], look_back_days=7, seconds=None))
    assert list(after.late_scan.stale) == [late.state_key]


@pytest.mark.guards("stale-never-ends")
def test_entries_that_no_round_would_look_at_again_are_dropped(local_lakes: Lakes) -> None:
    """A pair that is not configured any more, a symbol that retention removed, and what is no symbol-day."""
    store = StateStore(local_lakes.compact)
    gone = {"kraken/bbo/a/20260108": "x", "binance/bbo/gone/20260108": "x", "nonsense": "x"}

    def littered(before: State | None) -> State:
        assert before is not None
        return before.model_copy(update={"late_scan": before.late_scan.model_copy(update={"stale": gone})})

    state = asyncio.run(store.update(littered))
    after = asyncio.run(scan_slice(local_lakes.place(now=NOW), store, state, [PAIR], look_back_days=7, seconds=None))
    assert after.late_scan.stale == {}


@pytest.mark.guards("settled-day-breaks")
def test_a_settled_day_that_breaks_is_found(local_lakes: Lakes) -> None:
    """Its data is overwritten, and a part of it has expired: it cannot be rebuilt, and must not look fine."""
    broken = symbol_day("b", DAYS[1])
    asyncio.run(local_lakes.compact.put(broken.key("data.parquet"), b"junk"))
    [first, *_] = asyncio.run(local_lakes.raw.list_objects(broken.prefix))
    asyncio.run(local_lakes.raw.delete(first.key))
    store = StateStore(local_lakes.compact)
    state = asyncio.run(store.read())
    assert state is not None
    after = asyncio.run(scan_slice(local_lakes.place(now=NOW), store, state, [PAIR], look_back_days=7, seconds=None))
    assert "data.parquet is not what meta.json says" in after.unreadable[broken.state_key]
