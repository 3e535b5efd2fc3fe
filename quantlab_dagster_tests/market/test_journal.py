"""What steps write, and how it gets into the state: once, in any order, after any crash."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.market.accepting import accept
from quantlab_dagster.market.catchup import read_or_begin
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.inventory import MonthInventory, inventory_key, move_oldest, oldest_successes
from quantlab_dagster.market.journal import JOURNAL, Journal, entry_of
from quantlab_dagster.market.outcome import Outcome, Status, failed
from quantlab_dagster.market.plan import Action
from quantlab_dagster.market.rebuild import rebuild_state
from quantlab_dagster.market.rollup import roll_up_and_settle
from quantlab_dagster.market.settling import accept_day, accept_symbol_day, begin, fold, record_outcomes, settle_day
from quantlab_dagster.market.state import ADOPTED_KEY, STATE_KEY, DayRecord, PartitionRecord, State, salvage
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, NOON_AFTER, PAIR, Lakes, Recorder, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store

OTHER = Pair("binance", "trade")
BEFORE = DAY - dt.timedelta(days=1)


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    return Lakes.of(Rig("local", None, tmp_path))


def outcome(status: Status, symbol: str = "a", pair: Pair = PAIR, day: dt.date = DAY, **more: Any) -> Outcome:
    return Outcome(SymbolDay(pair.exchange, pair.stream, symbol, day), status, Action.BUILD, "because", **more)


def entry(status: Status, pair: Pair = PAIR, *, minutes: int = 0, day: dt.date = DAY, whole: bool = True) -> Any:
    moment = NOON_AFTER + dt.timedelta(minutes=minutes)
    return entry_of(pair, day, [outcome(status, pair=pair, day=day)], moment, whole=whole)


def begun(lakes: Lakes, day: dt.date = DAY) -> StateStore:
    states = StateStore(lakes.compact)
    asyncio.run(states.update(lambda before: begin(before, day, NOON_AFTER)))
    return states


def journal_of(lakes: Lakes) -> list[str]:
    return [info.key for info in asyncio.run(lakes.compact.list_objects(JOURNAL))]


# ---- steps write, others fold ----------------------------------------------------------------------------------------


@pytest.mark.guards("state-squared")
def test_a_step_writes_an_object_of_its_own_and_leaves_the_state_alone(rig: Rig) -> None:
    lakes = Lakes.of(rig)
    lakes.put_spec(spec("a", parts=2, rows=20))
    states = begun(lakes)
    before = asyncio.run(lakes.compact.get(STATE_KEY))
    place = lakes.place()
    asyncio.run(compact_and_record(place, PAIR, DAY, listener=Recorder()))
    assert asyncio.run(lakes.compact.get(STATE_KEY)) == before, "neither its bytes nor its ETag"
    [key] = journal_of(lakes)
    assert key.startswith("compacted/journal/20260108-")
    view = asyncio.run(states.view())
    assert view is not None
    assert view.partitions[symbol_day("a").state_key].status == "success"
    assert view.open_days == {"20260108": {"binance/bbo": "success"}}
    assert asyncio.run(states.read()) != view


def test_the_first_step_of_all_begins_the_state(lakes: Lakes) -> None:
    lakes.put_spec(spec("a", parts=2, rows=20, day=BEFORE))
    asyncio.run(compact_and_record(lakes.place(), PAIR, BEFORE, listener=Recorder()))
    state = asyncio.run(StateStore(lakes.compact).read())
    assert state is not None
    assert state.catch_up_from == "20260108", "yesterday, whatever day was asked for"


def test_the_roll_up_folds_its_day_once_and_removes_what_it_folded(lakes: Lakes) -> None:
    lakes.put_spec(spec("a", parts=2, rows=20))
    begun(lakes)
    asyncio.run(compact_and_record(lakes.place(), PAIR, DAY, listener=Recorder()))
    asyncio.run(Journal(lakes.compact).append(entry(Status.FAILED, OTHER, day=BEFORE)))
    _, state = asyncio.run(roll_up_and_settle(lakes.place(), [PAIR], DAY))
    assert state.watermark == DAY
    assert [key.split("/")[2][:8] for key in journal_of(lakes)] == ["20260107"], "another day's is not its own"
    assert state == asyncio.run(StateStore(lakes.compact).read())


def test_catch_up_folds_days_that_nobody_works_on_and_sees_all_others(lakes: Lakes) -> None:
    states = begun(lakes, BEFORE)
    for day in (BEFORE, DAY):
        asyncio.run(Journal(lakes.compact).append(entry(Status.FAILED, day=day)))
    view = asyncio.run(read_or_begin(lakes.place(), [PAIR], busy=[DAY]))
    assert sorted(view.open_days) == ["20260107", "20260108"]
    written = asyncio.run(states.read())
    assert written is not None
    assert list(written.open_days) == ["20260107"]
    assert [key.split("/")[2][:8] for key in journal_of(lakes)] == ["20260108"]


def test_an_entry_whose_removal_failed_is_folded_again_and_changes_nothing_newer(lakes: Lakes) -> None:
    states = begun(lakes)
    asyncio.run(Journal(lakes.compact).append(entry(Status.FAILED)))
    place = lakes.place()

    async def dies(key: str) -> None:
        raise StoreUnavailable(key, "the process died")

    with patch.object(place.compact, "delete", dies), pytest.raises(StoreUnavailable):
        asyncio.run(read_or_begin(place, [PAIR]))
    later = entry(Status.SUCCESS, minutes=5)
    asyncio.run(states.update(lambda before: fold(before or State(), [later])))
    asyncio.run(read_or_begin(lakes.place(), [PAIR]))
    state = asyncio.run(states.read())
    assert state is not None
    assert state.partitions[symbol_day("a").state_key].status == "success"
    assert journal_of(lakes) == []


def test_entries_are_folded_in_the_order_of_their_times() -> None:
    state = begin(None, DAY, NOON_AFTER)
    first, second = entry(Status.FAILED), entry(Status.SUCCESS, minutes=1)
    for entries in ([first, second], [second, first]):
        after = fold(state, entries)
        assert after.open_days == {"20260108": {"binance/bbo": "success"}}
        assert after.partitions[symbol_day("a").state_key].status == "success"
        assert "20260108" not in after.days


def test_a_step_of_some_symbols_says_nothing_of_its_pair() -> None:
    after = fold(begin(None, DAY, NOON_AFTER), [entry(Status.SUCCESS, whole=False)])
    assert (after.open_days, len(after.partitions)) == ({}, 1)


def test_an_entry_that_cannot_be_understood_names_itself_and_stops_nothing_else(
    lakes: Lakes, caplog: pytest.LogCaptureFixture
) -> None:
    begun(lakes)
    key = f"{JOURNAL}20260108-x.json"
    asyncio.run(lakes.compact.put(key, b'{"exchange": 1'))
    asyncio.run(Journal(lakes.compact).append(entry(Status.FAILED)))
    kept = asyncio.run(Journal(lakes.compact).read())
    assert len(kept.entries) == 1
    assert list(kept.unreadable) == [key]
    assert key in kept.unreadable[key]
    assert key in caplog.text
    asyncio.run(read_or_begin(lakes.place(), [PAIR]))
    assert journal_of(lakes) == [key], "it stays for people"


def test_an_entry_that_somebody_else_has_folded_is_gone_and_that_is_well(lakes: Lakes) -> None:
    asyncio.run(Journal(lakes.compact).append(entry(Status.SUCCESS)))
    kept = asyncio.run(Journal(lakes.compact).read())
    for _ in range(2):
        asyncio.run(Journal(lakes.compact).forget(kept))
    assert journal_of(lakes) == []


def test_an_entry_of_no_day_stops_nothing_else(lakes: Lakes) -> None:
    begun(lakes)
    odd = entry(Status.FAILED).model_copy(update={"day": "20261399"})
    key = asyncio.run(Journal(lakes.compact).append(odd))
    kept = asyncio.run(Journal(lakes.compact).read())
    assert (kept.entries, list(kept.unreadable)) == ({}, [key])
    asyncio.run(read_or_begin(lakes.place(), [PAIR]))


def test_what_is_accepted_keeps_no_later_pair_from_being_settled(lakes: Lakes) -> None:
    """A day was accepted with a symbol-day that cannot be read; a pair that came later could then never settle it."""
    lakes.put_spec(spec("a", parts=2, rows=20))
    lakes.run()
    asyncio.run(lakes.compact.put(symbol_day("a").key("meta.json"), b"{"))
    begun(lakes)
    place = lakes.place()
    rolled, _ = asyncio.run(roll_up_and_settle(place, [PAIR], DAY))
    assert not rolled.settled
    asyncio.run(accept(place, DAY, "that symbol is lost", [PAIR]))
    rolled, state = asyncio.run(roll_up_and_settle(place, [PAIR, OTHER], DAY))
    assert rolled.settled
    assert state.covers(OTHER, DAY)
    assert asyncio.run(rebuild_state(place, [PAIR, OTHER])).covers(OTHER, DAY)


def test_what_the_lake_shows_takes_the_place_of_what_steps_said(lakes: Lakes) -> None:
    """A quarantine whose cause is gone once stayed in the state for ever."""
    lakes.put_spec(spec("a", parts=2, rows=20))
    lakes.run()
    states = begun(lakes)
    wrong = replace(outcome(Status.QUARANTINE), raw_fingerprint="abc")
    asyncio.run(states.update(lambda before: record_outcomes(before or State(), PAIR, DAY, [wrong], NOON_AFTER)))
    _, state = asyncio.run(roll_up_and_settle(lakes.place(), [PAIR], DAY))
    record = state.partitions[symbol_day("a").state_key]
    assert (record.status, record.error, record.rows) == ("success", None, 20)


# ---- the inventory ---------------------------------------------------------------------------------------------------


def large(symbols: int, *, failed: int = 0) -> State:
    """A state of so many symbols on each of three days in two months; some of the oldest failed."""
    partitions = {}
    for number, day in enumerate(("20251230", "20251231", "20260101")):
        for symbol in range(symbols):
            status = "failed" if number == 0 and symbol < failed else "success"
            record = PartitionRecord(status=status, rows=symbol, updated_at="2026-01-02T00:00:00Z")
            partitions[f"binance/bbo/s{symbol:03d}/{day}"] = record
    return State(catch_up_from="20251230", partitions=partitions)


def test_up_to_the_stated_size_nothing_moves() -> None:
    assert oldest_successes(large(10), most=30, keep=20) == {}
    assert len(oldest_successes(large(10), most=29, keep=20)) == 10


@pytest.mark.guards("inventory-ages")
def test_the_oldest_successes_move_to_their_months_and_nothing_is_lost(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    store = rig.new_store()
    states = StateStore(store)
    before = large(10, failed=3)
    asyncio.run(states.update(lambda _: before))
    after = asyncio.run(move_oldest(store, before, states.update, most=29, keep=12))
    assert after == asyncio.run(states.read())
    assert len(after.partitions) == 12
    assert sum(record.status == "failed" for record in after.partitions.values()) == 3, "what is no success stays"
    assert after.inventory_months == ("202512", "202601")
    months: dict[str, Any] = {}
    for month in after.inventory_months:
        content, _ = asyncio.run(store.get(inventory_key(month)))
        months |= MonthInventory.read(content, month).partitions
    moved = {key: PartitionRecord.model_validate(record) for key, record in months.items()}
    assert {**moved, **after.partitions} == before.partitions
    assert "are now in" in caplog.text
    assert inventory_key("202512") in caplog.text
    more = after.model_copy(update={"partitions": after.partitions | large(20).partitions})
    asyncio.run(states.update(lambda _: more))
    asyncio.run(move_oldest(store, more, states.update, most=29, keep=0))
    content, _ = asyncio.run(store.get(inventory_key("202512")))
    assert len(MonthInventory.read(content, "202512").partitions) >= 37, "what had moved before is still there"


def test_a_record_that_changed_while_it_moved_stays(lakes: Lakes) -> None:
    states = StateStore(lakes.compact)
    before = large(10)
    key = "binance/bbo/s000/20251230"
    newer = before.partitions[key].model_copy(update={"rows": 99})
    asyncio.run(states.update(lambda _: before.model_copy(update={"partitions": {**before.partitions, key: newer}})))
    after = asyncio.run(move_oldest(lakes.compact, before, states.update, most=29, keep=0))
    assert after.partitions == {key: newer}


@dataclass(frozen=True, slots=True)
class Moved:
    """A lake with a symbol-day whose record has moved to its month's file, and whose next try failed since."""

    store: Store
    states: StateStore
    key: str
    before: PartitionRecord

    @classmethod
    def of(cls, store: Store) -> Moved:
        states = StateStore(store)
        partitions = {
            key: record.model_copy(update={"day_quality_post": "GOOD", "total_size_bytes": 7_000})
            for key, record in large(10).partitions.items()
        }
        before = large(10).model_copy(update={"partitions": partitions})
        asyncio.run(states.update(lambda _: before))
        key = "binance/bbo/s005/20251230"
        after = asyncio.run(move_oldest(store, before, states.update, most=29, keep=0))
        assert key not in after.partitions
        where = SymbolDay.of_state_key(key)
        tried = failed(where, StoreUnavailable("s3://raw", "does not answer"), "does not answer")
        asyncio.run(Journal(store).append(entry_of(where.pair, where.day, [tried], NOON_AFTER, whole=False)))
        return cls(store, states, key, before.partitions[key])

    def assert_kept(self, state: State | None, status: str = "failed") -> None:
        assert state is not None
        record = state.partitions[self.key]
        assert (record.status, record.rows, record.total_size_bytes, record.day_quality_post) == (
            status,
            self.before.rows,
            self.before.total_size_bytes,
            self.before.day_quality_post,
        )


