"""What had data and is not flushed any more: simulated collectors, a clock, and a store that counts."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text
from quantlab_dagster.lake.store.objects import ObjectInfo, Range
from quantlab_dagster.market.listening import look_live
from quantlab_dagster.market.live import (
    NONE_EXPECTED,
    NOTHING_KNOWN,
    Hearing,
    LiveJudgement,
    LiveLook,
    LiveSymbol,
    limit_of,
    live_symbols,
)
from quantlab_dagster.market.pace import gap_within, longest_gap
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.settling import delist
from quantlab_dagster.market.state import DayRecord, PartitionRecord, State
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig

BBO, TRADE, FUNDING = (Pair("binance", stream) for stream in ("bbo", "trade", "funding"))
PAIRS = [BBO, TRADE, FUNDING]
TICK = dt.timedelta(minutes=4)
FRIDAY = dt.datetime(2026, 1, 16, tzinfo=dt.UTC)
HOUR, MINUTE = 3600.0, 60.0


# ---- simulated collectors --------------------------------------------------------------------------------------------


@dataclass
class Collector:
    """One symbol's collector. What is busy flushes by the clock, and what is not when something happens, by chance.

    Both more seldom at weekends; funding every eight hours.
    """

    pair: Pair
    symbol: str
    mean: float
    weekend: float = 1.0
    seed: int = 0
    flushes: list[float] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        return f"{self.pair}/{self.symbol}"

    def run(self, first: dt.datetime, last: dt.datetime) -> None:
        """Flush from one moment to another."""
        chance = random.Random(f"{self.name} {self.seed}")
        now = first.timestamp()
        while now < last.timestamp():
            if self.pair is FUNDING:
                self.flushes.append(now + chance.uniform(0, 60))
                now += 8 * HOUR
                continue
            weekend = dt.datetime.fromtimestamp(now, dt.UTC).weekday() >= 5
            mean = self.mean * (self.weekend if weekend else 1)
            now += mean * chance.uniform(0.5, 1.5) if self.symbol.startswith("busy") else chance.expovariate(1 / mean)
            self.flushes.append(now)

    def killed(self, moment: dt.datetime) -> Collector:
        """The same, but dead from a moment on."""
        kept = [flush for flush in self.flushes if flush <= moment.timestamp()]
        return Collector(self.pair, self.symbol, self.mean, self.weekend, self.seed, kept)

    def names(self, day: dt.date) -> list[str]:
        """Its parts of a day."""
        begin = dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()
        first, last = bisect_left(self.flushes, begin), bisect_left(self.flushes, begin + 24 * HOUR)
        return [f"part-{int(flush)}-{number:06}.parquet" for number, flush in enumerate(self.flushes[first:last])]


class Raw:
    """A raw lake of names alone: what collectors have flushed by now. Counts its listings, some of which fail."""

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self.url = "made-up"
        self.now = FRIDAY
        self.lists = 0
        self.pages_read = 0
        self.failing: set[str] = set()
        self.seconds = 0.0
        self._collectors = {(one.pair, one.symbol): one for one in collectors}

    async def pages(self, prefix: str, keys: Range) -> AsyncIterator[list[ObjectInfo]]:
        self.lists += 1
        await asyncio.sleep(self.seconds)
        if any(name in prefix for name in self.failing):
            raise StoreUnavailable(f"{self.url}/{prefix}", "no usable answer after retries", "Run again")
        of = SymbolDay.parse(prefix)
        flushes = self._collectors[of.pair, of.symbol].flushes
        begin = dt.datetime.combine(of.day, dt.time(), dt.UTC).timestamp()
        since = max(begin, float(keys.after.rpartition("part-")[2] or 0))
        until = min(begin + 24 * HOUR, self.now.timestamp() + 1e-6)
        numbers = range(bisect_left(flushes, since), bisect_left(flushes, until))
        there = [f"{prefix}part-{int(flushes[number])}-{number:06}.parquet" for number in numbers]
        for at in range(0, max(len(there), 1), 1000):
            self.pages_read += 1
            yield [ObjectInfo(key, 1, "e") for key in there[at : at + 1000]]


def place_of(raw: Raw) -> MarketPlace:
    store = cast("Store", raw)
    return MarketPlace(store, store, Limits(64 << 20, 8))


def state_after(collectors: Iterable[Collector], today: dt.date, *, days: int = 9) -> State:
    """What compaction has recorded of the days before."""
    partitions, rolled = {}, {}
    every = [today - dt.timedelta(days=number) for number in range(days, 0, -1)]
    for day in every:
        rolled[day_text(day)] = DayRecord(status="success", updated_at="x")
        for one in collectors:
            if names := one.names(day):
                partitions[f"{one.name}/{day_text(day)}"] = PartitionRecord(
                    status="success",
                    rows=len(names),
                    updated_at="x",
                    longest_gap_seconds=longest_gap(names, day),
                    longest_gap_within_seconds=gap_within(names, day),
                )
    ranges = ((day_text(every[0]), day_text(every[-1])),)
    return State(
        last_compacted_date=day_text(every[-1]),
        catch_up_from=day_text(every[0]),
        days=rolled,
        partitions=partitions,
        settled_pairs={str(pair): ranges for pair in PAIRS},
    )


def judged(raw: Raw, state: State, now: dt.datetime, *, seconds: float = 60, only: str = "") -> LiveJudgement:
    raw.now = now
    symbols = [symbol for symbol in live_symbols(state, PAIRS, now.date()) if only in ("", symbol.name)]
    return LiveJudgement(now, tuple(PAIRS), tuple(asyncio.run(look_live(place_of(raw), symbols, now, seconds=seconds))))


def silent(judgement: LiveJudgement) -> list[str]:
    return [look.of.name for look in judgement.having(Hearing.SILENT)]


def exchange() -> list[Collector]:
    """Busy and quiet symbols, half as busy at the weekend or far less; ten days up to Monday."""
    collectors = [
        *(Collector(BBO, f"busy{n}", 25, 2, n) for n in range(4)),
        *(Collector(BBO, f"quiet{n}", 300, 4, n) for n in range(3)),
        *(Collector(TRADE, f"busy{n}", 45, 3, n) for n in range(2)),
        *(Collector(TRADE, f"rare{n}", 1200, 3, n) for n in range(2)),
        *(Collector(FUNDING, f"busy{n}", 0, 1, n) for n in range(2)),
    ]
    for one in collectors:
        one.run(FRIDAY - dt.timedelta(days=10), FRIDAY + dt.timedelta(days=3.5))
    return collectors


@pytest.fixture(scope="module")
def collectors() -> list[Collector]:
    return exchange()


def test_there_is_no_false_alarm_over_a_quiet_weekend(collectors: list[Collector]) -> None:
    raw = Raw(collectors)
    alarms: list[str] = []
    looks = 0
    for number in range(75 * 6):  # until Monday, 03:00
        now = FRIDAY + number * dt.timedelta(minutes=10)
        if number % (24 * 6) == 0:
            state = state_after(collectors, now.date())
        judgement = judged(raw, state, now)
        looks += len(judgement.looks)
        alarms += [f"{name} {now}" for name in silent(judgement)]
    assert looks > 5_000
    assert alarms == []


def time_until_reported(victim: Collector, killed: dt.datetime) -> dt.timedelta:
    """How long a killed collector goes unnoticed, at most: the first tick comes a whole interval after the kill."""
    dead = victim.killed(killed)
    raw = Raw([dead])
    state, of = state_after([victim], killed.date()), killed.date()
    for number in [*range(1, 20), *range(20, 600, 5)]:
        now: dt.datetime = killed + number * TICK
        if now.date() > of:
            of = now.date()
            state = state_after([dead], of)
        if victim.name in silent(judged(raw, state, now, only=victim.name)):
            return now - killed
    raise AssertionError(f"{victim.name} was never reported")


@pytest.mark.guards("dead-collector")
def test_each_collector_that_is_killed_is_reported(collectors: list[Collector]) -> None:
    """At noon on Friday; those of busy symbols within 15 minutes, the others as their pace allows."""
    noon = FRIDAY + dt.timedelta(hours=12)
    taken = {one.name: time_until_reported(one, noon) for one in collectors}
    for one in collectors:
        limit = {"busy": 15 * MINUTE, "quiet": 8 * HOUR, "rare": 40 * HOUR}[one.symbol.rstrip("0123456789")]
        if one.pair is FUNDING:
            limit = 11 * HOUR
        assert dt.timedelta(minutes=4) < taken[one.name] <= dt.timedelta(seconds=limit), one.name


def away(one: Collector, *spans: tuple[int, float, float]) -> Collector:
    """The same, but away in hours of days before Friday."""
    begins = [(FRIDAY - dt.timedelta(days=days)).timestamp() for days, _, _ in spans]
    kept = [
        flush
        for flush in one.flushes
        if not any(
            begin + hour * HOUR <= flush < begin + until * HOUR
            for begin, (_, hour, until) in zip(begins, spans, strict=True)
        )
    ]
    return Collector(one.pair, one.symbol, one.mean, one.weekend, one.seed, kept)


@pytest.mark.guards("outage-makes-deaf")
@pytest.mark.parametrize("mean", [25, 75, 120])
@pytest.mark.parametrize("hour", [0.5, 12, 23])
@pytest.mark.parametrize(
    ("spans", "weekday"),
    [
        ([(day, 0, 24) for day in range(2, 12)] + [(1, 0, 12)], 4),
        ([(day, 0, 24) for day in range(3, 12)] + [(2, 0, 12)], 4),
        ([(3, 12, 18), (5, 12, 18)], 4),
        ([(1, 12, 18), (2, 12, 18)], 4),
        ([(5, 12, 18), (1, 9, 15)], 5),
        ([(3, 12, 18), (5, 12, 18)], 5),
        ([(3, 12, 18), (5, 12, 18)], 0),
        ([(4, 6, 12), (3, 6, 12), (2, 6, 12)], 0),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else f"{len(value)} spans",
)
def test_a_pair_of_one_symbol_is_heard_though_its_collector_was_away(
    mean: float, hour: float, spans: list[tuple[int, float, float]], weekday: int
) -> None:
    """It began at noon yesterday or the day before, or was away on two days, at weekends or not, or on three."""
    one = Collector(BBO, "busy0", mean)
    one.run(FRIDAY - dt.timedelta(days=9), FRIDAY + dt.timedelta(days=5))
    killed = FRIDAY + dt.timedelta(days=(weekday - 4) % 7, hours=hour)
    assert time_until_reported(away(one, *spans), killed) <= dt.timedelta(minutes=15)


@pytest.mark.guards("outage-makes-deaf")
def test_a_quiet_symbol_that_began_at_noon_or_was_away_raises_no_alarm() -> None:
    """A pair of its own, too; busy ones of the same pair do not make it loud."""
    for pair, mean in ((TRADE, 1200.0), (TRADE, 5000.0), (BBO, 300.0)):
        quiet = Collector(pair, "quiet0", mean, 3)
        quiet.run(FRIDAY - dt.timedelta(days=10), FRIDAY + dt.timedelta(days=3.5))
        others = [Collector(pair, f"busy{n}", 45, 2, n) for n in range(3)]
        for other in others:
            other.run(FRIDAY - dt.timedelta(days=10), FRIDAY + dt.timedelta(days=3.5))
        noon = away(quiet, *[(day, 0, 24) for day in range(2, 12)], (1, 0, 12))
        twice = away(quiet, (3, 12, 18), (5, 12, 18))
        for collectors, until in (([noon], 1.0), ([twice], 3.2), ([twice, *others], 3.2)):
            raw, alarms = Raw(collectors), []
            for number in range(int(until * 24 * 2)):
                now = FRIDAY + number * dt.timedelta(minutes=30)
                if number % (24 * 2) == 0:
                    state = state_after(collectors, now.date())
                alarms += [f"{name} {now}" for name in silent(judged(raw, state, now))]
            assert alarms == []


@pytest.mark.guards("outage-makes-deaf")
def test_a_pair_that_stops_is_told_at_once_though_most_of_its_days_were_bad(collectors: list[Collector]) -> None:
    """All symbols, those that are quiet for hours, too; and a quiet pair is none that has stopped."""
    spans = [(day, 6, 12) for day in (1, 2, 3, 4)]
    noon = FRIDAY + dt.timedelta(hours=12)
    bad = [away(one, *spans) for one in collectors if one.pair is BBO]
    judgement = judged(Raw([one.killed(noon) for one in bad]), state_after(bad, FRIDAY.date()), noon + 2 * TICK)
    assert judgement.stopped == {BBO}
    assert len(silent(judgement)) == len(bad)
    rare = [Collector(TRADE, f"rare{n}", 4000, 1, n) for n in range(4)]
    for one in rare:
        one.run(FRIDAY - dt.timedelta(days=10), FRIDAY + dt.timedelta(days=1))
    state, raw = state_after(rare, FRIDAY.date()), Raw(rare)
    assert not any(silent(judged(raw, state, FRIDAY + number * TICK)) for number in range(360))


def test_of_a_pair_that_could_not_be_looked_at_nobody_knows_whether_it_stopped(collectors: list[Collector]) -> None:
    noon = FRIDAY + dt.timedelta(hours=12)
    raw = Raw([one.killed(noon) for one in collectors])
    raw.failing = {"symbol=busy0/"}
    judgement = judged(raw, state_after(collectors, FRIDAY.date()), noon + 2 * TICK)
    assert judgement.stopped == frozenset()
    assert len(judgement.having(Hearing.UNKNOWN, BBO)) == 1


@pytest.mark.parametrize("hour", [0, 1 / 60, 0.1, 23.95])
def test_one_that_is_killed_about_midnight_is_reported_as_soon(collectors: list[Collector], hour: float) -> None:
    moment = FRIDAY + dt.timedelta(hours=hour)
    assert time_until_reported(collectors[0], moment) <= dt.timedelta(minutes=15)


def test_just_after_midnight_yesterday_is_looked_at_too(collectors: list[Collector]) -> None:
    """Today's directory is empty yet, and what is flushed at 00:00:20 may lie in yesterday's."""
    state = state_after(collectors, FRIDAY.date())
    before = [one.killed(FRIDAY - dt.timedelta(seconds=1)) for one in collectors]
    assert silent(judged(Raw(before), state, FRIDAY + dt.timedelta(seconds=30))) == []


def test_all_at_once_is_said_once_and_not_by_each_symbol(collectors: list[Collector]) -> None:
    noon = FRIDAY + dt.timedelta(hours=12)
    raw = Raw([one.killed(noon) for one in collectors])
    judgement = judged(raw, state_after(collectors, FRIDAY.date()), noon + dt.timedelta(hours=11))
    assert len(judgement.having(Hearing.SILENT, BBO)) == len(judgement.of(BBO)) == 7
    text = judgement.finding(BBO).text
    assert text.startswith("all 7 symbols are silent (no part since 2026-01-16 11:5")
    assert " UTC, 5 minutes are usual of all together): binance/bbo/busy0" in text
    assert text.endswith("and 4 more")
    assert not judgement.fine
    assert judgement.gauges(BBO)["silent_symbols"] == 7
    assert judgement.gauges(BBO)["newest_part_age_seconds"] == pytest.approx(11 * HOUR, abs=60)


def test_a_symbol_that_is_delisted_is_not_looked_for(collectors: list[Collector]) -> None:
    noon = FRIDAY + dt.timedelta(hours=12)
    victim = collectors[0]
    raw = Raw([victim.killed(noon), *collectors[1:]])
    state = state_after(collectors, FRIDAY.date())
    assert silent(judged(raw, state, noon + TICK * 4)) == [victim.name]
    state = delist(state, [victim.name], "merged", noon + TICK * 4)
    judgement = judged(raw, state, noon + TICK * 4)
    assert (silent(judgement), judgement.fine) == ([], True)


# ---- what cannot be looked at ----------------------------------------------------------------------------------------


def test_a_listing_that_fails_is_neither_silence_nor_health(collectors: list[Collector]) -> None:
    raw = Raw(collectors)
    raw.failing = {"symbol=busy0/"}
    judgement = judged(raw, state_after(collectors, FRIDAY.date()), FRIDAY + dt.timedelta(hours=12))
    assert silent(judgement) == []
    assert not judgement.fine
    unknown = [look.of.name for look in judgement.having(Hearing.UNKNOWN)]
    assert unknown == ["binance/bbo/busy0", "binance/funding/busy0", "binance/trade/busy0"]
    finding = judgement.finding(BBO)
    assert not finding.passed
    assert finding.text.startswith("1 of 7 symbols could not be looked at: binance/bbo/busy0 (made-up/")
    assert judgement.gauges(BBO)["unknown_symbols"] == 1


def test_a_slow_store_ends_the_look_in_time(collectors: list[Collector]) -> None:
    raw = Raw(collectors)
    raw.seconds = 60
    started = dt.datetime.now(dt.UTC)
    judgement = judged(raw, state_after(collectors, FRIDAY.date()), FRIDAY + dt.timedelta(hours=12), seconds=0.2)
    assert dt.datetime.now(dt.UTC) - started < dt.timedelta(seconds=30)
    assert len(judgement.having(Hearing.UNKNOWN)) == len(collectors)
    assert "not looked at within 0.2 s" in judgement.finding(TRADE).text


def test_where_nothing_is_known_nothing_is_well() -> None:
    judgement = LiveJudgement(FRIDAY, tuple(PAIRS), ())
    assert not judgement.fine
    finding = judgement.finding(BBO)
    assert (finding.passed, finding.text) == (False, NOTHING_KNOWN)


@pytest.mark.guards("all-delisted-fails")
def test_where_all_is_delisted_or_rests_nothing_is_wrong() -> None:
    judgement = LiveJudgement(FRIDAY, tuple(PAIRS), (), known=True)
    assert judgement.fine
    finding = judgement.finding(BBO)
    assert (finding.passed, finding.text) == (True, NONE_EXPECTED)


def test_what_is_flushed_costs_one_listing_and_one_page_whatever_the_day_holds() -> None:
    """Late in the day, when a busy symbol has 4,000 parts."""
    busy = [Collector(BBO, f"busy{n}", 20, 1, n) for n in range(6)]
    for one in busy:
        one.run(FRIDAY - dt.timedelta(days=3), FRIDAY + dt.timedelta(days=1))
    raw = Raw(busy)
    judgement = judged(raw, state_after(busy, FRIDAY.date(), days=3), FRIDAY + dt.timedelta(hours=23))
    assert judgement.fine
    assert len(busy[0].names(FRIDAY.date())) > 4000
    assert (raw.lists, raw.pages_read) == (6, 6)


# ---- on real stores --------------------------------------------------------------------------------------------------

NOON = FRIDAY + dt.timedelta(hours=12)


def at(store: Store, names: dict[str, list[str]]) -> list[LiveLook]:
    async def work() -> list[LiveLook]:
        for symbol, parts in names.items():
            for part in parts:
                date, _, name = part.rpartition("/")
                of = SymbolDay("binance", "bbo", symbol, dt.date.fromisoformat(date or "2026-01-16"))
                await store.put(of.key(name), b"x")
        place = MarketPlace(store, store, Limits(64 << 20))
        symbols = [
            LiveSymbol(f"{BBO}/{name}", BBO, name, dt.timedelta(minutes=5), FRIDAY.date()) for name in sorted(names)
        ]
        return await look_live(place, symbols, NOON, seconds=30)

    return asyncio.run(work())


def part(minutes_ago: float, number: int = 1) -> str:
    return f"part-{int((NOON - dt.timedelta(minutes=minutes_ago)).timestamp())}-{number:06}.parquet"


def test_a_look_at_a_store(rig: Rig) -> None:
    looks = at(
        rig.new_store(),
        {
            "speaking": [part(200), part(1), part(3), "._" + part(0), part(0) + ".tmp"],
            "silent": [part(200), part(20), part(30)],
            "yesterday": [f"2026-01-15/{part(13 * 60)}"],
            "gone": [],
            "odd": ["0001.parquet"],
            "future": [part(-3 * 60)],
            "soon": [part(-0.5)],
            "hidden": ["._" + part(1), part(1) + ".tmp"],
        },
    )
    found = {look.of.symbol: (look.hearing(NOON), look.age(NOON)) for look in looks}
    minutes = {name: None if age is None else age.total_seconds() / 60 for name, (_, age) in found.items()}
    assert {name: hearing for name, (hearing, _) in found.items()} == {
        "speaking": Hearing.SPEAKING,
        "silent": Hearing.SILENT,
        "yesterday": Hearing.SILENT,
        "gone": Hearing.SILENT,
        "odd": Hearing.UNKNOWN,
        "future": Hearing.UNKNOWN,
        "soon": Hearing.SPEAKING,
        "hidden": Hearing.SILENT,
    }
    assert minutes == {
        "speaking": 1,
        "silent": 20,
        "yesterday": 13 * 60,
        "gone": None,
        "odd": None,
        "future": None,
        "soon": 0,
        "hidden": None,
    }
    assert looks[1].text == "binance/bbo/gone (no part today or yesterday; it had data on 2026-01-16)"


# ---- who is live, and how long it may be silent ----------------------------------------------------------------------


def test_who_had_data_in_the_last_days_is_live() -> None:
    steady, new, dead, rare = (Collector(BBO, name, 600) for name in ("steady", "new", "dead", "rare"))
    steady.run(FRIDAY - dt.timedelta(days=9), FRIDAY)
    new.run(FRIDAY - dt.timedelta(days=1), FRIDAY)
    dead.run(FRIDAY - dt.timedelta(days=9), FRIDAY - dt.timedelta(days=4))
    rare.flushes = [(FRIDAY - dt.timedelta(days=4)).timestamp()]
    okx = Collector(Pair("okx", "bbo"), "other", 600)
    okx.run(FRIDAY - dt.timedelta(days=9), FRIDAY)
    state = state_after([steady, new, dead, rare, okx], FRIDAY.date())
    assert [one.symbol for one in live_symbols(state, PAIRS, FRIDAY.date())] == ["dead", "new", "steady"]


@pytest.mark.guards("weekend-alarm")
def test_a_symbol_that_rests_every_weekend_is_not_looked_for_then() -> None:
    """Nor is it on Monday, before anything is known of that day; one that went silent before is a finding still."""
    weekdays, steady, dead = (Collector(BBO, name, 600) for name in ("weekdays", "steady", "dead"))
    for number in range(28):
        begin = FRIDAY - dt.timedelta(days=23 - number)
        for one in (steady, *((weekdays, dead) if begin.weekday() < 5 else ())):
            one.run(begin, begin + dt.timedelta(hours=23))
    dead = dead.killed(FRIDAY - dt.timedelta(days=2))
    every = [weekdays, steady, dead]
    seen = {}
    for number in range(5):
        today = (FRIDAY + dt.timedelta(days=number)).date()
        state = state_after(every, today, days=21)
        seen[f"{today:%a}"] = [one.symbol for one in live_symbols(state, PAIRS, today)]
    assert seen == {
        "Fri": ["dead", "steady", "weekdays"],
        "Sat": ["dead", "steady"],
        "Sun": ["dead", "steady"],
        "Mon": ["dead", "steady"],
        "Tue": ["dead", "steady", "weekdays"],
    }


@pytest.mark.parametrize(
    ("stream", "gaps", "minutes"),
    [
        ("bbo", [], 5),
        ("bbo", [60, 70, 60], 5),
        ("bbo", [200, 300], 13 + 1 / 3),
        ("bbo", [200, 300, 400], 6.25 + 10),
        ("bbo", [30, 300, 400], 20),
        ("bbo", [60, 60, 60, 60, 60, 7 * 3600, 60], 5),
        ("bbo", [40] * 5 + [3600] * 2, 5),
        ("bbo", [40] * 5 + [43200] * 2, 5),
        ("bbo", [40] * 4 + [3600] * 3, 5),
        ("trade", [3600], 240),
        ("trade", [3600, 3600, 3000], 75 + 60),
        ("funding", [8 * 3600, 8 * 3600 - 60, 8 * 3600], 600 + 6),
        ("funding", [], 510),
        ("liquidation", [], 60),
        ("daily", [24 * 3600, 24 * 3600, 24 * 3600], 30 * 60),
        ("weekly", [7 * 24 * 3600], 48 * 60),
    ],
)
def test_how_long_a_symbol_may_be_silent(stream: str, gaps: list[int], minutes: float) -> None:
    assert limit_of(stream, gaps) == dt.timedelta(minutes=minutes)


def test_limits_of_streams_can_be_set() -> None:
    assert limit_of("bbo", [], {"bbo": 7}) == dt.timedelta(minutes=7)
    assert limit_of("funding", [], {"bbo": 7}) == dt.timedelta(minutes=510)
