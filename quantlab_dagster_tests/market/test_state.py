"""The state: watermark, records, compare-and-swap; pure rules first, then real processes on every kind of store."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import multiprocessing
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab_dagster.errors import DayRefused, MalformedObject, QuantlabError, StoreError
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.lake.store.objects import S3Options
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.market.catchup import (
    CatchUpRules,
    Tries,
    decide_catch_up,
    decide_late_days,
    decide_open_days,
    wait_after,
)
from quantlab_dagster.market.judgement import judge
from quantlab_dagster.market.outcome import Outcome, Status
from quantlab_dagster.market.plan import Action
from quantlab_dagster.market.settling import (
    accept_day,
    begin,
    leave_open,
    missing_pairs,
    record_outcomes,
    seed,
    settle_day,
    unsettled_days,
)
from quantlab_dagster.market.state import STATE_KEY, LateScan, PartitionRecord, State
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    from quantlab_dagster_tests.conftest import Rig

FIRST = dt.date(2026, 1, 8)
NOW = dt.datetime(2026, 1, 12, 12, tzinfo=dt.UTC)
BBO, TRADE = Pair("binance", "bbo"), Pair("binance", "trade")
PAIRS = [BBO, TRADE]


def day(number: int) -> dt.date:
    return dt.date(2026, 1, 1) + dt.timedelta(days=number - 1)


def outcome(status: Status, pair: Pair = BBO, number: int = 8, symbol: str = "adausdt") -> Outcome:
    symbol_day = SymbolDay(pair.exchange, pair.stream, symbol, day(number))
    label = "DEGRADED" if status is Status.SUCCESS else None
    return Outcome(symbol_day, status, Action.BUILD, "because", rows=5, bytes_in=100, bytes_out=40, day_quality=label)


def begun(number: int = 8) -> State:
    return begin(None, day(number), NOW)


@pytest.mark.guards("cold-start-forgotten")
def test_a_cold_start_remembers_its_first_day_before_any_work() -> None:
    state = begun()
    assert state.catch_up_from == "20260108"
    assert state.last_compacted_date is None
    assert unsettled_days(state, day(8)) == [day(8)]
    assert begin(state, day(20), NOW) == state


@pytest.mark.guards("watermark-past-failure")
def test_the_watermark_moves_over_settled_days_only() -> None:
    state = begun()
    state = settle_day(state, day(9), Status.SUCCESS, NOW, PAIRS)
    assert state.last_compacted_date is None, "8 January is open"
    assert unsettled_days(state, day(11)) == [day(8), day(10), day(11)]
    state = record_outcomes(state, BBO, day(8), [outcome(Status.FAILED)], NOW)
    assert state.days["20260108"].status == "failed"
    state = settle_day(state, day(8), Status.QUARANTINE, NOW, PAIRS)
    assert state.last_compacted_date == "20260109"
    assert unsettled_days(state, day(11)) == [day(10), day(11)]


@pytest.mark.guards("watermark-past-failure")
@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from([*Status, "accept", "fail"])), max_size=40))
def test_the_watermark_never_moves_back_nor_over_an_open_day(steps: list[tuple[int, Any]]) -> None:
    state = begun(5)
    settled: set[dt.date] = set()
    before = None
    for number, step in steps:
        if step == "accept":
            if not state.is_settled(day(number)):
                state = accept_day(state, day(number), "an operator said so", NOW, PAIRS)
                settled.add(day(number))
        elif step in (Status.FAILED, "fail"):
            state = record_outcomes(state, BBO, day(number), [outcome(Status.FAILED, number=number)], NOW)
        else:
            state = settle_day(state, day(number), step, NOW, PAIRS)
            settled.add(day(number))
        assert before is None or (state.watermark is not None and state.watermark >= before)
        before = state.watermark
        expected = None
        current = day(5)
        while current in settled:
            expected, current = current, current + dt.timedelta(days=1)
        assert state.watermark == expected


def test_a_backfill_below_the_beginning_moves_neither_value() -> None:
    state = begun(8)
    after = settle_day(
        record_outcomes(state, BBO, day(2), [outcome(Status.SUCCESS, number=2)], NOW),
        day(2),
        Status.SUCCESS,
        NOW,
        PAIRS,
    )
    assert (after.catch_up_from, after.last_compacted_date) == ("20260108", None)
    assert "20260102" not in after.open_days
    assert "binance/bbo/adausdt/20260102" in after.partitions


def test_pairs_that_ended_well_are_not_asked_for_again() -> None:
    state = begun()
    assert missing_pairs(state, day(8), [BBO, TRADE]) == [BBO, TRADE]
    state = record_outcomes(state, BBO, day(8), [outcome(Status.SUCCESS)], NOW)
    state = record_outcomes(state, TRADE, day(8), [outcome(Status.FAILED, TRADE)], NOW)
    assert missing_pairs(state, day(8), [BBO, TRADE]) == [TRADE]
    state = record_outcomes(state, TRADE, day(8), [], NOW)
    assert missing_pairs(state, day(8), [BBO, TRADE]) == []
    assert "20260108" not in state.days, "it is no longer failed, and not yet settled"
    assert not state.is_settled(day(8))


def test_the_inventory_loses_nothing_with_age() -> None:
    """Successes were once forgotten after thirty days, and research tools select their data from them."""
    state = begun()
    for number in range(8, 8 + 400):
        moment = NOW + dt.timedelta(days=number)
        state = record_outcomes(state, BBO, day(number), [outcome(Status.SUCCESS, number=number)], moment)
        state = settle_day(state, day(number), Status.SUCCESS, moment, PAIRS)
    assert len(state.days) == len(state.partitions) == 400
    assert state.last_compacted_date == f"{day(407):%Y%m%d}"


def test_partitions_are_recorded_as_the_contract_says() -> None:
    state = record_outcomes(
        begun(), BBO, day(8), [outcome(Status.SUCCESS), outcome(Status.QUARANTINE, symbol="x")], NOW
    )
    document = json.loads(state.dump())
    assert document["partitions"]["binance/bbo/adausdt/20260108"] == {
        "status": "success",
        "rows": 5,
        "total_size_bytes": 100,
        "day_quality_post": "DEGRADED",
        "updated_at": "2026-01-12T12:00:00Z",
    }
    assert document["partitions"]["binance/bbo/x/20260108"]["error"] == "because"
    assert document["last_compacted_date"] is None
    assert document["updated_at"] == "2026-01-12T12:00:00Z"


def test_an_adopted_state_goes_on_after_its_watermark_and_keeps_what_it_does_not_know() -> None:
    old = {"last_compacted_date": "20260110", "updated_at": "2026-01-11T03:00:00Z", "days": {}, "hostname": "old-box"}
    state = State.read(json.dumps(old).encode(), "state")
    assert unsettled_days(state, day(12)) == [day(11), day(12)]
    assert json.loads(settle_day(state, day(11), Status.SUCCESS, NOW, PAIRS).dump())["hostname"] == "old-box"


@pytest.mark.guards("seed-2062")
def test_a_seed_in_the_future_is_refused() -> None:
    """A slip of the finger once settled everything up to 2062."""
    with pytest.raises(DayRefused):
        seed(None, dt.date(2062, 1, 1), NOW, PAIRS)
    with pytest.raises(DayRefused):
        seed(begun(), day(12), NOW, PAIRS)  # today
    assert seed(None, day(11), NOW, PAIRS).last_compacted_date == "20260111"


@pytest.mark.guards("seed-2062")
def test_a_mistaken_seed_is_undone_and_the_reason_kept() -> None:
    mistaken = settle_day(seed(begun(3), day(10), NOW, PAIRS), day(11), Status.SUCCESS, NOW, PAIRS)
    assert mistaken.last_compacted_date == "20260111"
    mended = seed(mistaken, day(4), NOW, PAIRS, move_back="typed 10 instead of 4")
    assert (mended.last_compacted_date, mended.catch_up_from) == ("20260104", "20260103")
    assert unsettled_days(mended, day(11)) == [day(number) for number in range(5, 11)], "the 11th has its own record"
    [kept] = json.loads(mended.dump())["seeds"]
    assert (kept["before"], kept["reason"]) == ("20260111", "typed 10 instead of 4")
    assert State.read(mended.dump(), "state") == mended


def test_moving_back_before_the_beginning_begins_there() -> None:
    mended = seed(seed(None, day(10), NOW, PAIRS), day(4), NOW, PAIRS, move_back="older days are wanted after all")
    assert mended.catch_up_from == "20260105"


def test_seeding_never_moves_back() -> None:
    state = seed(None, day(9), NOW, PAIRS)
    assert unsettled_days(state, day(11)) == [day(10), day(11)]
    with pytest.raises(QuantlabError, match="never moves back"):
        seed(state, day(8), NOW, PAIRS)


@pytest.mark.guards("unreadable-state-empty", "empty-object-cold", "odd-times")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"last_compacted_date": "yesterday"}',
        b'{"last_compacted_date": "99991231"}',
        b'{"days": 3}',
    ],
)
def test_a_malformed_state_is_an_error_that_names_it(rig: Rig, content: bytes) -> None:
    store = rig.new_store()
    asyncio.run(store.put(STATE_KEY, content))
    for work in (StateStore(store).read(), StateStore(store).update(lambda _: begun())):
        with pytest.raises(MalformedObject, match=r"compacted/_state\.json.*quantlab state rebuild"):
            asyncio.run(work)
    assert asyncio.run(store.get(STATE_KEY))[0] == content


@pytest.mark.guards("unreadable-state-empty")
def test_only_a_definite_not_found_is_a_cold_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    store = rig.new_store()
    assert asyncio.run(StateStore(store).read()) is None

    async def failing(_: str) -> None:
        raise StoreError("state", "access denied", "Check the credentials")

    monkeypatch.setattr(store, "get_if_exists", failing)
    with pytest.raises(StoreError):
        asyncio.run(StateStore(store).update(lambda _: begun()))


@pytest.mark.guards("rebuild-leaves-none")
def test_a_rebuild_that_dies_never_leaves_no_state(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent state would be a cold start. Whatever write fails, the old one or the new one is there."""
    for failing in ("put", "compare_and_swap"):
        store = rig.new_store()
        asyncio.run(store.put(STATE_KEY, b"{ half"))

        async def dies(*_: object) -> str:
            raise StoreError("state", "the process died", "Run again")

        with monkeypatch.context() as patch:
            patch.setattr(store, failing, dies)
            with pytest.raises(StoreError, match="died"):
                asyncio.run(StateStore(store).replace_unreadable(lambda _: begun()))
        assert asyncio.run(store.get(STATE_KEY))[0] == b"{ half"
        assert asyncio.run(StateStore(store).replace_unreadable(lambda _: begun())) == asyncio.run(
            StateStore(store).read()
        )
        assert asyncio.run(store.get(f"{STATE_KEY}.unreadable"))[0] == b"{ half"


