"""Chunks of a pair's day: how they are cut, what they hand over, and what the last step does of a day."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantlab_dagster.errors import DayRefused, MalformedObject
from quantlab_dagster.market.chunks import chunks_of, dump_outcome, joined, left_to_do, read_outcome
from quantlab_dagster.market.compact import compact_and_record, split_day
from quantlab_dagster.market.journal import Journal, JournalEntry
from quantlab_dagster.market.outcome import Outcome, PairOutcome, Status
from quantlab_dagster.market.plan import Action, Requested
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.synthetic.market import corrupt_part
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, PAIR, Lakes, Recorder, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"a": 50, "b": 30, "c": 30, "d": 20, "e": 200, "f": 10}


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    return Lakes.of(Rig("local", None, tmp_path))


def outcome(symbol: str, status: Status = Status.SUCCESS, **values: Any) -> Outcome:
    return Outcome(symbol_day(symbol), status, Action.BUILD, "new", **values)


def pair_outcome(*outcomes: Outcome, seconds: float = 1.0, **requests: int) -> PairOutcome:
    return PairOutcome(PAIR, DAY, outcomes, seconds, requests)


def entries_of(lakes: Lakes) -> list[JournalEntry]:
    kept = asyncio.run(Journal(lakes.compact).read(DAY))
    return sorted(kept.entries.values(), key=lambda entry: (entry.whole, min(entry.partitions)))


def compact(lakes: Lakes, **options: Any) -> PairOutcome:
    return asyncio.run(compact_and_record(lakes.place(), PAIR, DAY, listener=Recorder(), **options))


def split(lakes: Lakes, limit: int, **options: Any) -> list[tuple[str, ...]]:
    chunks = asyncio.run(split_day(lakes.place(**options), PAIR, DAY, limit))
    return [chunk.symbols for chunk in chunks]


def test_the_largest_come_first_and_small_ones_share() -> None:
    chunks = chunks_of(SIZES, 100)
    assert [(chunk.symbols, chunk.size_bytes) for chunk in chunks] == [
        (("e",), 200),
        (("a", "b", "d"), 100),
        (("c", "f"), 40),
    ]


def test_what_fits_into_one_chunk_is_not_cut() -> None:
    assert chunks_of(SIZES, sum(SIZES.values())) == []
    assert len(chunks_of(SIZES, sum(SIZES.values()) - 1)) == 2
    assert chunks_of({"e": 200}, 100) == []
    assert chunks_of({}, 100) == []


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 1000), max_size=30), st.integers(1, 2000))
def test_every_symbol_is_in_one_chunk_and_none_is_too_large_but_for_one_symbol(
    sizes: dict[str, int], limit: int
) -> None:
    chunks = chunks_of(sizes, limit)
    if not chunks:
        assert sum(sizes.values()) <= limit or len(sizes) == 1
        return
    assert sorted(symbol for chunk in chunks for symbol in chunk.symbols) == sorted(sizes)
    for chunk in chunks:
        assert chunk.size_bytes == sum(sizes[symbol] for symbol in chunk.symbols)
        assert chunk.size_bytes <= limit or len(chunk.symbols) == 1
    assert chunks == chunks_of(dict(reversed(sizes.items())), limit), "whatever order they are found in"


def test_what_is_handed_over_comes_back_as_it_was() -> None:
    full = outcome(
        "adausdt",
        Status.QUARANTINE,
        error="AuditFailed",
        rows=1,
        parts=2,
        bytes_in=3,
        bytes_out=4,
        seconds=5.5,
        ts_event_min=-6,
        ts_event_max=7,
        revision=8,
        day_quality="GOOD",
        columns={"a": "Int64"},
        widened={"a": "Int32 → Int64"},
        minute_width=60_000,
        minutes=((1, 2), (3, 4)),
        raw_fingerprint="ab",
        checks={"gaps": {"number": 3}, "findings": {"gaps": "3 silences"}},
        longest_gap_seconds=9,
        longest_gap_within_seconds=8,
    )
    bare = Outcome(symbol_day("ünïcode/ \n"), Status.SUCCESS, Action.BUILD, "")
    differ = {one.name for one in fields(Outcome) if getattr(full, one.name) != getattr(bare, one.name)}
    assert differ == {one.name for one in fields(Outcome)} - {"action"}, "every field is told apart by this test"
    handed = PairOutcome(PAIR, DAY, (full, bare), 1.5, {"raw GET": 3})
    assert read_outcome(dump_outcome(handed), "here") == handed


@pytest.mark.parametrize("text", ["", "{}", "[1]", dump_outcome(pair_outcome(outcome("a")))[:-9]])
def test_what_is_no_word_of_a_chunk_is_refused_and_named(text: str) -> None:
    with pytest.raises(MalformedObject, match="binance/bbo") as caught:
        read_outcome(text, "binance/bbo")
    assert "same version" in str(caught.value)


def test_the_last_step_does_what_no_chunk_did_and_what_failed_in_one() -> None:
    done = [
        pair_outcome(outcome("a"), outcome("b", Status.FAILED)),
        pair_outcome(outcome("c", Status.QUARANTINE), outcome("d", Status.NO_FILES), outcome("e", Status.SKIPPED)),
    ]
    assert left_to_do(["a", "b", "c", "d", "e", "f"], done) == ["b", "d", "f"]
    assert left_to_do(["a", "b"], []) == ["a", "b"]


def test_a_day_is_what_its_steps_did_together() -> None:
    first = pair_outcome(outcome("c"), outcome("a", Status.FAILED), seconds=2.0, get=3, put=1)
    last = pair_outcome(outcome("b"), outcome("a", rows=7), seconds=0.5, get=1)
    day = joined([first], last)
    assert day.outcomes == (outcome("a", rows=7), outcome("b"), outcome("c"))
    assert (day.seconds, day.requests) == (2.5, {"get": 4, "put": 1})
    still = joined([first], replace(last, outcomes=(outcome("a", Status.FAILED),)))
    assert [item.status for item in still.having(Status.FAILED)] == [Status.FAILED], "a failure is not lost"


def test_a_day_in_chunks_is_published_and_recorded_as_a_day_that_is_one_step(tmp_path: Path) -> None:
    both = []
    for name in ("whole", "in chunks"):
        directory = tmp_path / name
        directory.mkdir()
        lakes = Lakes.of(Rig("local", None, directory))
        for number, symbol in enumerate(("adausdt", "btcusdt", "ethusdt")):
            lakes.put_spec(spec(symbol, parts=3 + number, rows=100))
        lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
        both.append(lakes)
    whole, chunked = both
    one = compact(whole)
    cut = split(chunked, 1)
    assert sorted(cut) == [("adausdt",), ("btcusdt",), ("ethusdt",), ("xrpusdt",)]
    told = [dump_outcome(compact(chunked, symbols=symbols)) for symbols in cut[:3]]
    many = compact(chunked, done=[read_outcome(text, "a chunk") for text in told])

    def but_times(day: PairOutcome) -> list[Outcome]:
        return [replace(item, seconds=0.0) for item in day.outcomes]

    def but_etags(day: PairOutcome) -> list[Outcome]:
        return [replace(item, raw_fingerprint="") for item in but_times(day)]  # a local ETag has the time in it

    assert but_etags(many) == but_etags(one)
    assert len(many.having(Status.QUARANTINE)) == 1
    assert set(whole.compact_keys()) == set(chunked.compact_keys())
    for symbol in ("adausdt", "btcusdt", "ethusdt"):
        key = symbol_day(symbol).key("data.parquet")
        assert whole.get(key) == chunked.get(key)
    [of_whole] = entries_of(whole)
    *of_chunks, last = entries_of(chunked)
    assert [entry.whole for entry in of_chunks] == [False, False, False]
    assert {*last.partitions} == {*of_whole.partitions}
    assert (last.whole, last.ended) == (of_whole.whole, of_whole.ended) == (True, "quarantine")


def test_what_stands_as_it_is_makes_no_chunk(lakes: Lakes) -> None:
    for symbol in ("adausdt", "btcusdt", "ethusdt"):
        lakes.put_spec(spec(symbol))
    compact(lakes, symbols=["adausdt"])
    assert sorted(split(lakes, 1)) == [("btcusdt",), ("ethusdt",)]
    compact(lakes)
    assert split(lakes, 1) == []
    again = asyncio.run(split_day(lakes.place(), PAIR, DAY, 1, Requested(overwrite=True)))
    assert len(again) == 3, "but it does where it is to be built again"


def test_a_day_that_is_not_eligible_is_not_cut(lakes: Lakes) -> None:
    lakes.put_spec(spec())
    with pytest.raises(DayRefused):
        split(lakes, 1, now=dt.datetime(2026, 1, 9, 2, 29, tzinfo=dt.UTC))


def test_a_first_day_is_noted_before_anything_is_done(lakes: Lakes) -> None:
    lakes.put_spec(spec())
    split(lakes, 1)
    state = asyncio.run(StateStore(lakes.compact).read())
    assert state is not None
    assert state.catch_up_from == "20260108"
