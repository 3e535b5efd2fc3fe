"""The roll-up of a day: what is wrong with one symbol-day is told, and is nobody else's."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
from dataclasses import replace
from pathlib import Path

import pytest

from quantlab_dagster.errors import DayRefused, StoreUnavailable
from quantlab_dagster.market import rollup
from quantlab_dagster.market.looks import Look, look_of
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.plan import Action, Plan, plan_days
from quantlab_dagster.market.rebuild import rebuild_state
from quantlab_dagster.market.rollup import roll_up_and_settle, roll_up_day
from quantlab_dagster.market.settling import record_outcomes, unsettled_days
from quantlab_dagster.market.state import PartitionRecord, State
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, NOON_AFTER, PAIR, Lakes, spec, symbol_day


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    """Three symbols, compacted."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    for symbol in ("a", "b", "c"):
        lakes.put_spec(spec(symbol, parts=2, rows=20))
    lakes.run()
    return lakes


def break_two(lakes: Lakes) -> None:
    asyncio.run(lakes.compact.put(symbol_day("a").key("meta.json"), b"{"))
    (Path(lakes.raw_url) / symbol_day("b").key("part-\x01.parquet")).write_bytes(b"x")


@pytest.mark.guards("odd-name-stops-all", "unreadable-record-stops-all")
def test_an_unreadable_record_and_an_odd_key_name_themselves_and_stop_nothing_else(lakes: Lakes) -> None:
    break_two(lakes)
    plans = asyncio.run(plan_days(lakes.place(), [PAIR], [DAY]))
    assert [plan.action for plan in plans] == [Action.BROKEN, Action.BROKEN, Action.UP_TO_DATE]
    assert symbol_day("a").key("meta.json") in plans[0].reason
    assert "Rename or remove that object" in plans[1].reason


@pytest.mark.guards("roll-up-swallowed")
def test_a_day_with_a_symbol_day_that_cannot_be_read_is_open_and_says_why(lakes: Lakes) -> None:
    break_two(lakes)
    rolled, state = asyncio.run(roll_up_and_settle(lakes.place(), [PAIR], DAY))
    assert [plan.symbol_day.symbol for plan in rolled.open] == ["a", "b"]
    assert not rolled.settled
    assert not state.is_settled(DAY)
    record = state.day(DAY)
    assert record is not None
    assert record.status == Status.FAILED
    assert record.reason == rolled.open_text
    assert rolled.open_text.startswith("2 of 3 symbol-days are neither published nor quarantined: binance/bbo/a/")
    assert state.open_days == {"20260108": {"binance/bbo": "failed"}}
    assert state == asyncio.run(StateStore(lakes.compact).read())


@pytest.mark.guards("mutant-eligible")
def test_a_day_that_is_not_over_is_not_rolled_up(lakes: Lakes) -> None:
    """Its pairs would be settled before their last parts have come."""
    just_before = dt.datetime(2026, 1, 9, 2, 29, 59, tzinfo=dt.UTC)
    with pytest.raises(DayRefused):
        asyncio.run(roll_up_and_settle(lakes.place(now=just_before), [PAIR], DAY))
    assert asyncio.run(StateStore(lakes.compact).read()) is None


def test_a_day_that_was_left_open_settles_once_it_is_mended(lakes: Lakes) -> None:
    lakes.put_spec(spec("d", parts=2, rows=20))
    _, state = asyncio.run(roll_up_and_settle(lakes.place(), [PAIR], DAY))
    assert "binance/bbo/d/20260108: not published" in str(state.days["20260108"].reason)
    done = lakes.run()
    state = record_outcomes(state, PAIR, DAY, done.outcomes, NOON_AFTER)
    asyncio.run(StateStore(lakes.compact).update(lambda _: state))
    rolled, state = asyncio.run(roll_up_and_settle(lakes.place(), [PAIR], DAY))
    assert rolled.settled
    assert state.last_compacted_date == "20260108"
    assert state.days["20260108"].reason is None
    assert state.open_days == {}