def decide(state: State, last: dt.date, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "busy": set(),
        "tries": lambda _: Tries(),
        "now": NOW,
        "most_runs": 3,
        "most_attempts": 3,
    }
    return decide_catch_up(state, CatchUpRules([BBO, TRADE], last, **{**defaults, **options}))


def test_catch_up_asks_for_open_days_oldest_first_and_not_for_all_at_once() -> None:
    decided = decide(begun(), day(12))
    assert [request.day for request in decided.requests] == [day(8), day(9), day(10)]
    assert [request.key for request in decided.requests] == ["day:20260108:1", "day:20260109:1", "day:20260110:1"]
    assert "at most 3 runs" in decided.skipped[0]


def test_catch_up_leaves_busy_days_alone_and_gives_up_loudly() -> None:
    tries = {"day:20260108": Tries(3, 3), "day:20260110": Tries(1, 1)}
    decided = decide(begun(), day(10), busy={day(9)}, tries=lambda task: tries.get(task, Tries()))
    assert [(request.day, request.attempt) for request in decided.requests] == [(day(10), 2)]
    assert decided.exhausted == (day(8),)
    assert any("quantlab state accept 2026-01-08" in text for text in decided.skipped)
    assert any("2026-01-09: a run is queued or running" in text for text in decided.skipped)


