"""For which pairs a day is settled: later ones, those of other deployments, and what seeds and decisions do to them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.market.catchup import CatchUpRules, Tries, decide_catch_up
from quantlab_dagster.market.days import Ranges, contains, kept_where, with_range
from quantlab_dagster.market.judgement import judge
from quantlab_dagster.market.outcome import Outcome, Status
from quantlab_dagster.market.plan import Action
from quantlab_dagster.market.settling import (
    accept_day,
    accept_symbol_day,
    begin,
    leave_open,
    missing_pairs,
    note_looks,
    record_outcomes,
    seed,
    settle_day,
    unsettled_days,
)
from quantlab_dagster.market.state import Acceptance, DayRecord, LateScan, PartitionRecord, State

NOW = dt.datetime(2026, 1, 12, 12, tzinfo=dt.UTC)
BBO, TRADE, OKX = Pair("binance", "bbo"), Pair("binance", "trade"), Pair("okx", "bbo")


def day(number: int) -> dt.date:
    return dt.date(2026, 1, 1) + dt.timedelta(days=number - 1)


def settled(first: int, last: int, *pairs: Pair) -> State:
    state = begin(None, day(first), NOW)
    for number in range(first, last + 1):
        state = settle_day(state, day(number), Status.SUCCESS, NOW, pairs)
    return state


def outcome(status: Status, pair: Pair = BBO, number: int = 8, **more: Any) -> Outcome:
    symbol_day = SymbolDay(pair.exchange, pair.stream, "adausdt", day(number))
    return Outcome(symbol_day, status, Action.BUILD, "because", rows=5, bytes_in=100, **more)


def asked(state: State, pairs: list[Pair], last: int = 11) -> list[tuple[dt.date, tuple[Pair, ...]]]:
    rules = CatchUpRules(pairs, day(last), NOW, set(), lambda _: Tries(), most_runs=50, most_attempts=3)
    return [(request.day, request.pairs) for request in decide_catch_up(state, rules).requests]


# ---- pairs that come later -------------------------------------------------------------------------------------------


@pytest.mark.guards("settled-for-others")
def test_a_pair_configured_later_is_not_taken_for_done_and_the_watermark_stays() -> None:
    state = settled(8, 11, BBO)
    assert asked(state, [BBO]) == []
    assert asked(state, [BBO, OKX]) == [(day(number), (OKX,)) for number in range(8, 12)]
    for number in range(8, 12):
        state = record_outcomes(state, OKX, day(number), [outcome(Status.SUCCESS, OKX, number)], NOW)
        assert asked(state, [BBO, OKX], last=number)[-1:] == [(day(number), ())], "only its roll-up is missing"
        state = settle_day(state, day(number), Status.SUCCESS, NOW, [BBO, OKX])
        assert state.last_compacted_date == "20260111", "readers keep what they have"
    assert asked(state, [BBO, OKX]) == []
    assert (state.settled_pairs or {})["okx/bbo"] == (("20260108", "20260111"),)


def test_a_pair_that_is_behind_is_not_fresh() -> None:
    state = settled(8, 11, BBO)
    assert judge(state, [BBO], NOW).findings[0].passed
    assert not judge(state, [BBO, OKX], NOW).findings[0].passed


@pytest.mark.guards("settled-for-others")
def test_two_deployments_with_other_pairs_do_not_take_each_others_days_for_done() -> None:
    state = settled(8, 9, BBO)
    assert asked(state, [OKX], last=9) == [(day(8), (OKX,)), (day(9), (OKX,))]
    state = settle_day(state, day(8), Status.SUCCESS, NOW, [OKX])
    assert asked(state, [OKX], last=9) == [(day(9), (OKX,))]
    assert asked(state, [BBO], last=9) == []


def test_a_day_that_failed_for_another_deployment_is_never_jumped_over() -> None:
    state = begin(None, day(8), NOW)
    state = record_outcomes(state, OKX, day(8), [outcome(Status.FAILED, OKX)], NOW)
    state = settle_day(state, day(8), Status.SUCCESS, NOW, [BBO])
    assert state.last_compacted_date is None
    assert state.days["20260108"].status == "failed"
    assert missing_pairs(state, day(8), [BBO, OKX]) == [OKX]
    state = settle_day(state, day(8), Status.SUCCESS, NOW, [OKX])
    assert state.last_compacted_date == "20260108"


def test_a_day_left_open_for_a_later_pair_is_failed_and_the_watermark_stays() -> None:
    state = leave_open(settled(8, 11, BBO), day(9), [BBO, OKX], "1 of 2 symbol-days …", NOW)
    assert state.open_days == {"20260109": {"okx/bbo": "failed"}}, "for the other pair it is settled"
    assert (state.days["20260109"].status, state.last_compacted_date) == ("failed", "20260111")
    assert settle_day(state, day(9), Status.SUCCESS, NOW, [BBO, OKX]).days["20260109"].status == "success"


def test_a_state_of_an_earlier_version_is_taken_to_mean_the_pairs_configured_now() -> None:
    old = State(
        last_compacted_date="20260109",
        catch_up_from="20260108",
        days={"20260111": DayRecord(status="success", updated_at="2026-01-12T03:00:00Z")},
    )
    assert asked(old, [BBO]) == [(day(10), (BBO,))]
    state = begin(old, day(11), NOW, [BBO])
    assert (state.settled_pairs or {}) == {"binance/bbo": (("20260108", "20260109"), ("20260111", "20260111"))}
    assert asked(state, [BBO, OKX])[0] == (day(8), (OKX,)), "what is configured from now on is told apart"
    assert begin(state, day(11), NOW, [OKX]) == state


def test_nothing_is_owed_below_an_adopted_watermark() -> None:
    state = begin(State(last_compacted_date="20260109"), day(11), NOW, [BBO, OKX])
    assert [number for number, _ in asked(state, [BBO, OKX])] == [day(10), day(11)]


# ---- seeds and decisions ---------------------------------------------------------------------------------------------


def test_a_seed_settles_for_the_configured_pairs_only() -> None:
    state = seed(begin(None, day(5), NOW), day(9), NOW, [BBO])
    assert unsettled_days(state, day(10), [BBO]) == [day(10)]
    assert unsettled_days(state, day(10), [OKX]) == [day(number) for number in range(5, 11)]


def test_a_seed_never_jumps_over_a_day_that_failed() -> None:
    state = record_outcomes(begin(None, day(8), NOW), BBO, day(8), [outcome(Status.FAILED)], NOW)
    with pytest.raises(QuantlabError, match="would jump over days that have failed: 20260108"):
        seed(state, day(9), NOW, [BBO])
    assert seed(state, day(7), NOW, [BBO]).last_compacted_date == "20260107"
    accepted = accept_day(state, day(8), "the exchange was down", NOW, [BBO])
    assert seed(accepted, day(9), NOW, [BBO]).last_compacted_date == "20260109"


def test_a_mistaken_seed_taken_back_takes_its_pairs_back_as_well() -> None:
    mistaken = seed(begin(None, day(3), NOW), day(10), NOW, [BBO])
    mended = seed(settle_day(mistaken, day(11), Status.SUCCESS, NOW, [BBO]), day(4), NOW, [BBO], move_back="a typo")
    assert unsettled_days(mended, day(11), [BBO]) == [day(number) for number in range(5, 11)]


def test_an_earlier_seed_of_a_lake_that_has_only_begun_owes_what_follows_it() -> None:
    state = seed(begin(None, day(10), NOW), day(4), NOW, [BBO])
    assert unsettled_days(state, day(11), [BBO]) == [day(number) for number in range(5, 12)]


def test_an_accepted_day_is_settled_for_all_pairs_that_were_waiting_for_it() -> None:
    state = record_outcomes(begin(None, day(8), NOW), OKX, day(8), [outcome(Status.FAILED, OKX)], NOW)
    state = accept_day(state, day(8), "never mind", NOW, [BBO])
    assert asked(state, [BBO, OKX], last=8) == []
    assert (state.last_compacted_date, state.days["20260108"].status) == ("20260108", "skipped")
    with pytest.raises(QuantlabError, match="settled already"):
        accept_day(state, day(8), "again", NOW, [BBO])


# ---- symbol-days that an operator lets be ----------------------------------------------------------------------------


def quarantined(fingerprint: str = "abc") -> State:
    bad = outcome(Status.QUARANTINE, raw_fingerprint=fingerprint)
    return record_outcomes(settled(8, 8, BBO), BBO, day(8), [bad], NOW)


KEY = "binance/bbo/adausdt/20260108"
ADA = SymbolDay.of_state_key(KEY)


@pytest.mark.guards("quarantine-not-acceptable")
def test_an_accepted_quarantine_comes_back_when_its_raw_changes() -> None:
    state = accept_symbol_day(quarantined("abc"), ADA, "a broken collector", NOW)
    assert state.is_accepted(KEY)
    assert (state.accepted or {})[KEY].reason == "a broken collector"
    again = outcome(Status.QUARANTINE, raw_fingerprint="abc")
    assert record_outcomes(state, BBO, day(8), [again], NOW).is_accepted(KEY)
    other = outcome(Status.QUARANTINE, raw_fingerprint="def")
    after = record_outcomes(state, BBO, day(8), [other], NOW)
    assert not after.is_accepted(KEY)
    assert after.accepted is None


def test_a_decision_ends_with_its_cause() -> None:
    state = accept_symbol_day(quarantined(), ADA, "a broken collector", NOW)
    assert record_outcomes(state, BBO, day(8), [outcome(Status.SUCCESS)], NOW).accepted is None
    gone = PartitionRecord(status="no_files", updated_at="2026-01-12T12:00:00Z")
    after = note_looks(state, {KEY: (gone, None)}, troubled_only=True)
    assert (after.partitions[KEY].status, after.accepted) == ("no_files", None)


def test_a_stale_symbol_day_can_be_accepted_until_more_arrives() -> None:
    state = settled(8, 8, BBO).model_copy(update={"late_scan": LateScan(stale={KEY: "abc"})})
    assert asked(state, [BBO], last=8) == [(day(8), (BBO,))]
    accepted = accept_symbol_day(state, ADA, "three rows of a test", NOW)
    assert asked(accepted, [BBO], last=8) == []
    assert judge(accepted, [BBO], NOW).findings[1].passed
    more = note_looks(accepted, {KEY: (None, "def")})
    assert asked(more, [BBO], last=8) == [(day(8), (BBO,))]
    assert more.accepted is None


def test_there_is_nothing_to_accept_about_a_published_day() -> None:
    state = record_outcomes(settled(8, 8, BBO), BBO, day(8), [outcome(Status.SUCCESS)], NOW)
    with pytest.raises(QuantlabError, match="neither quarantined nor stale"):
        accept_symbol_day(state, ADA, "why not", NOW)


def test_a_failed_rebuild_leaves_the_day_stale() -> None:
    state = settled(8, 8, BBO).model_copy(update={"late_scan": LateScan(stale={KEY: "abc"})})
    after = record_outcomes(state, BBO, day(8), [outcome(Status.FAILED)], NOW)
    assert after.late_scan.stale == {KEY: "abc"}
    built = outcome(Status.SUCCESS, raw_fingerprint="abc")
    assert record_outcomes(state, BBO, day(8), [built], NOW).late_scan.stale == {}


def test_a_step_that_did_not_see_the_late_part_does_not_answer_for_it() -> None:
    state = settled(8, 8, BBO).model_copy(update={"late_scan": LateScan(stale={KEY: "later"})})
    built = outcome(Status.SUCCESS, raw_fingerprint="earlier")
    assert record_outcomes(state, BBO, day(8), [built], NOW).late_scan.stale == {KEY: "later"}


def test_a_decision_in_a_readable_file_is_read_again() -> None:
    state = accept_symbol_day(quarantined(), ADA, "so be it", NOW)
    again = State.read(state.dump(), "state")
    assert again == state
    assert isinstance((again.accepted or {})[KEY], Acceptance)


# ---- sets of days ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)), max_size=30), st.sets(st.integers(1, 70)))
def test_ranges_hold_exactly_what_was_added(spans: list[tuple[int, int]], wanted: set[int]) -> None:
    ranges: Ranges = ()
    naive: set[int] = set()
    for first, length in spans:
        ranges = with_range(ranges, day(first), day(first + length))
        naive |= set(range(first, first + length + 1))
    assert {number for number in range(1, 80) if contains(ranges, f"{day(number):%Y%m%d}")} == naive
    assert len(ranges) == sum(number - 1 not in naive for number in naive), "as few as can be"
    kept = kept_where(ranges, lambda one: (one - day(1)).days + 1 in wanted)
    assert {number for number in range(1, 80) if contains(kept, f"{day(number):%Y%m%d}")} == naive & wanted
    assert with_range(ranges, day(9), day(8)) == ranges


# ---- what a look may say, and what comes late ------------------------------------------------------------------------


LATER = NOW + dt.timedelta(minutes=1)


def test_a_listing_does_not_make_good_what_a_step_failed_to_prove() -> None:
    """A rebuild that ended in a failed audit was once green again an hour later, because its old file was listed."""
    failed = record_outcomes(settled(8, 8, BBO), BBO, day(8), [outcome(Status.FAILED, error="AuditFailed")], NOW)
    fine = PartitionRecord(status="success", rows=5, updated_at="2026-01-12T13:00:00Z")
    for troubled_only in (True, False):
        assert note_looks(failed, {KEY: (fine, None)}, troubled_only=troubled_only).partitions[KEY].status == "failed"
    gone = PartitionRecord(status="no_files", updated_at="2026-01-12T13:00:00Z")
    assert note_looks(failed, {KEY: (gone, None)}).partitions[KEY].status == "no_files"
    built = record_outcomes(failed, BBO, day(8), [outcome(Status.SUCCESS)], LATER)
    assert built.partitions[KEY].status == "success", "a step that succeeds does"


def test_a_search_for_late_parts_renews_only_what_speaks_of_trouble() -> None:
    """Else every round would write every symbol-day again, and bring back what has moved to its month's file."""
    seen = PartitionRecord(status="success", rows=7, updated_at="2026-01-12T13:00:00Z")
    unknown = settled(8, 8, BBO)
    assert note_looks(unknown, {KEY: (seen, None)}, troubled_only=True).partitions == {}
    assert note_looks(unknown, {KEY: (seen, None)}).partitions == {KEY: seen}
    built = record_outcomes(unknown, BBO, day(8), [outcome(Status.SUCCESS)], NOW)
    assert note_looks(built, {KEY: (seen, None)}, troubled_only=True).partitions == built.partitions
    bad = record_outcomes(unknown, BBO, day(8), [outcome(Status.QUARANTINE, raw_fingerprint="x")], NOW)
    assert note_looks(bad, {KEY: (seen, None)}, troubled_only=True).partitions[KEY].status == "success"