def test_an_outage_is_no_fault_of_one_symbol_day(lakes: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    place = lakes.place()

    async def out(prefix: str) -> None:
        raise StoreUnavailable(prefix, "made up")

    monkeypatch.setattr(place.compact, "list_objects", out)
    with pytest.raises(StoreUnavailable):
        asyncio.run(plan_days(place, [PAIR], [DAY]))


@pytest.mark.guards("wrong-url-settles")
def test_a_raw_lake_without_any_configured_prefix_settles_nothing(tmp_path: Path) -> None:
    """Behind a wrong URL every day has no files; that was once settled, and green."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    (Path(lakes.raw_url) / "exchange=kraken" / "stream=bbo").mkdir(parents=True)
    rolled, state = asyncio.run(roll_up_and_settle(lakes.place(), [PAIR], DAY))
    assert not rolled.settled
    assert lakes.raw_url in rolled.open_text
    record = state.day(DAY)
    assert record is not None
    assert (record.settled, record.reason) == (False, rolled.open_text)
    assert state.watermark is None
    rebuilt = asyncio.run(rebuild_state(lakes.place(), [PAIR]))
    assert (rebuilt.watermark, unsettled_days(rebuilt, DAY)) == (None, [DAY])


def test_a_day_without_files_of_a_pair_that_is_there_is_settled(tmp_path: Path) -> None:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    (Path(lakes.raw_url) / PAIR.prefix).mkdir(parents=True)
    rolled, state = asyncio.run(roll_up_and_settle(lakes.place(), [PAIR], DAY))
    assert (rolled.settled, rolled.status) == (True, Status.NO_FILES)
    assert state.watermark == DAY


@pytest.mark.guards("rebuild-from-published")
def test_a_rebuild_of_no_state_begins_at_the_oldest_day_that_has_anything(tmp_path: Path) -> None:
    """It once began at the oldest published day, and passed over open ones before it."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    open_day, published = DAY - dt.timedelta(days=1), DAY
    for day in (open_day, published):
        lakes.put_spec(spec("a", parts=2, rows=20, day=day))
    lakes.run(day=published)
    rebuilt = asyncio.run(rebuild_state(lakes.place(), [PAIR]))
    assert rebuilt.watermark is None
    assert unsettled_days(rebuilt, published) == [open_day]
    assert [key[-8:] for key in rebuilt.partitions] == ["20260108"]


@pytest.mark.guards("inventory-forgets")
def test_a_rebuild_keeps_the_inventory(lakes: Lakes) -> None:
    old = PartitionRecord(status="success", rows=7, day_quality_post="GOOD", updated_at="2020-01-01T00:00:00Z")

    def adopted(_: State | None) -> State:
        return State(last_compacted_date="20260107", partitions={"binance/bbo/a/20260101": old})

    asyncio.run(StateStore(lakes.compact).update(adopted))
    rebuilt = asyncio.run(rebuild_state(lakes.place(), [PAIR]))
    assert rebuilt.partitions["binance/bbo/a/20260101"].day_quality_post == "GOOD"


@pytest.mark.guards("roll-up-memory")
def test_a_roll_up_holds_no_listing_once_it_was_looked_at(lakes: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listings of all parts of a large day once filled the memory."""
    for number in range(12):
        lakes.put_spec(spec(f"s{number}", parts=3, rows=3))
    alive: list[int] = []

    def counting(plan: Plan) -> Look:
        alive.append(sum(isinstance(item, Plan) for item in gc.get_objects()))
        return look_of(plan)

    monkeypatch.setattr(rollup, "look_of", counting)
    place = lakes.place()
    place = replace(place, limits=replace(place.limits, request_concurrency=2))
    gc.collect()
    rolled = asyncio.run(roll_up_day(place, [PAIR], DAY))
    assert len(rolled.looks) == len(alive) == 15
    assert max(alive) <= 4, "those at work, and no more"