@pytest.mark.guards("outage-uses-up")
def test_waits_grow_to_an_hour_so_that_an_outage_of_hours_does_not_use_up_five_attempts() -> None:
    minutes = [wait_after(Tries(failed, failed)) / dt.timedelta(minutes=1) for failed in range(7)]
    assert minutes == [0, 5, 30, 60, 60, 60, 60]
    assert sum(minutes[:5]) >= 150, "from the first of five attempts to the last"
    assert [wait_after(Tries(failed, failed), (7,)).seconds / 60 for failed in range(3)] == [0, 7, 7]


@pytest.mark.guards("outage-uses-up")
def test_a_day_that_failed_is_not_asked_for_before_its_time_and_says_when_that_is() -> None:
    tries = {"day:20260108": Tries(2, 2, NOW - dt.timedelta(minutes=29)), "day:20260109": Tries(1, 1, NOW)}

    def at(minutes: float) -> Any:
        now = NOW + dt.timedelta(minutes=minutes)
        return decide(begun(), day(10), now=now, most_runs=2, tries=lambda task: tries.get(task, Tries()))

    decided = at(0)
    assert [request.day for request in decided.requests] == [day(10)], "days that wait take no slot of others"
    assert decided.waiting == (day(8), day(9))
    again = f"{NOW + dt.timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    assert f"2026-01-08: failed 2 times, tried again from {again} on" in decided.skipped
    assert decided.exhausted == ()
    assert [request.key for request in at(1).requests] == ["day:20260108:3", "day:20260110:1"]
    assert [(request.day, request.attempt) for request in at(5).requests] == [(day(8), 3), (day(9), 2)]


