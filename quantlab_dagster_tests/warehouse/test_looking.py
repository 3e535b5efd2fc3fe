"""An hourly run costs what changed, not what there is; and in the end it has seen everything."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.lake.warehouse import AppHour, Scope
from quantlab_dagster.warehouse import looking
from quantlab_dagster.warehouse import sweep as sweep_module
from quantlab_dagster.warehouse.checks import EVERY_FILE_EXPLAINED, NO_UNFINISHED_PLANS
from quantlab_dagster.warehouse.judging import judge_now
from quantlab_dagster.warehouse.looking import LookRecord, read_look
from quantlab_dagster.warehouse.outcome import HourOutcome, HourStatus
from quantlab_dagster.warehouse.pack import Rules
from quantlab_dagster.warehouse.place import WarehousePlace
from quantlab_dagster.warehouse.slot import Corrupt, Input, ReplacementPlan, Slot
from quantlab_dagster.warehouse.sweep import sweep
from quantlab_dagster_tests.warehouse.event_lakes import HourRecorder
from quantlab_dagster_tests.warehouse.model_s3 import Bucket, ModelStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.warehouse.sweep import Sweep

NOW = dt.datetime(2026, 1, 15, 10, 5, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
PLAN = ReplacementPlan(
    inputs=(Input(name="a", etag="b", size_bytes=1),),
    output="c",
    upload_id="d",
    upload_etags=(),
    size_bytes=1,
    rows=1,
    sha256="e",
)


@pytest.fixture(autouse=True)
def worked_on(monkeypatch: pytest.MonkeyPatch) -> list[AppHour]:
    """No merges: what is asked for counts as done."""
    asked: list[AppHour] = []

    async def done(_place: Any, partitions: Sequence[AppHour], _listener: Any) -> list[HourOutcome]:
        asked.extend(partitions)
        return [HourOutcome(partition, HourStatus.COMPACTED) for partition in partitions]

    monkeypatch.setattr(sweep_module, "compact_hours", done)
    return asked


def filled(hours: int, apps: int) -> Bucket:
    """One output and one idle slot for each hour until the last cold one."""
    bucket, slot = Bucket(), Slot().dump()
    last = NOW.replace(minute=0) - HOUR
    for app in range(apps):
        for number in range(hours):
            partition = AppHour(f"app{app}", last - number * HOUR)
            bucket.objects[partition.key("compacted_x.parquet")] = (b"x", "etag")
            bucket.objects[partition.slot_key] = (slot, "etag")
    bucket.keys = sorted(bucket.objects)
    return bucket


def swept(bucket: Bucket, now: dt.datetime = NOW, scope: Scope = Scope(), **options: Any) -> Sweep:  # noqa: B008  # frozen
    place = WarehousePlace(ModelStore(bucket).store, Rules(), clock=lambda: now)
    return asyncio.run(sweep(place, scope, HourRecorder(), **options))


def record(bucket: Bucket) -> LookRecord:
    found, _ = asyncio.run(read_look(WarehousePlace(ModelStore(bucket).store, Rules())))
    assert found is not None
    return found


def failing(done: Sweep) -> dict[str, str]:
    return {finding.name: finding.text for finding in done.findings if not finding.passed}


def judged(bucket: Bucket, now: dt.datetime) -> dict[str, str]:
    """What `status` finds wrong."""
    place = WarehousePlace(ModelStore(bucket).store, Rules(), clock=lambda: now)
    return {finding.name: finding.text for finding in asyncio.run(judge_now(place)).findings if not finding.passed}


def late_hours(number: int) -> list[AppHour]:
    """Hours of the history."""
    last = NOW.replace(minute=0) - HOUR
    return [AppHour("app0", last - 5 * 24 * HOUR - at * HOUR) for at in range(number)]


def put_two(bucket: Bucket, partition: AppHour) -> AppHour:
    for name in ("events_a.parquet", "events_b.parquet"):
        bucket.write(partition.key(name), b"x")
    return partition


@pytest.mark.slow
@pytest.mark.guards("looking-costs")
def test_an_hourly_run_over_five_years_of_ten_apps_takes_sixty_requests_at_most() -> None:
    bucket = filled(5 * 365 * 24, 10)
    whole = swept(bucket)
    assert whole.looked_at == 5 * 365 * 24 * 10
    assert sum(whole.requests.values()) < 1000
    rounds, seen_at = 0, record(bucket).seen_whole_at
    for run in range(1, 100):
        done = swept(bucket, NOW + run * HOUR)
        assert sum(done.requests.values()) <= 60, run
        if record(bucket).seen_whole_at != seen_at:
            rounds = run
            break
    assert 40 < rounds < 80, "the whole history is looked at within some days"


@pytest.mark.guards("looking-costs")
def test_what_changed_in_the_history_is_found_within_a_round(
    monkeypatch: pytest.MonkeyPatch, worked_on: list[AppHour]
) -> None:
    monkeypatch.setattr(looking, "_PAGES", 1)
    bucket = filled(24 * 120, 2)
    swept(bucket)
    assert worked_on == []
    last = NOW.replace(minute=0) - HOUR
    late = [put_two(bucket, AppHour(f"app{app}", last - days * 24 * HOUR)) for app in (0, 1) for days in (5, 60, 119)]
    recent = put_two(bucket, AppHour("app1", last - 24 * HOUR))
    swept(bucket, NOW + HOUR)
    assert recent in worked_on, "what is recent is found at once"
    for run in range(2, 12):
        swept(bucket, NOW + run * HOUR)
    assert {*late, recent} <= {*worked_on}

    worked_on.clear()
    swept(bucket, NOW + 12 * HOUR, full=True)
    assert {*late, recent} <= {*worked_on}, "all at once if asked to"


def test_without_a_record_or_with_one_of_another_layout_everything_is_looked_at() -> None:
    bucket = filled(24 * 10, 1)
    assert swept(bucket).looked_at == 240
    assert swept(bucket, NOW + HOUR).looked_at < 60
    bucket.write(looking.LOOK_KEY, LookRecord(template="dt={Y}{m}{d}", seen_whole_at=NOW).dump())
    assert swept(bucket, NOW + 2 * HOUR).looked_at == 240
    bucket.write(looking.LOOK_KEY, b"no record")
    assert swept(bucket, NOW + 3 * HOUR).looked_at == 240


def test_work_that_is_left_over_is_not_taken_for_seen(worked_on: list[AppHour]) -> None:
    bucket = filled(24 * 10, 1)
    last = NOW.replace(minute=0) - HOUR
    old = [put_two(bucket, AppHour("app0", last - days * 24 * HOUR)) for days in (5, 6, 7)]
    assert swept(bucket, most=1).left == 2
    swept(bucket, NOW + HOUR, most=10)
    assert {*old} <= {*worked_on}


def test_a_run_that_dies_in_the_history_is_come_back_to_by_the_next(
    monkeypatch: pytest.MonkeyPatch, worked_on: list[AppHour]
) -> None:
    bucket = filled(24 * 120, 1)
    swept(bucket)
    old = put_two(bucket, AppHour("app0", NOW.replace(minute=0) - 100 * 24 * HOUR))

    async def dies(*_: object) -> list[HourOutcome]:
        bucket.write(old.slot_key, Slot(state="planned", holder="x", since=NOW, plan=PLAN).dump())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweep_module, "compact_hours", dies)
        with pytest.raises(KeyboardInterrupt):
            swept(bucket, scope=Scope((), old.hour, old.hour))
    assert record(bucket).again == (old.prefix,)
    monkeypatch.setattr(looking, "_PAGES", 0)  # not by luck
    done = swept(bucket, NOW + HOUR)
    assert old in worked_on
    assert str(old) in failing(done)[NO_UNFINISHED_PLANS], "it is said as long as it is so"
    bucket.write(old.slot_key, Slot().dump())
    assert failing(swept(bucket, NOW + 2 * HOUR)) == {}
    assert record(bucket).again == ()


@pytest.mark.guards("crash-unnoted")
@pytest.mark.parametrize("ended", [True, False], ids=["since a run that ended", "as of a record of an earlier version"])
def test_a_run_that_dies_in_a_recent_hour_is_come_back_to_however_long_nobody_is_at_work(
    monkeypatch: pytest.MonkeyPatch, worked_on: list[AppHour], ended: bool
) -> None:
    bucket = filled(24 * 10, 1)
    swept(bucket)
    swept(bucket, NOW + 10 * HOUR)
    if not ended:
        bucket.write(looking.LOOK_KEY, record(bucket).model_copy(update={"looked_at": None}).dump())
    recent = put_two(bucket, AppHour("app0", NOW.replace(minute=0) - 30 * HOUR))

    async def dies(*_: object) -> list[HourOutcome]:
        bucket.write(recent.slot_key, Slot(state="planned", holder="x", since=NOW, plan=PLAN).dump())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweep_module, "compact_hours", dies)
        with pytest.raises(KeyboardInterrupt):
            swept(bucket, NOW + 11 * HOUR)
    monkeypatch.setattr(looking, "_PAGES", 0)  # not by luck
    monday = NOW + 11 * HOUR + 72 * HOUR
    assert str(recent) in judged(bucket, monday)[NO_UNFINISHED_PLANS]
    assert str(recent) in failing(swept(bucket, monday, most=0))[NO_UNFINISHED_PLANS]
    assert record(bucket).again == (recent.prefix,)
    assert str(recent) in failing(swept(bucket, monday + HOUR))[NO_UNFINISHED_PLANS]
    assert recent in worked_on
    bucket.write(recent.slot_key, Slot().dump())
    swept(bucket, monday + 2 * HOUR)
    assert swept(bucket, monday + 3 * HOUR).looked_at == 0, "the week before is history again"
    assert record(bucket).again == ()


def test_what_came_while_nobody_was_at_work_is_looked_at_by_the_first_run(
    monkeypatch: pytest.MonkeyPatch, worked_on: list[AppHour]
) -> None:
    bucket = filled(24, 1)
    swept(bucket)
    new = put_two(bucket, AppHour("app0", NOW.replace(minute=0)))
    monkeypatch.setattr(looking, "_PAGES", 0)
    swept(bucket, NOW + 30 * 24 * HOUR)
    assert worked_on == [new]


@pytest.mark.guards("crash-unnoted")
@pytest.mark.parametrize("scope", [Scope(), Scope((), NOW - 119 * 24 * HOUR)], ids=["all of it", "a part of it"])
def test_a_catch_up_that_dies_is_seen_and_completed_however_many_hours_it_was_to_work_on(
    monkeypatch: pytest.MonkeyPatch, worked_on: list[AppHour], scope: Scope
) -> None:
    bucket = filled(24 * 120, 1)
    swept(bucket)
    for partition in late_hours(201):
        put_two(bucket, partition)

    async def dies(_place: Any, partitions: Sequence[AppHour], _listener: Any) -> list[HourOutcome]:
        assert len(partitions) == 201
        bucket.write(partitions[0].slot_key, Slot(state="planned", holder="x", since=NOW, plan=PLAN).dump())
        worked_on.append(partitions[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweep_module, "compact_hours", dies)
        with pytest.raises(KeyboardInterrupt):
            swept(bucket, scope=scope, full=True)
    [begun] = worked_on
    worked_on.clear()
    monkeypatch.setattr(looking, "_PAGES", 0)  # not by luck
    swept(bucket, NOW + HOUR, Scope((), NOW - HOUR))
    assert worked_on == [], "a run over an hour does not see it, and leaves it to the next"
    assert str(begun) in judged(bucket, NOW + HOUR)[NO_UNFINISHED_PLANS]
    assert str(begun) in failing(swept(bucket, NOW + HOUR))[NO_UNFINISHED_PLANS]
    assert begun in worked_on
    bucket.write(begun.slot_key, Slot().dump())
    swept(bucket, NOW + 2 * HOUR)
    assert record(bucket).again == ()


def test_of_hours_that_could_not_be_completed_none_is_forgotten_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket, hours = filled(24 * 120, 1), late_hours(201)
    swept(bucket)
    for partition in hours:
        bucket.write(partition.slot_key, Slot(state="planned", holder="x", since=NOW, plan=PLAN).dump())
    monkeypatch.setattr(looking, "_PAGES", 0)
    swept(bucket, NOW + HOUR, full=True)  # which completes nothing here
    assert "and 191 more" in judged(bucket, NOW + HOUR)[NO_UNFINISHED_PLANS]
    assert {*hours} == {outcome.partition for outcome in swept(bucket, NOW + 2 * HOUR).outcomes}


def test_many_hours_with_corrupt_files_do_not_make_every_run_look_at_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = filled(24 * 120, 1)
    for partition in late_hours(201):
        info = bucket.objects[partition.key("compacted_x.parquet")]
        corrupt = Corrupt(name="compacted_x.parquet", etag=info[1], reason="no Parquet file")
        bucket.write(partition.slot_key, Slot(corrupt=(corrupt,)).dump())
    swept(bucket)
    assert len(record(bucket).again) == 200
    monkeypatch.setattr(looking, "_PAGES", 0)
    assert swept(bucket, NOW + HOUR).looked_at < 60
    assert len(record(bucket).again) == 200


def test_what_the_layout_does_not_explain_stays_a_finding_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = filled(24 * 10, 1)
    bucket.write("app_id=app0/latest/x.parquet", b"x")
    assert "latest/x.parquet" in failing(swept(bucket))[EVERY_FILE_EXPLAINED]
    monkeypatch.setattr(looking, "_PAGES", 0)
    assert "latest/x.parquet" in failing(swept(bucket, NOW + HOUR))[EVERY_FILE_EXPLAINED]
    bucket.remove("app_id=app0/latest/x.parquet")
    assert failing(swept(bucket, NOW + 2 * HOUR, full=True)) == {}


@pytest.mark.guards("overlooked-lake", "looking-costs")
def test_of_many_directories_beside_the_apps_each_run_looks_into_a_few_until_all_are_seen() -> None:
    bucket = filled(24, 1)
    for number in range(200):
        bucket.write(f"a{number:03d}/readme.txt", b"x")
    whole = swept(bucket)
    assert whole.requests["LIST"] > 200
    bucket.write("a123/x.parquet", b"x")
    told = []
    for run in range(1, 43):
        done = swept(bucket, NOW + run * HOUR)
        assert sum(done.requests.values()) <= 60
        told.append("a123/x.parquet" in failing(done).get(EVERY_FILE_EXPLAINED, ""))
    assert told.index(True) == 24, "five in a run"
    assert told[24:] == [True] * 18, "it is said as long as it is there"
    bucket.remove("a123/x.parquet")
    for run in range(43, 46):
        done = swept(bucket, NOW + run * HOUR)
    assert failing(done) == {}, "and for two rounds of the history at most"


def test_more_directories_beside_the_apps_than_are_looked_into_are_a_finding() -> None:
    bucket = filled(24, 1)
    for number in range(1000):
        bucket.write(f"a{number:04d}/readme.txt", b"x")
    assert failing(swept(bucket)) == {}
    bucket.write("b/readme.txt", b"x")
    text = "1,001 directories are not of the layout, of which 1,000 at most are looked into"
    assert failing(swept(bucket, full=True)) == {EVERY_FILE_EXPLAINED: text}
