"""The market-data checks: against a naive count over all rows, whatever the windows; and what is said of a day."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.market import stream_sums
from quantlab_dagster.market.plan import Action
from quantlab_dagster.market.stream_checks import StreamObserver, checks_of, observer_of
from quantlab_dagster.market.stream_rules import STREAM_RULES, StreamRules, rules_of_stream
from quantlab_dagster.market.stream_seen import Seen
from quantlab_dagster.market.stream_sums import _Ids
from quantlab_dagster.synthetic.market import RawPart
from quantlab_dagster.synthetic.quality import WindowsSpec, generate_windows
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, Lakes, parquet_bytes, symbol_day

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIDNIGHT = round(dt.datetime.combine(DAY, dt.time(), dt.UTC).timestamp())
RULES = StreamRules(
    gap_seconds=600, positive=("bid_price", "ask_price"), bid_ask=("bid_price", "ask_price"), ids="trade_id"
)


def watched(frame: pl.DataFrame, cuts: Sequence[int] = (), *, ticks: int | None = 1_000, **changes: Any) -> Seen:
    """What is seen of rows that come in windows, cut after so many rows."""
    constants = changes.pop("constants", {})
    sums = StreamObserver(replace(RULES, **changes), DAY, "ts_event", ticks).begin(constants)
    hashes = frame.hash_rows(1)
    edges = [0, *sorted(cuts), frame.height]
    for first, last in itertools.pairwise(edges):
        sums.see(frame[first:last], hashes[first:last])
    return sums.result()


def quotes(*seconds: float, ticks: int = 1_000, **columns: list[Any]) -> pl.DataFrame:
    """Sound rows at these seconds of the day, with other columns where given."""
    events = [round((MIDNIGHT + second) * ticks) for second in seconds]
    usual = {
        "ts_event": events,
        "ts_recv": [event + ticks // 100 for event in events],
        "bid_price": [1.0 + number for number in range(len(events))],
        "ask_price": [1.5 + number for number in range(len(events))],
        "trade_id": [str(number + 7) for number in range(len(events))],
    }
    return pl.DataFrame(usual | columns)


# ---- against a naive count -------------------------------------------------------------------------------------------


def naive(frame: pl.DataFrame, ticks: int) -> dict[str, Any]:
    rows = frame.rows(named=True)
    begin, end = MIDNIGHT * ticks, (MIDNIGHT + 86_400) * ticks
    inside = [row["ts_event"] for row in rows if begin <= row["ts_event"] < end]
    steps = [after - before for before, after in zip([begin, *inside], [*inside, end], strict=True)]
    gaps = [step for step in steps if step > 600 * ticks]
    ids = [int(row["trade_id"]) for row in rows]
    early = [row["ts_event"] - row["ts_recv"] for row in rows]
    return {
        "rows": len(rows),
        "gaps_number": len(gaps),
        "gaps_ticks": sum(gaps),
        "longest": max(gaps, default=0),
        "repeated": len(rows) - len({str(row) for row in frame.rows()}),
        "crossed": sum(row["bid_price"] > row["ask_price"] for row in rows),
        "not_positive": {name: sum(not row[name] > 0 for row in rows) for name in ("bid_price", "ask_price")},
        "ids_repeated": sum(number - 1 for number in Counter(ids).values()),
        "ids_missing": len(set(range(min(ids), max(ids) + 1)) - set(ids)),
        "early": sum(one > ticks for one in early),
        "before": sum(row["ts_event"] < begin for row in rows),
        "after": sum(row["ts_event"] >= end for row in rows),
    }


def drawn(rng: Random, ticks: int) -> pl.DataFrame:
    """Rows of everything: bursts, silences, rows and ids that repeat at their instant, prices of all kinds."""
    moment, identity, rows = -50.0, 100, []
    while moment < 86_450:
        event = round((MIDNIGHT + moment) * ticks)
        for _ in range(rng.choice([1, 1, 2, 5])):
            bid = rng.choice([1.0, 2.0, 0.0, -1.0, float("nan")])
            received = event + rng.choice([1, 0, -ticks, -ticks - 1, -9 * ticks])
            rows.append((event, received, bid, rng.choice([1.5, 0.5, 3.0]), str(identity)))
            if rng.random() < 0.2:
                rows.append(rows[-1])
            identity += rng.choice([1, 1, 1, 2, 6])
        moment += rng.choice([1.0, 400.0, 599.0, 600.0, 601.0, 4_000.0])
    names = ("ts_event", "ts_recv", "bid_price", "ask_price", "trade_id")
    return pl.DataFrame(rows, schema=list(names), orient="row")


@pytest.mark.parametrize("seed", range(12))
def test_the_sums_are_those_of_a_naive_count_whatever_the_windows(seed: int) -> None:
    rng = Random(seed)
    ticks = rng.choice([1_000, 10**6, 10**9])
    frame = drawn(rng, ticks)
    expected = naive(frame, ticks)
    whole = watched(frame, ticks=ticks)
    found = {name: getattr(whole, name) for name in expected if name not in ("longest", "not_positive")}
    assert found == {name: value for name, value in expected.items() if name in found}
    assert dict(whole.not_positive) == expected["not_positive"]
    assert (whole.gaps or ((0, 0),))[0][1] == expected["longest"]
    assert whole.problem == ""
    for cuts in (range(1, frame.height), rng.sample(range(frame.height + 1), 9), [0, 0, frame.height]):
        assert watched(frame, list(cuts), ticks=ticks) == whole


# ---- one by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", [1, 1_000, 10**6, 10**9])
def test_a_silence_above_the_limit_is_a_gap_in_any_unit(ticks: int) -> None:
    seconds = [*range(0, 3_601, 600), 4_202, *range(4_800, 86_400, 600)]
    seen = watched(quotes(*seconds, ticks=ticks), ticks=ticks)
    assert seen.gaps == (((MIDNIGHT + 3_600) * ticks, 602 * ticks),)
    said = checks_of(StreamObserver(RULES, DAY, "ts_event", ticks), seen)
    assert said["gaps"] == {
        "limit_seconds": 600,
        "number": 1,
        "seconds": 602.0,
        "longest": [{"from": "01:00:00", "seconds": 602.0}],
    }
    assert said["findings"] == {"gaps": "1 silence above 600 s, the longest 602 s from 01:00:00 on"}


def test_a_day_that_begins_late_or_ends_early_has_gaps() -> None:
    seen = watched(quotes(*range(601, 43_200, 600)))
    assert seen.gaps is not None
    assert [(start // 1_000 - MIDNIGHT, ticks // 1_000) for start, ticks in seen.gaps] == [(42_601, 43_799), (0, 601)]
    # A row of the day before is none of the day's.
    assert watched(quotes(-1, *range(601, 86_400, 600))).gaps_number == 1
    assert watched(quotes(-1, 86_401)).gaps == ((MIDNIGHT * 1_000, 86_400_000),), "not one row of the day"


def test_quiet_streams_have_no_gaps() -> None:
    eight_hours = quotes(0, 28_800, 57_600)
    assert watched(eight_hours, gap_seconds=STREAM_RULES["funding"].gap_seconds).gaps == ()
    assert watched(eight_hours, gap_seconds=STREAM_RULES["bbo"].gap_seconds).gaps_number == 3
    assert watched(eight_hours, gap_seconds=None).gaps is None


def test_the_longest_gaps_are_kept_and_all_are_counted() -> None:
    seconds = [0.0]
    while seconds[-1] < 86_400 - 800:
        seconds.append(seconds[-1] + 601 + len(seconds) % 90)
    seen = watched(quotes(*seconds))
    assert seen.gaps is not None
    assert seen.gaps_number > len(seen.gaps) == 64
    assert [ticks for _, ticks in seen.gaps] == sorted((ticks for _, ticks in seen.gaps), reverse=True)
    assert len(checks_of(StreamObserver(RULES, DAY, "ts_event", 1_000), seen)["gaps"]["longest"]) == 10


def test_prices() -> None:
    frame = quotes(0, 1, 2, 3, bid_price=[1.0, 2.0, 2.0, None], ask_price=[1.0, 1.0, -1.0, 0.0])
    seen = watched(frame)
    assert seen.crossed == 2, "equal is not crossed"
    assert dict(seen.not_positive) == {"bid_price": 0, "ask_price": 2}, "nulls are not looked at"
    assert watched(quotes(0, 1, bid_price=["1", "2"])).crossed is None
    assert dict(watched(quotes(0, 1, bid_price=["1", "2"])).not_positive) == {"ask_price": 0}
    assert watched(quotes(0).drop("ask_price")).crossed is None
    assert watched(quotes(0, 1).drop("bid_price"), constants={"bid_price": 5}).crossed == 2
    assert dict(watched(quotes(0, 1).drop("bid_price"), constants={"bid_price": 0}).not_positive)["bid_price"] == 2


def test_ids() -> None:
    def ids(*values: Any, **columns: Any) -> tuple[int | None, int, int | None]:
        seen = watched(quotes(*([0] * len(values)), trade_id=list(values), **columns))
        return seen.ids_missing, seen.ids_jumps, seen.ids_repeated

    assert ids("1", "2", "3") == (0, 0, 0)
    assert ids(1, 2, 3) == (0, 0, 0)
    assert ids("1", "2", "5", "6", "9") == (4, 2, 0)
    assert ids("1", "3", "2", "4") == (0, 0, 0), "out of order is not missing"
    assert ids("1", "2", "1", "2", "2") == (0, 0, 3)
    assert ids("b7c0", "b7c1", "b7c0") == (None, 0, 1), "no numbers, but still repeated"
    assert ids("1", None, "3") == (1, 1, 0)
    assert ids(*pl.Series([2**64 - 1, 7, 7], dtype=pl.UInt64)) == (None, 0, 1), "too large to be counted"
    assert ids(None, None) == (None, 0, None)
    one = watched(quotes(0, 1, 2).drop("trade_id"), constants={"trade_id": "7"})
    assert (one.ids_missing, one.ids_repeated) == (0, 2)
    assert watched(quotes(0).drop("trade_id")).ids_repeated is None


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=8),
    st.sampled_from([0, -(1 << 63), (1 << 63) - 41]),
)
def test_an_id_that_repeats_at_any_other_instant_is_counted_and_hides_no_missing_one(
    windows: list[list[int]], base: int
) -> None:
    ids = _Ids()
    for number, window in enumerate(windows):
        keys = np.arange(len(window)) + 100 * number
        ids.see(keys, np.zeros(len(window), dtype=np.bool_), pl.Series([base + value for value in window]))
    seen = [value for window in windows for value in window]
    missing = set(range(min(seen), max(seen) + 1)) - set(seen)
    places = sum(1 for value in missing if value - 1 not in missing)
    assert ids.result() == (len(missing), places, len(seen) - len(set(seen)))


def test_ids_with_too_many_holes_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_sums, "_KEPT_INTERVALS", 10)
    known = stream_sums._Intervals()
    for start in range(0, 1_000, 100):
        assert known.add(np.arange(start, start + 100, 2)) == 50
    assert (known.missing, known.holes) == (499, 499)
    assert known._starts.size == 10
    assert known.add(np.array([500, 996, 998])) == 1, "what was let go is taken for new"
    assert (known.missing, known.holes) == (498, 499)
    assert known.add(np.array([997])) == 1
    assert (known.missing, known.holes) == (497, 498)
    assert known.add(np.array([1_000, 1_002])) == 2
    assert known._starts.size == 10


@pytest.mark.parametrize("stray", [[], [0]])
def test_one_row_far_off_keeps_no_time_from_being_judged(stray: list[int]) -> None:
    times = [*stray, *((MIDNIGHT + second) * 1_000 for second in range(10))]
    frame = pl.DataFrame({"ts_event": times, "ts_recv": [time - 5_000 for time in times]})
    observer = observer_of(SymbolDay("b", "bbo", "x", DAY), "ts_event", (times[0], times[-1]))
    sums = observer.begin({})
    sums.see(frame, frame.hash_rows())
    said = checks_of(observer, sums.result())
    assert (said["gaps"]["number"], said["rows_received_early"]["rows"]) == (1, len(times))
    assert said["rows_of_neighbouring_days"] == {"before": len(stray), "after": 0}
    assert "times_not_judged" not in said["findings"]


def test_that_no_time_was_judged_is_a_finding() -> None:
    observer = observer_of(SymbolDay("b", "bbo", "x", DAY), "ts_event", (3, 9))
    assert (
        "in no usual unit do they lie near 2026-01-08" in checks_of(observer, Seen(2))["findings"]["times_not_judged"]
    )
    assert "times_not_judged" not in checks_of(observer, Seen(0))["findings"]


def test_ids_that_go_back_are_counted_alike_wherever_the_windows_end() -> None:
    frame = quotes(*range(6), trade_id=["1", "9", "3", "4", "12", "5"])
    whole = watched(frame)
    assert (whole.ids_missing, whole.ids_jumps) == (6, 3)
    for cut in range(1, 6):
        assert watched(frame, [cut]) == whole


def test_received_before_the_event_and_in_another_unit() -> None:
    events = [(MIDNIGHT + 60) * 1_000] * 4
    received = [events[0] - 1_000, events[0] - 1_001, events[0] - 5_000, events[0] + 5]
    seen = watched(quotes(60, 60, 60, 60, ts_recv=received))
    assert (seen.early, seen.earliest_ticks) == (2, 5_000)
    nanoseconds = watched(quotes(60, 60, 60, 60, ts_recv=[one * 10**6 for one in received]))
    assert (nanoseconds.early, nanoseconds.earliest_ticks) == (2, 5_000)
    assert watched(quotes(60, ts_recv=[5])).early is None, "no unit fits"
    assert watched(quotes(60, 61, ts_recv=[None, (MIDNIGHT + 61) * 1_000])).early == 0


def test_what_has_no_unit_is_not_judged_by_time() -> None:
    seen = watched(pl.DataFrame({"ts_event": [1, 2, 2], "ts_recv": [0, 0, 0]}), ticks=None)
    assert (seen.gaps, seen.early, seen.before, seen.rows) == (None, None, None, 3)
    assert seen.repeated == 1
    said = checks_of(StreamObserver(RULES, DAY, "ts_event", None), seen)
    assert (said["gaps"], said["rows_received_early"], said["rows_of_neighbouring_days"]) == (None, None, None)


def test_neighbouring_days_are_a_finding_where_they_are_many() -> None:
    few = quotes(-1, *range(0, 86_400, 600))
    many = quotes(-1, -1, *range(0, 86_400, 600), 86_400)
    observer = StreamObserver(RULES, DAY, "ts_event", 1_000)
    assert checks_of(observer, watched(few))["findings"] == {}
    said = checks_of(observer, watched(many))
    assert said["rows_of_neighbouring_days"] == {"before": 2, "after": 1}
    assert said["findings"] == {"neighbouring_days": "3 of 147 rows are of the neighbouring days"}


def test_data_that_nobody_thought_of_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise pl.exceptions.ComputeError("what is this?\nmore")

    monkeypatch.setattr("quantlab_dagster.market.stream_sums.StreamSums._see_prices", fails)
    seen = watched(quotes(*range(0, 86_400, 600)))
    said = checks_of(StreamObserver(RULES, DAY, "ts_event", 1_000), seen)
    assert said["findings"] == {"not_checked": "not everything could be looked at: ComputeError: what is this?"}


def test_every_sentence() -> None:
    seen = Seen(1_000, repeated=1, crossed=2, not_positive=(("price", 3), ("qty", 0)), ids_missing=4, ids_jumps=5)
    seen = replace(seen, ids_repeated=6, early=7, earliest_ticks=8_500)
    assert checks_of(StreamObserver(RULES, DAY, "ts_event", 1_000), seen)["findings"] == {
        "rows_repeated": "1 rows repeat another one",
        "ids_missing": "4 ids missing, in 5 places",
        "ids_repeated": "6 ids repeat another one",
        "rows_crossed": "2 rows have a bid above their ask",
        "received_early": "7 rows received before their event, by 8.5 s at most",
        "values_not_positive": "values that are not above 0: 3 of price",
    }


def test_the_rules_of_a_stream() -> None:
    assert rules_of_stream("bbo") is STREAM_RULES["bbo"]
    assert rules_of_stream("liquidations") == StreamRules()
    observer = observer_of(SymbolDay("x", "trade", "y", DAY), "ts_event", (MIDNIGHT * 1_000, MIDNIGHT * 1_000 + 5))
    assert (observer.rules, observer.ticks) == (STREAM_RULES["trade"], 1_000)
    assert observer_of(SymbolDay("x", "trade", "y", DAY), "ts_event", None).ticks is None


# ---- of a day --------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Lakes:
    return Lakes.of(Rig("local", None, tmp_path))


def put(lakes: Lakes, frame: pl.DataFrame, parts: int = 3) -> None:
    table = frame.drop("trade_id").to_arrow()
    size = -(-table.num_rows // parts)
    lakes.put_raw(
        symbol_day(),
        [
            RawPart(f"part-1767900000-{number:06d}.parquet", parquet_bytes(table.slice(number * size, size)))
            for number in range(parts)
        ],
    )


def said(lakes: Lakes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lakes.get(symbol_day().key("quality_day.json")))["checks"]
    return found


def test_a_day_says_what_was_counted_and_goes_on_saying_it(local: Lakes) -> None:
    seconds = [*range(0, 43_200, 60), *range(43_500, 86_400, 60)]
    bids = [9.0 if second == 600 else 1.0 for second in seconds]
    frame = quotes(*seconds, bid_price=bids, ask_price=[2.0] * len(seconds))
    put(local, pl.concat([frame, frame[:2]]).sort("ts_event"))
    [outcome] = local.run().outcomes
    assert json.loads(local.get(symbol_day().key("meta.json")))["gaps"] == 1, "for the calendar"
    assert outcome.findings == {
        "gaps": "1 silence above 120 s, the longest 360 s from 11:59:00 on",
        "rows_repeated": "2 rows repeat another one",
        "rows_crossed": "1 rows have a bid above their ask",
    }
    assert said(local) == outcome.checks
    assert said(local)["rows"] == local.published(symbol_day()).num_rows, "nothing is dropped"
    [again] = local.run().outcomes
    assert (again.action, again.checks) == (Action.UP_TO_DATE, outcome.checks)
    for file in generate_windows(WindowsSpec(DAY)):
        asyncio.run(local.raw.put(file.key, file.data))
    [labelled] = local.run().outcomes
    assert (labelled.action, labelled.checks) == (Action.RELABEL, outcome.checks), "another label, the same rows"
    assert said(local) == outcome.checks
    local.delete_beside(symbol_day(), "quality_day.json")
    [unknown] = local.run().outcomes
    assert unknown.checks is None


def test_the_windows_of_the_merge_do_not_show(local: Lakes) -> None:
    frame = drawn(Random(5), 1_000)
    put(local, frame, parts=7)
    local.run()
    first = local.get(symbol_day().key("quality_day.json"))
    local.run(overwrite=True, place=local.place(memory_budget=16 << 20))
    assert local.get(symbol_day().key("quality_day.json")) == first
    expected = naive(frame.with_columns(trade_id=pl.lit("1")), 1_000)
    assert json.loads(first)["checks"]["rows_repeated"] == expected["repeated"]


def test_a_day_without_rows_has_no_findings(local: Lakes) -> None:
    put(local, quotes(0)[:0], parts=1)
    [outcome] = local.run().outcomes
    assert (outcome.rows, outcome.findings) == (0, {})