@pytest.mark.guards("outage-uses-up")
def test_late_days_wait_as_well() -> None:
    state = settle_day(begun(), day(8), Status.SUCCESS, NOW, PAIRS)
    stale = state.model_copy(update={"late_scan": LateScan(stale={"binance/trade/btcusdt/20260108": "abc"})})
    assert decide(stale, day(8), tries=lambda _: Tries(1, 1, NOW)).waiting == (day(8),)


@pytest.mark.guards("attempts-counted-wrong", "run-key-used-up")
def test_a_cancelled_attempt_uses_none_up_and_comes_back_after_a_while_under_a_new_key() -> None:
    cancelled = Tries(last_number=5, failed=2, last_ended=NOW - dt.timedelta(hours=1), last_failed=False)
    [request] = decide(begun(), day(8), tries=lambda _: cancelled).requests
    assert (request.attempt, request.key) == (3, "day:20260108:6"), "an old key would be passed over in silence"
    just_now = Tries(last_number=1, failed=0, last_ended=NOW, last_failed=False)
    for minutes, asked in ((9, 0), (10, 1)):
        decided = decide(begun(), day(8), now=NOW + dt.timedelta(minutes=minutes), tries=lambda _: just_now)
        assert len(decided.requests) == asked, "who cancels a run does not want it back at once"
        if not asked:
            assert "is due again: it changed since its last run, or that was cancelled" in decided.skipped[0]


@pytest.mark.guards("odd-times")
def test_a_clock_that_was_wrong_does_not_stop_a_day_for_long() -> None:
    assert decide(begun(), day(8), tries=lambda _: Tries(1, 1, NOW + dt.timedelta(days=300))).requests
    assert not decide(begun(), day(8), tries=lambda _: Tries(1, 1, NOW + dt.timedelta(seconds=90))).requests


def test_history_is_asked_only_for_days_that_are_due_and_have_a_slot() -> None:
    asked = []

    def tries(task: str) -> Tries:
        asked.append(task)
        return Tries()

    state = settle_day(begun(), day(10), Status.SUCCESS, NOW, PAIRS)
    decide(state, day(20), busy={day(9)}, most_runs=2, tries=tries)
    assert asked == ["day:20260108", "day:20260111"]


def test_open_days_are_decided_before_late_ones_and_a_day_is_not_asked_for_twice() -> None:
    rules = CatchUpRules([BBO, TRADE], day(9), NOW, set(), lambda _: Tries(), most_runs=3, most_attempts=3)
    first = decide_open_days(begun(), rules)
    assert [request.day for request in first.requests] == [day(8), day(9)]
    after = settle_day(begun(), day(8), Status.SUCCESS, NOW, PAIRS)  # meanwhile
    stale = {"binance/trade/btcusdt/20260108": "abc"}
    both = decide_late_days(after.model_copy(update={"late_scan": LateScan(stale=stale)}), rules, first)
    assert both.requests == first.requests