@pytest.mark.guards("inventory-worse")
def test_what_fails_after_it_has_moved_is_still_what_was_published(rig: Rig) -> None:
    moved = Moved.of(rig.new_store())
    moved.assert_kept(asyncio.run(moved.states.view()))
    day = SymbolDay.of_state_key(moved.key).day
    begins = partial(begin, day=day, now=NOON_AFTER)
    moved.assert_kept(asyncio.run(moved.states.fold(begins, but=[day])))
    stands = asyncio.run(moved.states.read())
    assert stands is not None
    assert moved.key not in stands.partitions, "somebody is still at work on its day"
    moved.assert_kept(asyncio.run(moved.states.fold(begins)))
    moved.assert_kept(asyncio.run(moved.states.read()))


@pytest.mark.guards("inventory-worse")
def test_what_the_state_says_is_newer_than_what_has_moved(lakes: Lakes) -> None:
    moved = Moved.of(lakes.compact)
    built = moved.before.model_copy(update={"rows": 99})
    before = asyncio.run(moved.states.read())
    assert before is not None
    again = before.model_copy(update={"partitions": {**before.partitions, moved.key: built}})
    asyncio.run(moved.states.update(lambda _: again))
    replace(moved, before=built).assert_kept(asyncio.run(moved.states.fold(partial(begin, day=DAY, now=NOON_AFTER))))