def test_a_long_look_does_not_undo_what_happened_meanwhile() -> None:
    state = record_outcomes(settled(8, 8, BBO), BBO, day(8), [outcome(Status.QUARANTINE, raw_fingerprint="x")], LATER)
    before_it = PartitionRecord(status="success", rows=5, updated_at="2026-01-12T12:00:00Z")
    assert note_looks(state, {KEY: (before_it, None)}).partitions[KEY].status == "quarantine"


def test_a_day_that_failed_for_one_deployment_stays_failed_until_it_is_rolled_up_for_it() -> None:
    """The record went when its step succeeded; nobody then knew why the watermark stood, and all was well."""
    state = record_outcomes(begin(None, day(8), NOW), OKX, day(8), [outcome(Status.FAILED, OKX)], NOW)
    state = settle_day(state, day(8), Status.SUCCESS, NOW, [BBO])
    state = record_outcomes(state, OKX, day(8), [outcome(Status.SUCCESS, OKX)], LATER)
    assert state.days["20260108"].status == "failed"
    assert not judge(state, [BBO], NOW).fine
    assert asked(state, [BBO, OKX], last=8) == [(day(8), ())], "its roll-up is asked for"
    assert settle_day(state, day(8), Status.SUCCESS, LATER, [OKX]).last_compacted_date == "20260108"


def test_an_entry_that_comes_late_does_not_undo_a_roll_up() -> None:
    state = leave_open(begin(None, day(8), NOW), day(8), [BBO], "a symbol came between", LATER)
    after = record_outcomes(state, BBO, day(8), [outcome(Status.SUCCESS)], NOW)
    assert after.days == state.days
    assert missing_pairs(after, day(8), [BBO]) == [BBO]


def test_a_later_pair_does_not_inherit_the_attempts_of_others() -> None:
    state = settled(8, 8, BBO)

    def tries(task: str) -> Tries:
        return Tries(last_number=3, failed=3) if task == "day:20260108" else Tries()

    rules = CatchUpRules([BBO, OKX], day(8), NOW, set(), tries, most_runs=5, most_attempts=3)
    [request] = decide_catch_up(state, rules).requests
    assert request.task.startswith("day:20260108:")
    assert request.pairs == (OKX,)
    fresh = CatchUpRules([OKX], day(8), NOW, set(), tries, most_runs=5, most_attempts=3)
    assert decide_catch_up(begin(None, day(8), NOW), fresh).exhausted == (day(8),)
