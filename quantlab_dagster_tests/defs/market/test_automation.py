"""Schedule and sensor with their own contexts; catch-up from the sensor's requests to the watermark."""

from __future__ import annotations

import asyncio
import cProfile
import datetime as dt
import itertools
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs import history
from quantlab_dagster.defs.checks import NOTHING_QUARANTINED
from quantlab_dagster.defs.history import CATCH_UP_TAG, RUN_KEY_TAG, SENSOR_TAG, tries_of
from quantlab_dagster.defs.market import automation
from quantlab_dagster.defs.names import CATCH_UP_PRIORITY, DAILY_PRIORITY, HOURLY_PRIORITY, PRIORITY_TAG, compact_key
from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.lake.store.base import Store
from quantlab_dagster.market import catchup
from quantlab_dagster.market.accepting import accept
from quantlab_dagster.market.catchup import CatchUp, LookedAround, Tries
from quantlab_dagster.market.journal import JOURNAL
from quantlab_dagster.market.late import SCAN_SECONDS
from quantlab_dagster.market.settling import begin, seed
from quantlab_dagster.market.state import STATE_KEY, State
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.settings import load_settings
from quantlab_dagster.synthetic.market import DaySpec, generate_parts
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.daemon import configured_instance, dequeue, tick_sensor, workspace_of
from quantlab_dagster_tests.dead_runs import LIVING, killed, put_run
from quantlab_dagster_tests.lakes import PAIR, Lakes, symbol_day

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = dt.datetime(2026, 1, 13, 2, 30, tzinfo=dt.UTC)
PAIRS = [PAIR, Pair("binance", "trade")]


def day(number: int) -> dt.date:
    return dt.date(2026, 1, number)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lakes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo,trade",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return lakes


def put(lakes: Lakes, number: int, *, stream: str = "bbo", symbol: str = "adausdt", seed_: int = 0) -> None:
    made = DaySpec("binance", stream, symbol, day(number), parts=3, rows=60, seed=seed_)
    target = symbol_day(symbol, day(number))
    lakes.put_raw(
        target if stream == "bbo" else type(target)("binance", stream, symbol, day(number)), generate_parts(made)
    )


def state_of(lakes: Lakes) -> State:
    state = asyncio.run(StateStore(lakes.compact).view())
    assert state is not None
    return state


def set_state(lakes: Lakes, change: Any) -> None:
    asyncio.run(StateStore(lakes.compact).update(change))


def definitions(now: dt.datetime = NOW) -> dg.Definitions:
    return build_definitions(load_settings(), clock=lambda: now)


def tick(instance: dg.DagsterInstance, now: dt.datetime = NOW, cursor: str | None = None) -> dg.SensorResult:
    defs = definitions(now)
    repository = defs.get_repository_def()
    sensor = repository.get_sensor_def("catch_up")
    with dg.build_sensor_context(
        instance, cursor=cursor, repository_def=repository, resources=dict(defs.resources or {})
    ) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def tags_by_daemon(request: dg.RunRequest) -> dict[str, str]:
    """As the daemon tags the run."""
    return {**request.tags, RUN_KEY_TAG: str(request.run_key), SENSOR_TAG: "catch_up"}


def run(instance: dg.DagsterInstance, request: dg.RunRequest, now: dt.datetime = NOW) -> bool:
    result = (
        definitions(now)
        .resolve_job_def("compact_day")
        .execute_in_process(
            instance=instance,
            partition_key=request.partition_key,
            asset_selection=request.asset_selection,
            tags=tags_by_daemon(request),
            raise_on_error=False,
        )
    )
    return result.success


def requested(result: dg.SensorResult) -> list[str]:
    return [str(request.partition_key) for request in result.run_requests or ()]


def keys(request: dg.RunRequest) -> set[str]:
    """What is asked for, besides what the day is worth, which always is."""
    found = {key.to_user_string() for key in request.asset_selection or ()}
    assert "quality/day" in found
    return found - {"quality/day"}