@pytest.mark.guards("pair-never-again")
def test_a_day_that_the_roll_up_left_open_runs_the_pairs_that_were_open_again() -> None:
    state = record_outcomes(begun(), BBO, day(8), [outcome(Status.SUCCESS)], NOW)
    state = record_outcomes(state, TRADE, day(8), [outcome(Status.SUCCESS, TRADE)], NOW)
    assert missing_pairs(state, day(8), [BBO, TRADE]) == []
    after = leave_open(state, day(8), {TRADE}, "1 of 2 symbol-days …", NOW)
    assert missing_pairs(after, day(8), [BBO, TRADE]) == [TRADE]
    assert after.days["20260108"].status == "failed"
    assert after.days["20260108"].reason == "1 of 2 symbol-days …"
    settled = settle_day(state, day(8), Status.SUCCESS, NOW, PAIRS)
    assert leave_open(settled, day(8), {TRADE}, "too late", NOW) == settled, "never unsettled"
    ahead = settle_day(state, day(9), Status.SUCCESS, NOW, PAIRS)  # of the watermark
    assert leave_open(ahead, day(9), {TRADE}, "too late", NOW) == ahead


@pytest.mark.guards("crash-before-roll-up")
def test_catch_up_asks_only_for_what_is_missing() -> None:
    state = record_outcomes(begun(), BBO, day(8), [outcome(Status.SUCCESS)], NOW)
    [request] = decide(state, day(8)).requests
    assert request.pairs == (TRADE,)
    state = record_outcomes(state, TRADE, day(8), [], NOW)
    [request] = decide(state, day(8)).requests
    assert request.pairs == (), "only the roll-up is missing"


@pytest.mark.guards("run-key-used-up")
def test_catch_up_asks_for_days_with_late_parts_and_again_when_more_come() -> None:
    state = settle_day(begun(), day(8), Status.SUCCESS, NOW, PAIRS)
    stale = state.model_copy(update={"late_scan": LateScan(stale={"binance/trade/btcusdt/20260108": "abc"})})
    [request] = decide(stale, day(8)).requests
    assert (request.day, request.pairs) == (day(8), (TRADE,))
    more = state.model_copy(update={"late_scan": LateScan(stale={"binance/trade/btcusdt/20260108": "def"})})
    assert decide(more, day(8)).requests[0].key != request.key
    done = record_outcomes(stale, TRADE, day(8), [outcome(Status.SUCCESS, TRADE, symbol="btcusdt")], NOW)
    assert decide(done, day(8)).requests == ()


@pytest.mark.guards("mutant-stale")
def test_a_stale_day_whose_run_failed_stays_stale() -> None:
    key = "binance/trade/btcusdt/20260108"
    stale = begun().model_copy(update={"late_scan": LateScan(stale={key: "abc"})})
    for status, left in ((Status.FAILED, {key: "abc"}), (Status.SUCCESS, {})):
        ended = [outcome(status, TRADE, symbol="btcusdt")]
        assert record_outcomes(stale, TRADE, day(8), ended, NOW).late_scan.stale == left


@pytest.mark.guards("open-days-fine")
def test_freshness_fails_from_four_oclock_on() -> None:
    state = begun(8)

    def fresh(moment: str, state: State | None = state) -> bool:
        return judge(state, PAIRS, dt.datetime.fromisoformat(moment)).findings[0].passed

    assert fresh("2026-01-09T03:59:59+00:00")
    assert not fresh("2026-01-09T04:00:00+00:00")
    assert not fresh("2026-01-09T18:00:00+14:00")
    done = settle_day(state, day(8), Status.SUCCESS, NOW, PAIRS)
    assert fresh("2026-01-09T04:00:00+00:00", done)
    assert not fresh("2026-01-09T04:00:00+00:00", None)


@pytest.mark.guards("open-days-fine")
def test_one_open_day_below_settled_ones_is_never_fine() -> None:
    """The check once looked at yesterday alone, and was green above eleven open days."""
    state = settle_day(begun(3), day(11), Status.SUCCESS, NOW, PAIRS)
    freshness = judge(state, PAIRS, NOW).findings[0]
    assert not freshness.passed
    assert "2026-01-03" in freshness.text
    assert "2026-01-10" in freshness.text
    for number in range(3, 11):
        state = settle_day(state, day(number), Status.SUCCESS, NOW, PAIRS)
    assert judge(state, PAIRS, NOW).findings[0].passed


@pytest.mark.guards("watermark-ahead-fine")
def test_a_watermark_in_the_future_is_a_finding() -> None:
    state = begun().model_copy(update={"last_compacted_date": "20620101"})
    freshness = judge(state, PAIRS, NOW).findings[0]
    assert not freshness.passed
    assert "--move-back" in freshness.text


