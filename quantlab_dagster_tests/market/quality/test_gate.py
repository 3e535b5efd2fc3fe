"""The gate: what becomes of days that are BAD, PARTIAL, labelled, or labelled anew; on a local directory and on S3."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.access import catch_up_rules
from quantlab_dagster.errors import MalformedObject, NothingToAccept, StoreUnavailable
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.accepting import accept
from quantlab_dagster.market.catchup import CatchUp, Decision, Tries, decide_catch_up
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.judgement import Judgement, Standing, judge
from quantlab_dagster.market.late import scan_slice
from quantlab_dagster.market.outcome import Outcome, Status
from quantlab_dagster.market.plan import Action, Requested, plan_days
from quantlab_dagster.market.quality.reading import Qualities
from quantlab_dagster.market.quality.rules import Label, Rules
from quantlab_dagster.market.rebuild import rebuild_state
from quantlab_dagster.market.rollup import DayRollUp, RawPrefixes, roll_up_and_settle
from quantlab_dagster.market.settling import seed
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.settings import Settings
from quantlab_dagster.synthetic.market import corrupt_part, generate_parts
from quantlab_dagster.synthetic.quality import WindowsSpec, generate_windows
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, NOON_AFTER, PAIR, Lakes, Recorder, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.state import State
    from quantlab_dagster.synthetic.market import DaySpec

KEY = symbol_day().state_key
PARTS, ROWS = 2, 20
RAW = RawPrefixes((str(PAIR),), ())


def small(symbol: str = "adausdt", seed: int = 0) -> DaySpec:
    return spec(symbol, parts=PARTS, rows=ROWS, seed=seed)


@pytest.fixture
def lakes(rig: Rig) -> Lakes:
    return Lakes.of(rig)


@pytest.fixture
def local(tmp_path: Path) -> Lakes:
    return Lakes.of(Rig("local", None, tmp_path))


def put_windows(lakes: Lakes, **options: Any) -> None:
    async def put() -> None:
        store = lakes.raw
        files = generate_windows(WindowsSpec(DAY, **options))
        await asyncio.gather(*(store.put(file.key, file.data) for file in files))

    asyncio.run(put())


def put_window(lakes: Lakes, name: str, content: bytes) -> None:
    asyncio.run(lakes.raw.put(f"quality/date={DAY:%Y%m%d}/window={name}.json", content))


def compact(lakes: Lakes, place: MarketPlace | None = None, **options: Any) -> dict[str, Outcome]:
    """A step, recorded; by symbol how it ended."""
    work = compact_and_record(place or lakes.place(), PAIR, DAY, listener=Recorder(), requested=Requested(**options))
    return {item.symbol_day.symbol: item for item in asyncio.run(work).outcomes}


def roll_up(lakes: Lakes, place: MarketPlace | None = None) -> tuple[DayRollUp, State]:
    return asyncio.run(roll_up_and_settle(place or lakes.place(), [PAIR], DAY))


def later(lakes: Lakes, days: int = 7) -> MarketPlace:
    return lakes.place(now=NOON_AFTER + dt.timedelta(days=days))


def judged(state: State, now: dt.datetime = NOON_AFTER) -> Judgement:
    return judge(state, [PAIR], now, raw=RAW)


def decided(state: State, now: dt.datetime, tries: Tries) -> CatchUp:
    rules = catch_up_rules(Settings(), [PAIR], now, busy=(), tries=lambda _: tries)
    return decide_catch_up(state, rules)


def scan(lakes: Lakes, place: MarketPlace | None = None) -> State:
    place = place or lakes.place(now=NOON_AFTER + dt.timedelta(hours=2))
    states = StateStore(place.compact)
    state = asyncio.run(states.view())
    assert state is not None
    return asyncio.run(scan_slice(place, states, state, [PAIR], look_back_days=7, seconds=None))


def beside(lakes: Lakes, name: str, symbol: str = "adausdt") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lakes.get(symbol_day(symbol).key(name)))
    return found


def kept(lakes: Lakes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lakes.get(f"compacted/quality/{DAY:%Y%m%d}.json"))
    return found


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("windows", "label"), [({}, "GOOD"), ({"bad": 1}, "DEGRADED"), (None, "UNKNOWN")])
def test_a_day_is_labelled_everywhere_alike(lakes: Lakes, windows: dict[str, int] | None, label: str) -> None:
    if windows is not None:
        put_windows(lakes, **windows)
    lakes.put_spec(small())
    outcome = compact(lakes)["adausdt"]
    assert (outcome.status, outcome.day_quality) == (Status.SUCCESS, label)
    meta, evidence = beside(lakes, "meta.json"), beside(lakes, "quality_day.json")
    assert meta["day_quality"] == evidence["day_quality"] == label
    assert meta["post_filter_version"] == evidence["post_filter_version"] == "1.0.0"
    assert evidence["date"] == "20260108"
    assert evidence["windows"]["good"] == {"GOOD": 96, "DEGRADED": 95, "UNKNOWN": 0}[label]
    assert evidence["windows"]["missing"] == (96 if windows is None else 0)
    assert (evidence["dropped_events"] > 0) is (label == "DEGRADED")
    assert [window["window"] for window in evidence["worst_windows"]] == (["0600"] if label == "DEGRADED" else [])
    rolled, state = roll_up(lakes)
    assert rolled.settled
    assert state.partitions[KEY].day_quality_post == label
    assert judged(state).fine


def test_a_window_is_read_once_a_day_whoever_asks(lakes: Lakes) -> None:
    put_windows(lakes)
    lakes.put_spec(small())
    place = lakes.place()
    asyncio.run(place.qualities().of(DAY))
    assert place.requests()["raw GET"] == 96
    assert place.requests()["raw LIST"] == 1
    place = lakes.place()
    compact(lakes, place)
    roll_up(lakes, place)
    assert place.requests()["raw GET"] == PARTS, "the parts, and no window again"
    put_windows(lakes, seed=1, missing=93)
    place = lakes.place()
    asyncio.run(place.qualities().of(DAY))
    assert place.requests()["raw GET"] == 3, "only what is new"


def test_looking_writes_nothing(local: Lakes) -> None:
    put_windows(local, bad=3)
    local.put_spec(small())
    [plan] = asyncio.run(plan_days(local.place(), [PAIR], [DAY]))
    assert plan.action is Action.QUARANTINE
    [verified] = asyncio.run(verify_pair(local.place(), PAIR, DAY))
    assert verified.findings == ("the day is BAD (3 BAD windows)",)
    assert asyncio.run(local.compact.list_objects("")) == []


# ---- BAD -------------------------------------------------------------------------------------------------------------


def test_a_bad_day_is_quarantined_and_not_published(lakes: Lakes) -> None:
    put_windows(lakes, bad=3)
    for symbol in ("adausdt", "btcusdt"):
        lakes.put_spec(small(symbol))
    outcomes = compact(lakes)
    assert {item.status for item in outcomes.values()} == {Status.QUARANTINE}
    assert {key.rpartition("/")[2] for key in lakes.compact_keys()} == {"quarantine.json"}
    quarantine = beside(lakes, "quarantine.json")
    assert (quarantine["day_quality"], quarantine["part"]) == ("BAD", None)
    assert quarantine["reason"] == "the day is BAD (3 BAD windows)"
    rolled, state = roll_up(lakes)
    assert (rolled.settled, rolled.status) == (True, Status.QUARANTINE)
    record = state.partitions[KEY]
    assert (record.status, record.day_quality_post, record.rows) == ("quarantine", "BAD", 0)
    assert state.last_compacted_date == "20260108"
    found = judged(state)
    assert not found.fine
    assert set(found.quarantined) == {KEY, symbol_day("btcusdt").state_key}
    before = lakes.compact_keys()
    assert {item.action for item in compact(lakes).values()} == {Action.QUARANTINED}
    assert {item.status for item in compact(lakes, overwrite=True).values()} == {Status.QUARANTINE}
    assert lakes.compact_keys() == before, "nor if somebody asks to overwrite"


def test_an_operator_accepts_a_bad_day_as_a_whole(local: Lakes) -> None:
    put_windows(local, bad=3)
    for symbol in ("adausdt", "btcusdt"):
        local.put_spec(small(symbol))
    local.put_raw(symbol_day("xrpusdt"), [corrupt_part(small("xrpusdt"))])
    compact(local)
    roll_up(local)
    state = asyncio.run(accept(local.place(), DAY, "exchange outage", [PAIR]))
    assert judged(state).fine
    assert len(state.accepted or {}) == 3, "what cannot be merged is withheld for the day like all others"
    with pytest.raises(NothingToAccept):
        asyncio.run(accept(local.place(), DAY, "again", [PAIR]))
    local.put_raw(symbol_day(), [replace(next(generate_parts(small(seed=9))), name="part-1767999999-000001.parquet")])
    state = scan(local)
    assert not judged(state).fine, "other parts, another decision"
    compact(local)
    assert beside(local, "quarantine.json")["source_files"] == 3


def test_a_bad_day_is_published_where_somebody_says_why_and_stays_labelled_bad(lakes: Lakes) -> None:
    put_windows(lakes, bad=3)
    lakes.put_spec(small())
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(small("xrpusdt"))])
    compact(lakes)
    roll_up(lakes)
    outcomes = compact(lakes, accept_bad="the only day of the crash")
    done = outcomes["adausdt"]
    assert (done.status, done.rows, done.day_quality) == (Status.SUCCESS, ROWS, "BAD")
    assert done.reason.endswith("the day is BAD (3 BAD windows), and published all the same: the only day of the crash")
    assert outcomes["xrpusdt"].status is Status.QUARANTINE, "what cannot be merged is not published, whoever asks"
    names = {key.rpartition("/")[2] for key in lakes.compact_keys() if "adausdt" in key}
    assert names == {"data.parquet", "meta.json", "sources.json", "quality_day.json"}
    assert beside(lakes, "meta.json")["day_quality"] == "BAD"
    said = beside(lakes, "quality_day.json")
    assert (said["day_quality"], said["accepted_because"]) == ("BAD", "the only day of the crash")
    _, state = roll_up(lakes)
    record = state.partitions[KEY]
    assert (record.status, record.day_quality_post, record.rows) == ("success", "BAD", ROWS)
    assert set(judged(state).quarantined) == {symbol_day("xrpusdt").state_key}
    before = lakes.compact_keys()
    assert {name: item.action for name, item in compact(lakes).items()} == {
        "adausdt": Action.UP_TO_DATE,
        "xrpusdt": Action.QUARANTINED,
    }
    assert lakes.compact_keys() == before, "the next run leaves it as it is"


def test_a_bad_day_that_is_published_takes_up_late_parts_when_somebody_says_so_again(local: Lakes) -> None:
    put_windows(local, bad=3)
    local.put_spec(small())
    compact(local, accept_bad="wanted")
    late = next(iter(generate_parts(spec(parts=2, rows=50, seed=9))))
    local.put_raw(symbol_day(), [replace(late, name="part-1767999999-000001.parquet")])
    assert compact(local)["adausdt"].action is Action.KEEP, "not by itself"
    again = compact(local, accept_bad="still wanted")["adausdt"]
    assert (again.action, again.day_quality) == (Action.BUILD, "BAD")
    assert again.rows > ROWS
    assert compact(local, accept_bad="still wanted")["adausdt"].action is Action.UP_TO_DATE


def test_why_a_bad_day_was_published_is_kept_as_long_as_it_is_bad(local: Lakes) -> None:
    put_windows(local, bad=3)
    local.put_spec(small())
    compact(local, accept_bad="wanted")
    put_windows(local, bad=4)
    assert compact(local)["adausdt"].action is Action.RELABEL
    assert beside(local, "quality_day.json")["accepted_because"] == "wanted"
    assert compact(local, overwrite=True)["adausdt"].action is Action.BUILD
    assert beside(local, "quality_day.json")["accepted_because"] == "wanted"
    put_windows(local, bad=0)
    compact(local)
    assert beside(local, "meta.json")["day_quality"] == "GOOD"
    assert "accepted_because" not in beside(local, "quality_day.json")


@pytest.mark.parametrize(("windows", "status"), [({"partial": 17}, Status.SKIPPED), ({}, Status.SUCCESS)])
def test_a_reason_for_bad_days_says_nothing_of_others(local: Lakes, windows: dict[str, int], status: Status) -> None:
    put_windows(local, **windows)
    local.put_spec(small())
    [outcome] = compact(local, accept_bad="wanted").values()
    assert outcome.status is status
    assert "wanted" not in outcome.reason
    if status is Status.SUCCESS:
        assert "accepted_because" not in beside(local, "quality_day.json")


def test_a_bad_day_that_turns_out_good_is_published(local: Lakes) -> None:
    put_windows(local, bad=3)
    local.put_spec(small())
    compact(local)
    roll_up(local)
    put_windows(local)
    state = scan(local)
    assert list(state.late_scan.stale) == [KEY]
    assert decided(state, NOON_AFTER, Tries()).requests[0].pairs == (PAIR,)
    outcome = compact(local)["adausdt"]
    assert (outcome.status, outcome.day_quality) == (Status.SUCCESS, "GOOD")
    assert symbol_day().key("quarantine.json") not in local.compact_keys()
    _, state = roll_up(local)
    assert judged(state).fine
    assert state.partitions[KEY].day_quality_post == "GOOD"


def test_a_bad_day_is_not_looked_at_for_ever(local: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    put_windows(local, bad=3)
    local.put_spec(small())
    compact(local)
    roll_up(local)
    put_windows(local)
    looked: list[str] = []
    of = Qualities.of

    async def counting(self: Qualities, day: dt.date) -> Any:
        looked.append(str(day))
        return await of(self, day)

    monkeypatch.setattr(Qualities, "of", counting)
    scan(local, later(local, 7))
    assert looked == []
    scan(local, later(local, 6))
    assert set(looked) == {str(DAY)}


# ---- PARTIAL ---------------------------------------------------------------------------------------------------------


def test_a_partial_day_is_skipped_looked_at_again_and_then_settled(lakes: Lakes) -> None:
    put_windows(lakes, partial=17)
    lakes.put_spec(small())
    outcome = compact(lakes)["adausdt"]
    assert (outcome.status, outcome.day_quality) == (Status.SKIPPED, "PARTIAL")
    assert lakes.compact_keys() == {}
    rolled, state = roll_up(lakes)
    assert rolled.waiting
    assert not rolled.settled
    assert state.day(DAY) is None, "it has not failed, and is not settled"
    assert state.open_days == {"20260108": {str(PAIR): "skipped"}}
    assert state.watermark is None
    record = state.partitions[KEY]
    assert (record.status, record.day_quality_post) == ("skipped", "PARTIAL")
    assert record.error == "the day is PARTIAL (79 whole windows, 17 partial)"

    found = judged(state)
    [day] = found.days
    assert (day.standing, day.settled, day.overdue, day.troubled) == (Standing.PARTIAL, False, True, False)
    assert found.gauges["partial_days"] == 1
    assert not found.fine
    assert "2026-01-08 (PARTIAL)" in next(item.text for item in found.findings if not item.passed)
    before_four = dt.datetime(2026, 1, 9, 3, tzinfo=dt.UTC)
    assert judged(state, before_four).fine, "it has just become due"

    # Still within the look-back on the seventh day; the day after that it is given up.
    rolled, state = roll_up(lakes, later(lakes, 6))
    assert rolled.waiting
    rolled, state = roll_up(lakes, later(lakes, 7))
    assert (rolled.settled, rolled.status) == (True, Status.SKIPPED)
    assert state.days["20260108"].status == "skipped"
    assert state.last_compacted_date == "20260108"
    assert state.quality is None
    assert lakes.compact_keys() == {}


def test_a_partial_day_that_becomes_whole_is_published(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    compact(local)
    roll_up(local)
    put_windows(local, partial=16)
    outcome = compact(local)["adausdt"]
    assert (outcome.status, outcome.day_quality) == (Status.SUCCESS, "GOOD")
    rolled, state = roll_up(local)
    assert rolled.settled
    assert state.quality is None
    assert judged(state).fine


def test_a_partial_day_that_turns_out_bad_is_recorded_as_bad(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    compact(local)
    roll_up(local)
    put_windows(local, bad=3)
    compact(local)
    rolled, state = roll_up(local)
    assert (rolled.settled, rolled.status) == (True, Status.QUARANTINE)
    record = state.partitions[KEY]
    assert (record.status, record.day_quality_post, record.withheld) == ("quarantine", "BAD", True)


def test_a_partial_day_runs_again_once_an_hour_and_is_never_exhausted(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    compact(local)
    _, state = roll_up(local)
    ended = Tries(last_number=9, last_ended=NOON_AFTER, last_failed=False)
    soon = decided(state, NOON_AFTER + dt.timedelta(minutes=59), ended)
    assert soon.requests == ()
    assert [one.decision for one in soon.decided] == [Decision.PARTIAL]
    assert "is PARTIAL, looked at again from 2026-01-09T13:00:00Z on" in soon.skipped[0]
    assert (soon.waiting, soon.exhausted) == ((), ())
    found = judge(state, [PAIR], NOON_AFTER, decided=soon, raw=RAW)
    assert found.days[0].standing is Standing.PARTIAL
    assert next(item for item in found.findings if item.name == "nothing_failed").passed
    [request] = decided(state, NOON_AFTER + dt.timedelta(minutes=60), ended).requests
    assert request.pairs == (PAIR,), "the pairs that skipped it, not the roll-up alone"


def test_a_failure_beside_a_partial_day_is_a_failure(local: Lakes) -> None:
    put_windows(local, partial=17)
    for symbol in ("adausdt", "btcusdt"):
        local.put_spec(small(symbol))
    local.put_beside(symbol_day("btcusdt"), "meta.json", b"{")
    assert {symbol: item.status for symbol, item in compact(local).items()} == {
        "adausdt": Status.SKIPPED,
        "btcusdt": Status.FAILED,
    }
    rolled, state = roll_up(local)
    assert not rolled.waiting
    assert state.days["20260108"].status == "failed"
    assert state.open_days == {"20260108": {str(PAIR): "failed"}}


@pytest.mark.guards("partial-before-the-beginning")
@pytest.mark.parametrize("broken", [False, True])
def test_a_partial_day_before_the_beginning_is_open_until_it_is_whole(local: Lakes, broken: bool) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    if broken:
        local.put_spec(small("btcusdt"))
        local.put_beside(symbol_day("btcusdt"), "meta.json", b"{")
    place, now = later(local, 1), NOON_AFTER + dt.timedelta(days=1)
    compact(local, place)
    _, state = roll_up(local, place)
    assert state.catch_up_from == "20260109", "the state began with the day after"

    found = judge(state, [PAIR, Pair("okx", "trade")], now, raw=RAW)
    first, second = found.open_days
    assert (first.day, first.overdue, first.pairs) == (DAY, True, (PAIR,)), "not for a pair that nobody asked for"
    assert first.standing is (Standing.FAILED if broken else Standing.PARTIAL)
    assert second.day == DAY + dt.timedelta(days=1)
    assert "2026-01-08" in next(item.text for item in found.findings if item.name == "freshness" and not item.passed)
    request, _ = decided(state, now, Tries()).requests
    assert (request.day, request.pairs) == (DAY, (PAIR,))
    if not broken:
        [waiting] = decided(state, now, Tries(last_ended=now, last_failed=False)).decided[:1]
        assert (waiting.day, waiting.decision) == (DAY, Decision.PARTIAL)

    if broken:
        local.delete_beside(symbol_day("btcusdt"), "meta.json")
    put_windows(local)
    assert compact(local, place)["adausdt"].status is Status.SUCCESS
    rolled, state = roll_up(local, place)
    assert rolled.settled
    assert [item.day for item in judged(state, now).open_days] == [DAY + dt.timedelta(days=1)]


def test_a_seed_settles_a_partial_day_before_the_beginning_too(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    place, now = later(local, 1), NOON_AFTER + dt.timedelta(days=1)
    compact(local, place)
    _, state = roll_up(local, place)
    seeded = seed(state, DAY + dt.timedelta(days=1), now, [PAIR])
    assert judged(seeded, now).open_days == []


def test_a_partial_day_before_the_beginning_is_settled_when_it_is_given_up(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    compact(local, later(local, 1))
    _, state = roll_up(local, later(local, 1))
    compact(local, later(local, 7))
    rolled, state = roll_up(local, later(local, 7))
    assert (rolled.settled, state.open_days, state.quality) == (True, {}, None)
    compact(local, later(local, 8))
    after = asyncio.run(StateStore(local.compact).view())
    assert after is not None
    assert after.open_days == {}, "a step that meets it again makes nobody owe it"


def test_an_operator_accepts_a_partial_day(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    compact(local)
    roll_up(local)
    state = asyncio.run(accept(local.place(), DAY, "a new collector", [PAIR]))
    assert judged(state).fine
    assert state.last_compacted_date == "20260108"
    assert judged(scan(local)).fine, "and stays so at the next look"


def test_without_a_look_back_a_partial_day_is_settled_at_once(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    place = replace(local.place(), look_back_days=0)
    compact(local, place)
    rolled, _ = roll_up(local, place)
    assert (rolled.settled, rolled.status) == (True, Status.SKIPPED)


# ---- published days --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("windows", "label"), [({"bad": 3}, "BAD"), ({"partial": 17}, "PARTIAL"), ({}, "GOOD")])
def test_a_published_day_whose_windows_come_late_is_labelled_anew_and_kept(
    lakes: Lakes, windows: dict[str, int], label: str
) -> None:
    lakes.put_spec(small())
    compact(lakes)
    roll_up(lakes)
    before, data = beside(lakes, "meta.json"), lakes.get(symbol_day().key("data.parquet"))
    put_windows(lakes, **windows)
    state = scan(lakes)
    assert list(state.late_scan.stale) == [KEY]
    [text] = [finding.text for finding in judged(state).findings if not finding.passed]
    assert text == f"late parts, or another quality label: {symbol_day()}"
    outcome = compact(lakes)["adausdt"]
    assert (outcome.status, outcome.action, outcome.day_quality) == (Status.SUCCESS, Action.RELABEL, label)
    assert outcome.rows == ROWS
    after = beside(lakes, "meta.json")
    assert lakes.get(symbol_day().key("data.parquet")) == data
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"day_quality", "quality_fingerprint"}, "no new revision: a reader's cursor stays good"
    assert after["day_quality"] == beside(lakes, "quality_day.json")["day_quality"] == label
    rolled, state = roll_up(lakes)
    assert rolled.settled
    assert state.partitions[KEY].day_quality_post == label
    assert judged(state).fine
    assert compact(lakes)["adausdt"].action is Action.UP_TO_DATE


def test_the_evidence_beside_a_day_follows_windows_that_change_no_label(local: Lakes) -> None:
    put_windows(local, missing=50)
    local.put_spec(small())
    compact(local)
    assert beside(local, "quality_day.json")["windows"]["missing"] == 50
    put_windows(local)
    outcome = compact(local)["adausdt"]
    assert (outcome.action, outcome.day_quality) == (Action.RELABEL, "GOOD")
    assert beside(local, "quality_day.json")["windows"]["missing"] == 0
    assert compact(local)["adausdt"].action is Action.UP_TO_DATE


def test_late_parts_do_not_replace_a_published_day_that_is_bad_now(local: Lakes) -> None:
    local.put_spec(small())
    compact(local)
    roll_up(local)
    put_windows(local, bad=3)
    late = replace(next(generate_parts(small(seed=9))), name="part-1767999999-000001.parquet")
    local.put_raw(symbol_day(), [late])
    assert compact(local)["adausdt"].action is Action.RELABEL
    outcome = compact(local)["adausdt"]
    assert (outcome.action, outcome.rows, outcome.day_quality) == (Action.KEEP, ROWS, "BAD")
    assert judged(scan(local)).fine, "nothing is to be done, so nothing is stale"
    asked = compact(local, overwrite=True)["adausdt"]
    assert (asked.action, asked.day_quality) == (Action.BUILD, "BAD")
    assert asked.rows > ROWS


def test_a_day_of_other_software_keeps_its_label(local: Lakes) -> None:
    local.put_spec(small())
    compact(local)
    local.disown(symbol_day())
    put_windows(local, bad=3)
    before = local.compact_keys()
    outcome = compact(local)["adausdt"]
    assert (outcome.action, outcome.day_quality) == (Action.UP_TO_DATE, "GOOD")
    assert local.compact_keys() == before


def test_windows_that_the_raw_lake_has_lost_still_count(local: Lakes) -> None:
    put_windows(local, bad=1)
    local.put_spec(small())
    compact(local)
    for file in generate_windows(WindowsSpec(DAY)):
        asyncio.run(local.raw.delete(file.key))
    assert compact(local)["adausdt"].action is Action.UP_TO_DATE
    assert asyncio.run(local.place().qualities().of(DAY)).label is Label.DEGRADED
    asyncio.run(local.compact.delete(f"compacted/quality/{DAY:%Y%m%d}.json"))
    assert compact(local)["adausdt"].day_quality == "DEGRADED", "nobody knowing is no verdict"


def test_a_crash_between_evidence_and_label_is_mended(local: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put_spec(small())
    compact(local)
    put_windows(local, bad=1)
    kind = type(local.compact)
    swap = kind.compare_and_swap

    async def dies_at_the_meta(self: Store, key: str, content: bytes, etag: str | None) -> str:
        if key.endswith("meta.json"):
            raise StoreUnavailable(key, "made up")
        return await swap(self, key, content, etag)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "compare_and_swap", dies_at_the_meta)
        assert compact(local)["adausdt"].status is Status.FAILED
    assert beside(local, "quality_day.json")["day_quality"] == "DEGRADED"
    assert beside(local, "meta.json")["day_quality"] == "UNKNOWN"
    assert compact(local)["adausdt"].action is Action.RELABEL
    assert beside(local, "meta.json")["day_quality"] == "DEGRADED"


def test_other_thresholds_label_published_days_anew(local: Lakes) -> None:
    put_windows(local)
    local.put_spec(small())
    compact(local)
    strict = replace(local.place(), quality_rules=Rules.parse("bad_from_queue_pct=1"))
    assert asyncio.run(strict.qualities().of(DAY)).label is Label.BAD
    assert compact(local, strict)["adausdt"].day_quality == "BAD"
    assert beside(local, "meta.json")["post_filter_version"] == strict.quality_rules.version != "1.0.0"


# ---- what cannot be understood ---------------------------------------------------------------------------------------


def test_a_malformed_window_is_said_everywhere_and_forgotten_once_it_is_mended(lakes: Lakes) -> None:
    put_windows(lakes)
    put_window(lakes, "0915", b'{"is_partial": false}')
    lakes.put_spec(small())
    assert compact(lakes)["adausdt"].day_quality == "DEGRADED"
    assert list(beside(lakes, "quality_day.json")["unreadable_windows"]) == ["0915"]
    rolled, state = roll_up(lakes)
    assert rolled.settled
    found = judged(state)
    failed = [item for item in found.findings if not item.passed]
    assert [item.name for item in failed] == ["quality_windows_understood"]
    assert failed[0].text.startswith("2026-01-08 0915 (signals: ")
    assert found.gauges["unreadable_windows"] == 1
    asyncio.run(lakes.raw.delete(f"quality/date={DAY:%Y%m%d}/window=0915.json"))
    state = scan(lakes)
    assert state.quality is None
    compact(lakes)
    assert beside(lakes, "meta.json")["day_quality"] == "GOOD"


def test_a_finding_on_windows_ends_with_the_look_back(local: Lakes) -> None:
    put_windows(local)
    put_window(local, "0915", b"{")
    local.put_spec(small())
    compact(local)
    roll_up(local)
    assert not judged(scan(local)).fine
    state = scan(local, later(local, 7))
    assert state.quality is None


def test_a_record_of_windows_that_cannot_be_understood_fails_and_is_not_taken_for_none(local: Lakes) -> None:
    put_windows(local, bad=3)
    asyncio.run(local.compact.put(f"compacted/quality/{DAY:%Y%m%d}.json", b"{"))
    local.put_spec(small())
    with pytest.raises(MalformedObject, match="compacted/quality/20260108"):
        asyncio.run(local.place().qualities().of(DAY))
    outcome = compact(local)["adausdt"]
    assert (outcome.status, outcome.error) == (Status.FAILED, "MalformedObject")


def test_two_at_once_keep_what_both_read(local: Lakes) -> None:
    put_windows(local)

    async def both() -> None:
        await asyncio.gather(local.place().qualities().of(DAY), local.place().qualities().of(DAY))

    asyncio.run(both())
    assert len(kept(local)["windows"]) == 96
    assert kept(local)["day_quality"] == "GOOD"


def test_a_rebuilt_state_says_the_same(local: Lakes) -> None:
    put_windows(local, partial=17)
    local.put_spec(small())
    compact(local)
    _, state = roll_up(local)
    rebuilt = asyncio.run(rebuild_state(local.place(), [PAIR]))
    assert (rebuilt.open_days, rebuilt.days, rebuilt.quality) == (state.open_days, state.days, state.quality)
    assert not judged(rebuilt).fine