@pytest.mark.guards("local-time", "daily-behind-backfill")
def test_the_schedule_asks_for_yesterday() -> None:
    schedule = definitions().resolve_schedule_def("daily_compaction")
    assert isinstance(schedule, dg.ScheduleDefinition)
    for moment in ("2026-01-09T02:30:00+00:00", "2026-01-09T16:30:00+14:00"):
        context = dg.build_schedule_context(
            scheduled_execution_time=dt.datetime.fromisoformat(moment),
            repository_def=definitions().get_repository_def(),
        )
        [request] = schedule.evaluate_tick(context).run_requests or ()
        assert request.partition_key == "2026-01-08"
        assert request.tags[PRIORITY_TAG] == DAILY_PRIORITY


@pytest.mark.guards("cold-start-forgotten")
def test_a_cold_start_asks_for_yesterday_only_and_remembers_it(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    for number in range(3, 13):
        put(lakes, number)
    before = tick(instance, NOW - dt.timedelta(seconds=1))
    assert requested(before) == []
    assert state_of(lakes).catch_up_from == "20260112"
    result = tick(instance)
    assert requested(result) == ["2026-01-12"]
    assert keys((result.run_requests or [])[0]) == {
        "compact/binance/bbo",
        "compact/binance/trade",
        "compact/state",
        "compact/calendar",
    }
    assert run(instance, (result.run_requests or [])[0])
    assert state_of(lakes).last_compacted_date == "20260112"
    published = [key for key in lakes.compact_keys() if key.endswith("data.parquet")]
    assert published == [symbol_day(day=day(12)).key("data.parquet")]
    after = tick(instance)
    assert requested(after) == []
    assert "everything up to 20260112 is settled" in str(after.skip_reason)
    assert (before.cursor, after.cursor) == ("settled none", "settled 20260112"), "all that the list of ticks shows"


def test_many_reasons_are_cut_short_where_they_are_shown() -> None:
    decided = CatchUp(skipped=tuple(f"2026-01-0{number}: failed" for number in range(1, 9)))
    text = automation._skip_text(begin(None, day(12), NOW, PAIRS), decided)
    assert text == "2026-01-01: failed and 7 more"


def test_a_backlog_is_worked_off_oldest_first(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    for number in (8, 9, 11, 12):  # nothing on the 10th
        put(lakes, number)
    set_state(lakes, lambda before: seed(before, day(7), NOW, PAIRS))
    asked, watermarks = [], []
    while requests := tick(instance).run_requests:
        for request in requests:
            asked.append(request.partition_key)
            assert run(instance, request)
            watermarks.append(state_of(lakes).last_compacted_date)
    assert asked == ["2026-01-08", "2026-01-09", "2026-01-10", "2026-01-11", "2026-01-12"]
    assert watermarks == ["20260108", "20260109", "20260110", "20260111", "20260112"]
    assert state_of(lakes).days["20260110"].status == "no_files"


@pytest.mark.guards("watermark-past-failure", "run-key-used-up")
def test_a_failed_day_comes_back_with_an_attempt_number_and_a_limit(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_CATCH_UP_ATTEMPTS", "2")
    put(lakes, 11)
    put(lakes, 11, stream="trade")
    put(lakes, 12)
    set_state(lakes, lambda before: seed(before, day(10), NOW, PAIRS))
    broken = symbol_day(day=day(11)).key("meta.json")
    asyncio.run(lakes.compact.put(broken, b"no json"))
    attempts = []
    for _ in range(2):
        result = tick(instance)
        request = (result.run_requests or [])[0]
        assert request.partition_key == "2026-01-11"
        attempts.append((request.run_key, request.tags["quantlab/attempt"], keys(request)))
        assert request.tags[PRIORITY_TAG] == CATCH_UP_PRIORITY
        assert not run(instance, request)
        assert state_of(lakes).days["20260111"].status == "failed"
        assert state_of(lakes).last_compacted_date == "20260110"
    everything = {"compact/binance/bbo", "compact/binance/trade", "compact/state", "compact/calendar"}
    assert attempts[0] == ("day:20260111:1", "1", everything)
    assert attempts[1] == ("day:20260111:2", "2", everything - {"compact/binance/trade"}), "trade had ended well"
    gave_up = tick(instance)
    assert requested(gave_up) == ["2026-01-12"], "later days go on"
    for request in gave_up.run_requests or ():
        run(instance, request)
    silent = tick(instance)
    assert requested(silent) == []
    assert "2026-01-11: failed 2 times" in str(silent.skip_reason)
    assert "quantlab state accept 2026-01-11" in str(silent.skip_reason)
    assert state_of(lakes).last_compacted_date == "20260110", "never past a failed day"

    # It heals, and somebody compacts it by hand: the watermark moves over both days.
    asyncio.run(lakes.compact.delete(broken))
    job = definitions().resolve_job_def("compact_day")
    assert job.execute_in_process(instance=instance, partition_key="2026-01-11").success
    assert state_of(lakes).last_compacted_date == "20260112"


@pytest.mark.guards("crash-before-roll-up")
def test_only_the_roll_up_is_asked_for_where_only_that_is_missing(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    put(lakes, 12)
    tick(instance)
    assets = [dg.AssetKey(["compact", "binance", stream]) for stream in ("bbo", "trade")]
    job = definitions().resolve_job_def("compact_day")
    assert job.execute_in_process(instance=instance, partition_key="2026-01-12", asset_selection=assets).success
    assert state_of(lakes).last_compacted_date is None
    [request] = tick(instance).run_requests or ()
    assert keys(request) == {"compact/state", "compact/calendar"}
    assert run(instance, request)
    assert state_of(lakes).last_compacted_date == "20260112"


@pytest.mark.guards("events-believed")
def test_the_roll_up_believes_the_lake_and_not_events(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    put(lakes, 12)
    tick(instance)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey(["compact", "binance", "bbo"]), partition="2026-01-12")
    )
    job = definitions().resolve_job_def("compact_day")
    alone = job.execute_in_process(
        instance=instance,
        partition_key="2026-01-12",
        asset_selection=[dg.AssetKey(["compact", "state"])],
        raise_on_error=False,
    )
    assert not alone.success
    assert state_of(lakes).last_compacted_date is None


def test_a_day_that_runs_is_left_alone(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    put(lakes, 12)
    create_run_for_test(
        instance, job_name="compact_day", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "2026-01-12"}
    )
    result = tick(instance)
    assert requested(result) == []
    assert "2026-01-12: a run is queued or running" in str(result.skip_reason)


@pytest.mark.guards("dead-run")
def test_a_day_whose_run_was_killed_is_tried_again_until_that_is_too_often(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_CATCH_UP_ATTEMPTS", "2")
    put(lakes, 12)
    tags = {"dagster/partition": "2026-01-12", CATCH_UP_TAG: "day:20260112", RUN_KEY_TAG: "day:20260112:1"}
    alive = put_run(instance, LIVING, tags=tags)
    assert "2026-01-12: a run is queued or running" in str(tick(instance).skip_reason)
    instance.delete_run(alive)
    put_run(instance, killed(), tags=tags)
    [request] = tick(instance).run_requests or ()
    assert (request.partition_key, request.run_key) == ("2026-01-12", "day:20260112:2"), "it counts as an attempt"
    put_run(instance, killed(), tags=tags)
    gave_up = tick(instance)
    assert requested(gave_up) == []
    assert "2026-01-12: failed 2 times" in str(gave_up.skip_reason)
    assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.FAILURE}


def test_late_parts_are_found_shown_and_rebuilt(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    put(lakes, 12)
    first = tick(instance)
    for request in first.run_requests or ():
        assert run(instance, request)
    put(lakes, 12, seed_=1)  # other parts of the same day
    put(lakes, 12, symbol="btcusdt")  # a symbol-day that appears only now
    soon = NOW + dt.timedelta(minutes=10)
    assert requested(tick(instance, soon)) == [], "a round begins once an hour"
    later = NOW + dt.timedelta(minutes=61)
    found = tick(instance, later, cursor=first.cursor)
    [request] = found.run_requests or ()
    assert keys(request) == {"compact/binance/bbo", "compact/state", "compact/calendar"}
    stale = {event.check_name: event for event in found.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert not stale["not_stale"].passed
    assert "binance/bbo/btcusdt/20260112" in str(stale["not_stale"].description)
    assert run(instance, request, later)
    assert state_of(lakes).late_scan.stale == {}
    assert requested(tick(instance, later)) == []


def run_pair(instance: dg.DagsterInstance, number: int) -> bool:
    """Run the pair's day without its roll-up."""
    job = definitions().resolve_job_def("compact_day")
    return job.execute_in_process(
        instance=instance, partition_key=f"{day(number)}", asset_selection=[compact_key(PAIR)], raise_on_error=False
    ).success


def shown(instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    """What Dagster shows of the pair's quarantines."""
    key = dg.AssetCheckKey(compact_key(PAIR), NOTHING_QUARANTINED)
    event = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key].evaluation
    assert isinstance(event, dg.AssetCheckEvaluation)
    return event


@pytest.mark.guards("quarantine-goes-green", "quarantine-not-acceptable")
def test_a_quarantine_stays_red_until_it_is_accepted_whatever_the_next_day_brings(
    lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    set_state(lakes, lambda before: seed(begin(before, day(10), NOW), day(10), NOW, PAIRS))
    for number in (11, 12):
        put(lakes, number)
    bad = symbol_day(day=day(11))
    (Path(lakes.raw_url) / bad.key("part-1999999999-000001.parquet")).write_bytes(b"PAR1 is no part")
    assert run_pair(instance, 11)
    assert not shown(instance).passed, "as its step says, without a roll-up"
    asked = tick(instance).run_requests or ()
    assert [request.partition_key for request in asked] == ["2026-01-11", "2026-01-12"]
    for number, request in enumerate(asked):
        assert run(instance, request)
        event = shown(instance)
        assert not event.passed, f"after {number + 1} days"
        assert bad.state_key in str(event.description)
    assert run_pair(instance, 12)
    assert not shown(instance).passed, "a day without its roll-up turns nothing green"

    asyncio.run(accept(lakes.place(now=NOW), bad, "the collector broke", PAIRS))
    assert not shown(instance).passed
    for said in tick(instance).asset_events:
        instance.report_runless_asset_event(said)
    assert shown(instance).passed, "without a run"


def test_a_roll_up_says_of_all_days_that_an_accepted_quarantine_is_none(
    lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    set_state(lakes, lambda before: seed(begin(before, day(10), NOW), day(10), NOW, PAIRS))
    bad = symbol_day(day=day(11))
    for number in (11, 12):
        put(lakes, number)
    (Path(lakes.raw_url) / bad.key("part-1999999999-000001.parquet")).write_bytes(b"PAR1 is no part")
    first, second = tick(instance).run_requests or ()
    assert run(instance, first)
    assert not shown(instance).passed
    asyncio.run(accept(lakes.place(now=NOW), bad, "the collector broke", PAIRS))
    assert run(instance, second)
    assert shown(instance).passed, "without a tick"


def no_listing_below(monkeypatch: pytest.MonkeyPatch, prefix: str, *, stuck: bool = False) -> None:
    """No store lists this any more, the journal aside: it fails, or never answers."""
    for name in ("list_objects", "list_directory"):
        original = getattr(Store, name)

        async def listing(store: Store, below: str, original: Any = original) -> Any:
            if below.startswith(prefix) and below != JOURNAL:
                if stuck:
                    await asyncio.Event().wait()
                raise StoreUnavailable(below, "the raw lake is out")
            return await original(store, below)

        monkeypatch.setattr(Store, name, listing)


def settle_two_days(lakes: Lakes) -> None:
    """The 11th is settled, the 12th open; a search for late parts is due."""
    for number in (11, 12):
        put(lakes, number)
    set_state(lakes, lambda before: seed(begin(before, day(11), NOW), day(11), NOW, PAIRS))


@pytest.mark.guards("scan-before-open")
def test_open_days_are_asked_for_although_late_parts_cannot_be_looked_for(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_two_days(lakes)
    no_listing_below(monkeypatch, "exchange=")
    result = tick(instance)
    assert requested(result) == ["2026-01-12"]
    stale = {event.check_name: event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert not stale["not_stale"].passed
    assert "could not be looked for: exchange=binance/stream=" in str(stale["not_stale"].description)
    assert not stale["no_unclaimed_raw_prefix"].passed, "nobody knows"
    create_run_for_test(
        instance, job_name="compact_day", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "2026-01-12"}
    )
    with pytest.raises(StoreUnavailable, match="the raw lake is out"):  # nothing else worked
        tick(instance)


@pytest.mark.guards("scan-before-open")
def test_open_days_are_asked_for_although_the_raw_lake_does_not_answer(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_two_days(lakes)
    monkeypatch.setattr(automation, "SCAN_SECONDS", 0.5)
    monkeypatch.setattr(catchup, "_GRACE_SECONDS", 0.5)
    no_listing_below(monkeypatch, "", stuck=True)
    began = time.monotonic()
    assert requested(tick(instance)) == ["2026-01-12"]
    assert time.monotonic() - began < 10
    assert SCAN_SECONDS <= 25, "Dagster ends a tick after a minute"


@pytest.mark.guards("scan-before-open")
def test_open_days_are_decided_before_anything_is_looked_for(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_two_days(lakes)
    order = []

    async def looked(place: Any, pairs: Any, state: State, *_: object, **__: object) -> LookedAround:  # noqa: ARG001
        order.append("looked around")
        return LookedAround(state)

    def asked(_: object, task: str) -> Tries:
        order.append(task)
        return Tries()

    monkeypatch.setattr(automation, "look_around", looked)
    monkeypatch.setattr(automation, "tries_of", asked)
    assert requested(tick(instance)) == ["2026-01-12"]
    assert order == ["day:20260112", "looked around"]


@pytest.mark.guards("outage-uses-up")
def test_a_failed_day_waits_for_its_next_attempt_and_says_until_when(
    lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    now = dt.datetime.now(dt.UTC)  # Dagster's clock says when runs end
    yesterday = now.date() - dt.timedelta(days=1 if now.time() > dt.time(2, 30) else 2)
    set_state(lakes, lambda before: seed(before, yesterday - dt.timedelta(days=1), now, PAIRS))
    lakes.put_spec(DaySpec("binance", "bbo", "adausdt", yesterday, parts=2, rows=20))
    asyncio.run(lakes.compact.put(symbol_day(day=yesterday).key("meta.json"), b"no json"))
    [request] = tick(instance, now).run_requests or ()
    assert not run(instance, request, now)
    silent = tick(instance, dt.datetime.now(dt.UTC))
    assert requested(silent) == []
    assert re.search(rf"{yesterday}: failed 1 time, tried again from [-0-9T:]+Z on", str(silent.skip_reason))
    [again] = tick(instance, dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)).run_requests or ()
    assert again.run_key == f"day:{yesterday:%Y%m%d}:2"


@pytest.mark.guards("attempts-counted-wrong")
def test_only_attempts_that_failed_are_counted_and_only_since_the_last_success(instance: dg.DagsterInstance) -> None:
    assert tries_of(instance, "day:1") == Tries()
    for status in ("FAILURE", "SUCCESS", "FAILURE", "CANCELED", "FAILURE"):
        create_run_for_test(
            instance, job_name="compact_day", status=dg.DagsterRunStatus[status], tags={CATCH_UP_TAG: "day:1"}
        )
    create_run_for_test(
        instance, job_name="compact_day", status=dg.DagsterRunStatus.FAILURE, tags={CATCH_UP_TAG: "day:2"}
    )
    tries = tries_of(instance, "day:1")
    assert (tries.last_number, tries.failed, tries.last_failed) == (0, 2, True)
    assert tries.last_ended is not None
    assert abs(tries.last_ended - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def test_the_number_of_a_run_is_larger_than_any_that_is_known(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_tried(number: str | None) -> None:
        tags = {CATCH_UP_TAG: "late:20260101:abc"}
        if number:
            tags |= {RUN_KEY_TAG: f"late:20260101:abc:{number}", SENSOR_TAG: "catch_up"}
        create_run_for_test(instance, status=dg.DagsterRunStatus.FAILURE, tags=tags)

    def last_number() -> int:
        return tries_of(instance, "late:20260101:abc").last_number

    for number in ("1", None, "2", "odd", "3"):
        put_tried(number)
    assert last_number() == 3
    for run in instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: "late:20260101:abc:1"})):
        instance.delete_run(run.run_id)
    assert last_number() == 3, "however many there are"
    monkeypatch.setattr(history, "_MOST_RECORDS", 2)
    for _ in range(3):
        put_tried(None)
    assert last_number() == 3, "runs of the command line do not hide it"
    assert tries_of(instance, "late:20260101:ab").last_number == 0


def test_deleting_old_runs_does_not_stop_a_day(lakes: Lakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Dagster's daemon: it passes over a key that a run has, and a day that asks for it again would be stuck."""
    monkeypatch.setenv("QUANTLAB_CATCH_UP_WAITS", "0")
    monkeypatch.setenv("QUANTLAB_CATCH_UP_ATTEMPTS", "9")
    put(lakes, 12)
    tick(dg.DagsterInstance.ephemeral())
    asyncio.run(lakes.compact.put(symbol_day(day=day(12)).key("meta.json"), b"no json"))
    launcher = {"module": "dagster._core.launcher.sync_in_memory_run_launcher", "class": "SyncInMemoryRunLauncher"}
    with configured_instance(run_launcher=launcher) as instance, workspace_of(instance, tmp_path, NOW) as context:
        minutes = itertools.count()

        def known() -> list[str]:
            """Keys of the known runs, after one more tick."""
            tick_sensor(context, "catch_up", dt.datetime.now(dt.UTC) + dt.timedelta(minutes=next(minutes)))
            dequeue(context)
            return sorted(run.tags[RUN_KEY_TAG] for run in instance.get_runs())

        assert [len(known()) for _ in range(3)] == [1, 2, 3]
        for run_ in instance.get_runs():
            if run_.tags[RUN_KEY_TAG] != "day:20260112:3":
                instance.delete_run(run_.run_id)
        assert known() == ["day:20260112:3", "day:20260112:4"]
        assert known() == ["day:20260112:3", "day:20260112:4", "day:20260112:5"]


@pytest.mark.guards("tick-logs")
def test_a_tick_with_nothing_to_log_leaves_no_log(lakes: Lakes, tmp_path: Path) -> None:
    """By Dagster's daemon, which makes a file for whoever only looks at the log: 2,880 of them a day."""
    put(lakes, 12)
    with configured_instance() as instance, workspace_of(instance, tmp_path, NOW) as context:

        def logs() -> list[str]:
            return [path.name for path in Path(instance.root_directory).glob("storage/*/catch_up/*")]

        now = dt.datetime.now(dt.UTC)
        tick_sensor(context, "catch_up", now)
        assert (len(instance.get_runs()), logs()) == (1, [])
        tick_sensor(context, "catch_up", now + dt.timedelta(minutes=1))
        assert len(logs()) == 1, "the run waits, which is logged"


@pytest.mark.guards("odd-name-stops-all")
def test_one_odd_symbol_stops_itself_only(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    """A directory that cannot be addressed, and a symbol-day that holds a key that cannot be: the others go on."""
    for number in (11, 12):
        put(lakes, number)
        put(lakes, number, symbol="btcusdt")
    set_state(lakes, lambda before: seed(before, day(10), NOW, PAIRS))
    (Path(lakes.raw_url) / "exchange=binance/stream=bbo/symbol=a\x01b/date=20260111").mkdir(parents=True)
    (Path(lakes.raw_url) / symbol_day("btcusdt", day(11)).key("part-\x7f.parquet")).write_bytes(b"x")
    first = tick(instance)
    requests = first.run_requests or ()
    assert [request.partition_key for request in requests] == ["2026-01-11", "2026-01-12"]
    assert [run(instance, request) for request in requests] == [False, True]
    published = [key for key in lakes.compact_keys() if key.endswith("data.parquet")]
    assert len(published) == 3, "all but that symbol-day"
    state = state_of(lakes)
    assert state.last_compacted_date == "20260110", "a day with a symbol-day that cannot be read is not settled"
    assert state.days["20260112"].status == "success"
    events = {event.check_name: event for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert "'symbol=a\\x01b'" in str(events["no_unclaimed_raw_prefix"].description)


@pytest.mark.guards("pair-never-again")
def test_a_symbol_that_came_after_its_pair_had_ended_well_is_run_again(
    lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    put(lakes, 12)
    tick(instance)
    assets = [dg.AssetKey(["compact", "binance", stream]) for stream in ("bbo", "trade")]
    job = definitions().resolve_job_def("compact_day")
    assert job.execute_in_process(instance=instance, partition_key="2026-01-12", asset_selection=assets).success
    put(lakes, 12, symbol="btcusdt")
    [request] = tick(instance).run_requests or ()
    assert keys(request) == {"compact/state", "compact/calendar"}
    assert not run(instance, request)
    assert "binance/bbo/btcusdt/20260112: not published" in str(state_of(lakes).days["20260112"].reason)
    [request] = tick(instance).run_requests or ()
    assert keys(request) == {"compact/binance/bbo", "compact/state", "compact/calendar"}
    assert run(instance, request)
    assert state_of(lakes).last_compacted_date == "20260112"


@pytest.mark.guards("unclaimed-prefix")
def test_checks_are_reported_when_they_change(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    put(lakes, 12)
    put(lakes, 12, stream="trade")
    asyncio.run(lakes.raw.put("exchange=kraken/stream=bbo/symbol=x/date=20260112/part-1-000001.parquet", b""))
    first = tick(instance)
    events = {event.check_name: event for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert not events["no_unclaimed_raw_prefix"].passed
    assert "kraken/bbo" in str(events["no_unclaimed_raw_prefix"].description)
    assert events["freshness"].passed, "it is not four o'clock"
    for event in first.asset_events:
        instance.report_runless_asset_event(event)
    assert tick(instance).asset_events == []
    late = tick(instance, NOW + dt.timedelta(hours=1, minutes=30))
    events = {event.check_name: event for event in late.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert not events["freshness"].passed
    assert "2026-01-12 should have been done by 04:00 UTC" in str(events["freshness"].description)


@pytest.mark.guards("unreadable-state-empty")
def test_a_malformed_state_fails_the_tick_and_is_named(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTLAB_METRICS_FILE", str(file := tmp_path / "q.prom"))
    asyncio.run(lakes.compact.put(STATE_KEY, b"{"))
    with pytest.raises(Exception, match=r"_state\.json"):
        tick(instance)
    assert 'quantlab_lake_fine{lake="market_data"} 0.0' in file.read_text()


@pytest.mark.slow
def test_a_tick_stays_cheap_with_years_of_history(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five years of fifteen assets: all of it settled, and then all of it open, against a deployment of yesterday.

    Calls of functions are counted: what else the machine does must not show.
    """
    monkeypatch.setenv("QUANTLAB_START_DATE", "2021-01-01")
    monkeypatch.setenv("QUANTLAB_EXCHANGES", "binance,bybit,okx")
    monkeypatch.setenv("QUANTLAB_STREAMS", "bbo,trade,mark_price,funding,open_interest")
    put(lakes, 12)

    def calls() -> int:
        tick(instance)  # what is done only once
        profile = cProfile.Profile()
        profile.runcall(tick, instance)
        return sum(entry.callcount for entry in profile.getstats())

    set_state(lakes, lambda before: begin(before, day(12), NOW))
    new = calls()
    for number in range(500):
        create_run_for_test(
            instance, job_name="compact_day", status=dg.DagsterRunStatus.SUCCESS, tags={CATCH_UP_TAG: f"old:{number}"}
        )
    set_state(lakes, lambda before: before.model_copy(update={"catch_up_from": "20210101"}))
    assert len(requested(tick(instance))) == 3
    backlog = calls()
    pairs = {str(pair): (("20210101", "20260112"),) for pair in load_settings().pairs}
    settled = {"catch_up_from": "20210101", "last_compacted_date": "20260112", "settled_pairs": pairs}
    set_state(lakes, lambda before: before.model_copy(update=settled))
    assert requested(tick(instance)) == []
    done = calls()
    assert max(backlog, done) < 5 * new, f"{backlog:,} and {done:,} calls against {new:,}"


@pytest.mark.guards("daily-behind-backfill")
def test_what_runs_by_itself_overtakes_backfills_and_yesterday_overtakes_all() -> None:
    """The queue is first come, first served, but for priorities; a backfill of years would hold yesterday up."""
    assert int(DAILY_PRIORITY) > int(HOURLY_PRIORITY) > int(CATCH_UP_PRIORITY) > 0