@pytest.mark.guards("inventory-worse")
def test_a_rebuild_sees_what_has_moved(lakes: Lakes) -> None:
    moved = Moved.of(lakes.compact)
    asyncio.run(rebuild_state(lakes.place(), [PAIR]))
    moved.assert_kept(asyncio.run(moved.states.read()))


@pytest.mark.guards("unreadable-record-stops-all")
@pytest.mark.parametrize(
    "content", [None, b"{", b'{"partitions": []}', b'{"partitions": {"binance/bbo/s005/20251230": {"rows": "x"}}}']
)
def test_a_month_that_is_gone_or_no_json_stops_nothing(
    lakes: Lakes, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    moved = Moved.of(lakes.compact)
    month = inventory_key("202512")
    asyncio.run(lakes.compact.delete(month) if content is None else lakes.compact.put(month, content))
    after = asyncio.run(moved.states.fold(partial(begin, day=DAY, now=NOON_AFTER)))
    assert after.partitions[moved.key].status == "failed"
    assert "202512" in caplog.text


# ---- other software's file; files that cannot be read ----------------------------------------------------------------


def test_an_adopted_file_is_kept_aside_as_it_was(rig: Rig) -> None:
    store = rig.new_store()
    content = b'{"last_compacted_date": "20260107", "hostname": "old-box", "partitions": {"a": {"odd": 1}}}'
    content = content.replace(b'{"odd": 1}', b'{"status": "success", "updated_at": "x"}')
    asyncio.run(store.put(STATE_KEY, content))
    states = StateStore(store)
    asyncio.run(states.update(lambda before: begin(before, DAY, NOON_AFTER)))
    assert asyncio.run(store.get(ADOPTED_KEY))[0] == content
    asyncio.run(states.update(lambda before: settle_day(before or State(), DAY, Status.SUCCESS, NOON_AFTER, [PAIR])))
    assert asyncio.run(store.get(ADOPTED_KEY))[0] == content


def test_what_is_valid_by_itself_is_believed() -> None:
    good = begin(None, DAY, NOON_AFTER).model_copy(
        update={"days": {"20260101": DayRecord(status="skipped", updated_at="x", reason="accepted: why")}}
    )
    broken = good.dump().replace(b'"catch_up_from": "20260108"', b'"catch_up_from": "99991231"')
    believed = salvage(broken)
    assert believed is not None
    assert (believed.catch_up_from, believed.days) == (None, good.days)
    halved = good.model_copy(
        update={"partitions": {"a/b/c/20260101": PartitionRecord(status="success", rows=1, updated_at="x")}}
    )
    damaged = halved.dump().replace(b'"days": {', b'"days": {"20260102": {"status": 3},')
    believed = salvage(damaged)
    assert believed is not None
    assert believed.days == good.days, "one bad record takes no other with it"
    assert believed.partitions == halved.partitions
    for content in (b"", b"{", b"[]", b"\xff"):
        assert salvage(content) is None


@pytest.mark.guards("rebuild-erases-days", "rebuild-drops-quarantines", "rebuild-drops-accepts", "mutant-accepts")
def test_one_bad_range_does_not_settle_days_for_everybody() -> None:
    state = settle_day(begin(None, DAY, NOON_AFTER), DAY, Status.SUCCESS, NOON_AFTER, [PAIR])
    broken = state.dump().replace(b'"settled_pairs": {', b'"settled_pairs": {"binance/trade": [["20261399", "x"]],')
    believed = salvage(broken)
    assert believed is not None
    assert believed.settled_pairs == state.settled_pairs
    nothing = salvage(state.dump().replace(b'"settled_pairs": {', b'"settled_pairs": 3, "x": {'))
    assert nothing is not None
    assert nothing.settled_pairs == {}


def test_a_rebuild_keeps_days_decisions_and_the_watermark(lakes: Lakes) -> None:
    """It once erased `days`, and dropped adopted quarantines."""
    lakes.put_spec(spec("a", parts=2, rows=20))
    lakes.run()
    adopted = PartitionRecord(status="quarantine", updated_at="2025-01-01T00:00:00Z", error="old")
    states = begun(lakes, BEFORE)

    def history(before: State | None) -> State:
        state = accept_day(before or State(), BEFORE, "the exchange was down", NOON_AFTER, [PAIR])
        state = state.model_copy(update={"partitions": {"binance/bbo/a/20250101": adopted}})
        state = accept_symbol_day(state, SymbolDay.of_state_key("binance/bbo/a/20250101"), "never mind", NOON_AFTER)
        old = DayRecord(status="success", updated_at="2025-01-01T00:00:00Z")
        return state.model_copy(update={"days": {**state.days, "20250101": old}})

    before = asyncio.run(states.update(history))
    asyncio.run(Journal(lakes.compact).append(entry(Status.FAILED, OTHER, whole=False)))
    after = asyncio.run(rebuild_state(lakes.place(), [PAIR]))
    assert after.days["20260107"] == before.days["20260107"]
    assert after.days["20250101"] == before.days["20250101"]
    assert after.partitions["binance/bbo/a/20250101"] == adopted
    assert after.accepted == before.accepted
    assert (after.catch_up_from, after.last_compacted_date) == ("20260107", "20260108")
    assert after.partitions["binance/trade/a/20260108"].status == "failed"
    assert journal_of(lakes) == []


def test_a_rebuild_of_rubbish_makes_the_inventory_of_all_that_is_published(lakes: Lakes) -> None:
    old = DAY - dt.timedelta(days=200)
    for day in (old, BEFORE, DAY):
        lakes.put_spec(spec("a", parts=2, rows=20, day=day))
    lakes.run(day=old)
    lakes.run(day=DAY)
    asyncio.run(lakes.compact.put(STATE_KEY, b"rubbish"))
    after = asyncio.run(rebuild_state(lakes.place(), [PAIR]))
    assert sorted(key[-8:] for key in after.partitions) == [f"{old:%Y%m%d}", "20260108"]
    assert (after.catch_up_from, after.watermark) == ("20260107", None), "never over a day that is open"
    assert asyncio.run(lakes.compact.get(f"{STATE_KEY}.unreadable"))[0] == b"rubbish"


def test_a_rebuild_never_moves_the_watermark_over_a_day_it_did_not_look_at(lakes: Lakes) -> None:
    """The beginning lies before what is looked at, and nothing is known of the days between."""
    first = DAY - dt.timedelta(days=60)
    begun(lakes, first)
    lakes.put_spec(spec("a", parts=2, rows=20))
    lakes.run()
    after = asyncio.run(rebuild_state(lakes.place(), [PAIR]))
    assert after.watermark is None
    assert after.days["20260108"].status == "success"


@pytest.mark.guards("rebuild-from-published")
def test_a_rebuild_says_of_an_open_day_why_it_is_open(lakes: Lakes) -> None:
    lakes.put_spec(spec("a", parts=2, rows=20))
    begun(lakes)
    after = asyncio.run(rebuild_state(lakes.place(), [PAIR, OTHER]))
    assert after.days["20260108"].status == "failed"
    assert "binance/bbo/a/20260108: not published" in str(after.days["20260108"].reason)
    assert after.open_days == {"20260108": {"binance/bbo": "failed"}}, "the other pair has nothing there"
