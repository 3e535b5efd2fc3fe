"""Who had data in the last days and has none now: each situation once, pure; and what an operator says of it."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import pytest

from quantlab_dagster.errors import NothingToAccept
from quantlab_dagster.lake.market import Pair, day_text
from quantlab_dagster.market.inventory import oldest_successes
from quantlab_dagster.market.judgement import judge
from quantlab_dagster.market.outcome import Outcome, Status
from quantlab_dagster.market.pace import gap_within, longest_gap, usual_gap
from quantlab_dagster.market.plan import Action
from quantlab_dagster.market.settling import delist, note_looks, record_outcomes
from quantlab_dagster.market.silence import Silence, silences
from quantlab_dagster.market.state import DayRecord, PartitionRecord, State, salvage, utc_text
from quantlab_dagster_tests.lakes import PAIR, symbol_day

TRADE = Pair("binance", "trade")
FIRST = dt.date(2026, 1, 1)
NOW = dt.datetime(2026, 1, 21, 12, tzinfo=dt.UTC)
THEN = utc_text(NOW)


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number - 1)


def a_record(status: str = "success", rows: int = 100) -> PartitionRecord:
    return PartitionRecord(status=status, rows=rows if status == "success" else 0, updated_at=THEN)


def a_state(spoke: dict[str, Any], *, through: int = 20, **update: Any) -> State:
    """Settled from the 1st on for both pairs.

    Args:
        spoke: by name, the days with data; or the status by day.
        through: the last settled day.
        update: other fields.
    """
    partitions = {}
    for name, days in spoke.items():
        statuses = days if isinstance(days, dict) else dict.fromkeys(days, "success")
        for number, status in statuses.items():
            partitions[f"{name}/{day(number):%Y%m%d}"] = a_record(status)
    ranges = ((day_text(FIRST), day_text(day(through))),)
    settled = {day_text(day(number)): DayRecord(status="success", updated_at=THEN) for number in range(1, through + 1)}
    state = State(
        last_compacted_date=day_text(day(through)),
        catch_up_from=day_text(FIRST),
        updated_at=THEN,
        days=settled,
        partitions=partitions,
        settled_pairs={str(pair): ranges for pair in (PAIR, TRADE)},
    )
    return state.model_copy(update=update)


ADA, BTC = "binance/bbo/adausdt", "binance/bbo/btcusdt"
ALWAYS = range(1, 21)
UNTIL_18 = dict.fromkeys((16, 17, 18), "success")

CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "all speak": ({ADA: ALWAYS, BTC: ALWAYS}, {}),
    "one has none on the last settled day": ({ADA: ALWAYS, BTC: range(1, 20)}, {BTC: 19}),
    "and is not forgotten after weeks": ({ADA: ALWAYS, BTC: range(1, 4)}, {BTC: 3}),
    "it came back": ({ADA: ALWAYS, BTC: [*range(1, 10), 20]}, {}),
    "data of a day that is not settled yet end it": ({ADA: ALWAYS, BTC: [*range(1, 19), 21]}, {}),
    "on three days of seven": ({ADA: ALWAYS, BTC: [12, 15, 18]}, {BTC: 18}),
    "on two of seven is rare": ({ADA: ALWAYS, BTC: [11, 15, 18]}, {}),
    "a new one": ({ADA: ALWAYS, BTC: [20]}, {}),
    "said to have no files": ({ADA: ALWAYS, BTC: {**UNTIL_18, 20: "no_files"}}, {BTC: 18}),
    "what is quarantined is there": ({ADA: ALWAYS, BTC: {**UNTIL_18, 20: "quarantine"}}, {}),
    "what failed is there": ({ADA: ALWAYS, BTC: {**UNTIL_18, 20: "failed"}}, {}),
    "all of a pair": ({ADA: range(1, 19), BTC: range(1, 18), "binance/trade/adausdt": ALWAYS}, {"binance/bbo": 18}),
    "all of a pair, one of its symbols long before": (
        {ADA: range(1, 19), BTC: range(1, 5), "binance/trade/adausdt": ALWAYS},
        {"binance/bbo": 18},
    ),
    "everything": (
        {ADA: range(1, 19), "binance/trade/adausdt": range(1, 19)},
        {"binance/bbo": 18, "binance/trade": 18},
    ),
    "a pair that nobody settles any more": ({ADA: ALWAYS, "okx/bbo/adausdt": range(1, 10)}, {}),
    "no symbol-day": ({ADA: ALWAYS, "what/is": [1, 2, 3], "a/b/c/d": [1, 2, 3]}, {}),
}  # fmt: skip


@pytest.mark.guards("dead-collector")
@pytest.mark.parametrize("name", CASES)
def test_who_is_silent(name: str) -> None:
    spoke, expected = CASES[name]
    found = silences(a_state(spoke))
    assert {item.name: item.last for item in found} == {key: day(number) for key, number in expected.items()}
    assert all(item.observed == day(20) for item in found)
    judgement = judge(a_state(spoke), [PAIR, TRADE], NOW)
    finding = next(item for item in judgement.findings if item.name == "nothing_silent")
    assert finding.passed == (not expected)
    assert all(f"{key}" in finding.text for key in expected)
    assert judgement.gauges["silent_symbols"] == sum(item.symbols for item in found)


def silent_on(spoke: dict[str, Any], days: range) -> dict[int, list[str]]:
    """Who is a finding after each of these days was settled, as it was known then."""
    found = {}
    for through in days:
        known = {name: [number for number in on if number <= through] for name, on in spoke.items()}
        found[through] = [item.name for item in silences(a_state(known, through=through))]
    return {through: names for through, names in found.items() if names}


WEEKDAYS = [number for number in range(1, 32) if day(number).weekday() < 5]
"""January 2026: its Saturdays are 3, 10, 17, 24 and 31."""


@pytest.mark.guards("weekend-alarm")
def test_a_month_of_a_symbol_that_is_traded_from_monday_to_friday() -> None:
    """Its first two weekends are findings: nobody can know yet. Then none is, and a day that is missing is at once."""
    spoke = {ADA: range(1, 32), BTC: WEEKDAYS}
    assert silent_on(spoke, range(1, 32)) == {number: [BTC] for number in (10, 11)}
    killed = {ADA: range(1, 32), BTC: [number for number in WEEKDAYS if number < 21]}
    assert silent_on(killed, range(12, 32)) == {number: [BTC] for number in range(21, 32)}
    died_on_friday = {ADA: range(1, 32), BTC: [number for number in WEEKDAYS if number <= 23]}
    assert silent_on(died_on_friday, range(12, 32)) == {number: [BTC] for number in range(26, 32)}


def test_a_month_of_a_pair_that_rests_at_weekends() -> None:
    spoke = {ADA: WEEKDAYS, BTC: WEEKDAYS, "binance/trade/adausdt": range(1, 32)}
    assert silent_on(spoke, range(12, 32)) == {}
    assert silent_on(spoke | {BTC: WEEKDAYS[:-5]}, range(12, 32)) == {number: [BTC] for number in range(26, 32)}


@pytest.mark.guards("dead-collector")
@pytest.mark.parametrize("gap", [range(2, 22), range(2, 16)], ids=["not there yet", "an outage"])
def test_weeks_without_any_data_are_no_rhythm(gap: range) -> None:
    """A day that was compacted by hand, or what came before an outage, says nothing of days of rest."""
    spoke = [number for number in range(1, 26) if number not in gap]
    assert silent_on({ADA: range(1, 32), BTC: spoke}, range(26, 30)) == {number: [BTC] for number in range(26, 30)}


def test_one_weekend_without_data_is_no_rhythm() -> None:
    spoke = {ADA: range(1, 32), BTC: [number for number in range(1, 24) if number not in (17, 18)]}
    assert silent_on(spoke, range(20, 26)) == {24: [BTC], 25: [BTC]}


def test_how_many_days_are_usual_is_a_setting() -> None:
    state = a_state({ADA: ALWAYS, BTC: [15, 18]})
    assert silences(state) == ()
    assert silences(state, least=2) == (Silence(BTC, 1, day(18), day(20)),)
    assert [item.name for item in judge(state, [PAIR], NOW, usual_days=2).silent] == [BTC]


def test_a_whole_pair_is_one_finding_that_says_how_many_symbols_it_had_lately() -> None:
    state = a_state({ADA: range(1, 19), BTC: range(1, 18), "binance/bbo/old": range(1, 5)})
    [silence] = silences(state)
    assert silence == Silence("binance/bbo", 2, day(18), day(20))
    assert silence.text == "binance/bbo (all of it, 2 symbols): none on 2026-01-20, the last on 2026-01-18"


def test_files_without_a_single_row_are_no_data() -> None:
    state = a_state({ADA: ALWAYS, BTC: range(1, 20)})
    empty = {f"{BTC}/{day(20):%Y%m%d}": a_record(rows=0)}
    assert [item.name for item in silences(state.model_copy(update={"partitions": state.partitions | empty}))] == [BTC]


def test_a_day_that_an_operator_accepted_proves_nothing() -> None:
    accepted = DayRecord(status="skipped", updated_at=THEN, reason="accepted: the raw lake burnt")
    state = a_state({ADA: range(1, 20)})
    assert silences(state) != ()
    assert silences(state.model_copy(update={"days": state.days | {day_text(day(20)): accepted}})) == ()


def test_neither_does_one_of_which_there_is_no_record_at_all() -> None:
    """A seed settles days that nobody looked at."""
    days = {text: record for text, record in a_state({}).days.items() if text <= day_text(day(15))}
    assert silences(a_state({ADA: range(1, 16)}, days=days)) == ()
    assert silences(a_state({ADA: range(1, 16)})) != ()


def test_what_ended_long_before_the_beginning_is_history() -> None:
    spoke = {ADA: ALWAYS, BTC: range(1, 5)}
    assert [item.name for item in silences(a_state(spoke, catch_up_from=day_text(day(11))))] == [BTC]
    assert silences(a_state(spoke, catch_up_from=day_text(day(12)))) == ()
    assert silences(State(last_compacted_date="20260120")) == (), "of other software, not written to yet"


# ---- delisted --------------------------------------------------------------------------------------------------------


def outcome(number: int, status: Status = Status.SUCCESS, rows: int = 10) -> Outcome:
    return Outcome(symbol_day("btcusdt", day(number)), status, Action.BUILD, "", rows=rows)


def at(number: int) -> dt.datetime:
    return dt.datetime.combine(day(number), dt.time(12), dt.UTC)


def test_a_delisted_symbol_is_let_be_until_data_of_a_later_day_come() -> None:
    state = delist(a_state({ADA: ALWAYS, BTC: range(1, 19)}), [BTC], "merged", at(21))
    judgement = judge(state, [PAIR, TRADE], at(21))
    assert (judgement.silent, judgement.delisted, judgement.gauges["delisted"]) == ((), {BTC: "merged"}, 1)
    same_day = record_outcomes(state, PAIR, day(21), [outcome(21)], at(22))
    assert same_day.delisted == state.delisted, "what was flushed before the decision"
    nothing = record_outcomes(state, PAIR, day(22), [outcome(22, Status.NO_FILES, 0)], at(23))
    assert nothing.delisted == state.delisted

    back = record_outcomes(state, PAIR, day(22), [outcome(22)], at(23))
    assert back.delisted is None
    again = back.model_copy(update={"settled_pairs": {str(PAIR): ((day_text(FIRST), day_text(day(30))),)}})
    again = record_outcomes(again, PAIR, day(23), [outcome(23)], at(24))
    again = record_outcomes(again, PAIR, day(24), [outcome(24)], at(25))
    again = record_outcomes(again, PAIR, day(25), [outcome(25, Status.NO_FILES, 0)], at(26))
    assert [item.name for item in silences(again)] == ["binance/bbo"], "the decision ended for good"

    looked = note_looks(state, {f"{BTC}/{day(22):%Y%m%d}": (a_record(), None)})
    assert looked.delisted is None, "a look at the lake says it, too"


def test_a_delisted_pair_is_all_of_its_symbols_and_no_other_pair() -> None:
    spoke = {ADA: range(1, 19), BTC: range(1, 18), "binance/trade/adausdt": range(1, 19)}
    state = delist(a_state(spoke), ["binance/bbo"], "the exchange has closed", at(21))
    assert [item.name for item in silences(state)] == ["binance/trade"]
    assert record_outcomes(state, PAIR, day(22), [outcome(22)], at(23)).delisted is None


def test_delisted_symbols_do_not_hide_that_the_others_of_a_pair_are_silent() -> None:
    state = delist(a_state({ADA: range(1, 20), BTC: range(1, 10)}), [BTC], "merged", at(21))
    assert [(item.name, item.symbols) for item in silences(state)] == [("binance/bbo", 1)]


@pytest.mark.parametrize("name", ["binance/bbo/btcusd", "binance", "", "binance/bb"])
def test_what_nobody_ever_saw_cannot_be_delisted(name: str) -> None:
    with pytest.raises(NothingToAccept, match=r"Nearest are: .*bbo|state show"):
        delist(a_state({ADA: ALWAYS, BTC: ALWAYS}), [ADA, name], "a slip", NOW)


def test_a_decision_is_in_the_file_and_survives_what_else_is_wrong_there() -> None:
    state = delist(a_state({ADA: ALWAYS}), [ADA], "merged", at(21))
    text = state.dump().decode()
    assert '"delisted": {\n  "binance/bbo/adausdt": {\n   "day": "20260121",' in text
    assert State.read(text.encode(), "x") == state
    believed = salvage(text.replace('"last_compacted_date": "20260120"', '"last_compacted_date": 7').encode())
    assert believed is not None
    assert believed.delisted == state.delisted
    assert "delisted" not in a_state({}).dump().decode(), "nothing new where nobody decided anything"


# ---- what moves to the months ----------------------------------------------------------------------------------------


def test_the_last_days_of_a_symbol_that_went_silent_move_last() -> None:
    state = a_state({ADA: range(1, 21), BTC: range(1, 19)})
    moving = oldest_successes(state, most=20, keep=28)
    assert sorted(moving) == [f"{ADA}/{day(n):%Y%m%d}" for n in range(1, 7)] + [
        f"{BTC}/{day(n):%Y%m%d}" for n in range(1, 5)
    ]
    left = {key: record for key, record in state.partitions.items() if key not in moving}
    assert [item.name for item in silences(state.model_copy(update={"partitions": left}))] == [BTC]
    assert len(oldest_successes(state, most=20, keep=5)) == 33, "the bound holds whatever is protected"


# ---- pace ------------------------------------------------------------------------------------------------------------

MIDNIGHT = int(dt.datetime.combine(FIRST, dt.time(), dt.UTC).timestamp())


def names(*hours: float) -> list[str]:
    return [f"part-{MIDNIGHT + int(hour * 3600)}-{number:06}.parquet" for number, hour in enumerate(hours)]


@pytest.mark.parametrize(
    ("parts", "hours"),
    [
        (names(0, 8, 16), 8),
        (names(16, 0, 8), 8),
        (names(0, 1, 2, 3, 23), 20),
        (names(12), 24),
        (names(12, 18), 18),
        (names(0.5, 24.01), 23.51),
        ([], None),
        (["part-1.parquet", "data.parquet", "part-1767225600000-000001.parquet"], None),
    ],
)
def test_the_longest_gap_of_a_day(parts: list[str], hours: float | None) -> None:
    found = longest_gap(parts, FIRST)
    assert found == (None if hours is None else pytest.approx(hours * 3600, abs=1))


@pytest.mark.parametrize(
    ("parts", "hours"),
    [
        (names(0, 8, 16), 8),
        (names(12, 12.1, 23.9), 11.8),
        (names(12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 23.9), 1),
        (names(10), 14),
        (names(23.9), 0.1),
        (names(0.5, 24.01), 23.51),
        ([], None),
    ],
)
def test_what_lies_before_the_first_flush_is_left_out(parts: list[str], hours: float | None) -> None:
    found = gap_within(parts, FIRST)
    assert found == (None if hours is None else pytest.approx(hours * 3600, abs=1))


def test_bad_days_are_not_usual_while_they_are_fewer_than_half() -> None:
    assert usual_gap([]) is None
    assert usual_gap([30]) == 30
    assert usual_gap([30, 7 * 3600]) == 30
    assert usual_gap([30, 40, 7 * 3600, 35, 30, 30, 30]) == 30
    assert usual_gap([30, 40, 6 * 3600, 9 * 3600, 45, 50, 6 * 3600]) == 50
    assert usual_gap([30, 6 * 3600, 6 * 3600, 6 * 3600]) == 6 * 3600


# ---- cost ------------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_records_are_looked_through_in_a_moment() -> None:
    names_ = [f"{exchange}/bbo/symbol{n:04}" for exchange in ("binance", "okx") for n in range(5_000)]
    state = a_state(dict.fromkeys(names_, range(11, 21)), settled_pairs=None)
    started = time.process_time()
    assert silences(state) == ()
    assert time.process_time() - started < 2, "0.3 s on the machine where it was written"