def _update_many(url: str, server: tuple[str, str, str, str] | None, worker: int, updates: int) -> None:
    options = None
    if server is not None:
        import boto3  # noqa: PLC0415  # in the child only

        endpoint, access_key, secret_key, region = server
        options = S3Options(boto3.Session(access_key, secret_key, region_name=region), region, endpoint)
    store = StateStore(open_store(url, options))

    async def work() -> None:
        for number in range(updates):
            done = [outcome(Status.SUCCESS, symbol=f"w{worker}n{number}")]
            await store.update(lambda before, done=done: record_outcomes(before or begun(), BBO, day(8), done, NOW))  # type: ignore[misc]

    asyncio.run(work())


@pytest.mark.guards("state-unconditional")
@pytest.mark.slow
def test_eight_processes_lose_no_update(rig: Rig) -> None:
    url = rig.new_url()
    server = rig.server
    access = (server.endpoint_url, server.access_key, server.secret_key, server.region) if server else None
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_update_many, args=(url, access, worker, 50)) for worker in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 8
    state = asyncio.run(StateStore(rig.store(url)).read())
    assert state is not None
    assert len(state.partitions) == 400


def test_the_local_zone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    import time  # noqa: PLC0415

    for zone in ("UTC-14", "UTC+12"):
        monkeypatch.setitem(os.environ, "TZ", zone)
        time.tzset()
        assert begun().updated_at == "2026-01-12T12:00:00Z"
    monkeypatch.delitem(os.environ, "TZ")
    time.tzset()


@pytest.mark.guards("start-date")
def test_days_before_the_first_partition_are_named_and_stop_nothing_else() -> None:
    """An adopted watermark before QUANTLAB_START_DATE once made every tick raise."""
    decided = decide(begun(), day(10), first=day(10))
    assert [request.day for request in decided.requests] == [day(10)]
    assert [text for text in decided.skipped if "QUANTLAB_START_DATE 2026-01-10" in text] == list(decided.skipped)
    assert [text[:10] for text in decided.skipped] == ["2026-01-08", "2026-01-09"]


@pytest.mark.guards("stale-never-ends")
def test_stale_entries_that_name_no_configured_pair_ask_for_nothing() -> None:
    state = settle_day(begun(), day(8), Status.SUCCESS, NOW, PAIRS)
    odd = {"kraken/bbo/a/20260108": "x", "no symbol-day": "x"}
    state = state.model_copy(update={"late_scan": LateScan(stale=odd)})
    assert decide(state, day(8)).requests == ()


def test_a_run_that_died_comes_back_at_once_and_yet_counts() -> None:
    died = Tries(2, 2, NOW, last_died=True)
    [request] = decide(begun(), day(8), tries=lambda _: died).requests
    assert request.attempt == 3
    assert decide(begun(), day(8), tries=lambda _: replace(died, failed=3)).exhausted == (day(8),)


@pytest.mark.guards("inventory-worse")
@pytest.mark.parametrize("status", [Status.FAILED, Status.QUARANTINE])
def test_the_inventory_keeps_what_could_not_be_built_anew(status: Status) -> None:
    before = record_outcomes(begun(), BBO, day(8), [outcome(Status.SUCCESS)], NOW)
    worse = replace(outcome(status), rows=0, bytes_in=0, bytes_out=0)
    [record] = record_outcomes(before, BBO, day(8), [worse], NOW).partitions.values()
    assert (record.status, record.rows, record.total_size_bytes) == (status.value, 5, 100)
    assert record.day_quality_post == "DEGRADED"


@pytest.mark.guards("roll-up-memory")
def test_records_of_a_state_that_was_read_share_what_pydantic_notes_of_each() -> None:
    """Of 100,000 records that is 70 of 170 MB."""
    records = {f"binance/bbo/s{n}/20260108": PartitionRecord(status="success", updated_at="x") for n in range(9)}
    records["binance/bbo/odd/20260108"] = PartitionRecord(status="failed", updated_at="x", error="why")
    written = State(catch_up_from="20260108", partitions=records)
    read = State.read(written.dump(), "here")
    assert read.partitions == records
    assert len({id(record.__pydantic_fields_set__) for record in read.partitions.values()}) == 2
    changed = read.partitions["binance/bbo/s0/20260108"].model_copy(update={"raw_fingerprint": "abc"})
    assert "raw_fingerprint" in changed.model_fields_set
    assert "raw_fingerprint" not in read.partitions["binance/bbo/s1/20260108"].model_fields_set
