"""The event lake: its grammar says the same both ways, and its hours are found whole, or the failure is told."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import shutil
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantlab_dagster.errors import PathError, StoreError, StoreUnavailable
from quantlab_dagster.lake import events
from quantlab_dagster.lake import store as module
from quantlab_dagster.lake.events import (
    ONE_HOUR,
    SLOTS,
    AppHour,
    Scope,
    find_hours,
    hour_text,
    is_compacted,
    is_event_file,
    list_hour,
    parse_hour,
)
from quantlab_dagster.lake.store import ObjectInfo, Requests, open_store
from quantlab_dagster_tests.conftest import s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.lake.test_layout import HOSTILE, names

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from quantlab_dagster.lake.store import Store
    from quantlab_dagster_tests.conftest import Rig

ON_SERVERS = pytest.mark.parametrize(
    "rig",
    [pytest.param("seaweedfs", marks=pytest.mark.server), pytest.param("ceph", marks=pytest.mark.server)],
    indirect=True,
)


def at(text: str) -> dt.datetime:
    """An hour from 2026-01-15T10, not by way of what is tested here."""
    return dt.datetime.fromisoformat(f"{text}:00:00+00:00")


HOUR = at("2026-01-15T10")
DEMO = AppHour("demo", HOUR)
IN_DEMO = "app_id=demo/year=2026/month=01/day=15/hour=10"

hours = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23)).map(  # noqa: DTZ001  # made aware below
    lambda moment: moment.replace(minute=0, second=0, microsecond=0, tzinfo=dt.UTC)
)
partitions = st.builds(AppHour, names.filter(lambda name: name not in (".", "..")), hours)


# ---- the grammar -----------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_warehouse() -> None:
    assert DEMO.prefix == f"{IN_DEMO}/"
    assert DEMO.key("events_1.parquet") == f"{IN_DEMO}/events_1.parquet"
    assert DEMO.slot_key == "_compaction/demo/2026-01-15T10.json"
    assert str(DEMO) == "demo/2026-01-15T10"
    old = AppHour("demo", at("0007-03-04T05"))
    assert old.prefix == "app_id=demo/year=0007/month=03/day=04/hour=05/"
    assert old.slot_key == "_compaction/demo/0007-03-04T05.json"


@settings(deadline=None)
@given(partitions, names)
@example(AppHour("demo", at("9999-12-31T23")), "x")
@example(AppHour("demo", at("0001-01-01T00")), "x")
@example(AppHour("_compaction", HOUR), "hour=10")
@example(AppHour("2026-01-15T10.json", HOUR), "2026-01-15T10.json")
def test_a_key_tells_its_partition(partition: AppHour, name: str) -> None:
    assert AppHour.of_key(partition.key(name)) == partition
    assert AppHour.of_slot(partition.slot_key) == partition
    assert partition.key(name) == f"{partition.prefix}{name}"
    assert AppHour.of_slot(partition.key(name)) is None
    assert AppHour.of_key(partition.slot_key) is None


@pytest.mark.parametrize("app", HOSTILE)
def test_hostile_names_stand_in_keys_literally(app: str) -> None:
    partition = AppHour(app, HOUR)
    assert partition.prefix == f"app_id={app}/year=2026/month=01/day=15/hour=10/"
    assert partition.slot_key == f"_compaction/{app}/2026-01-15T10.json"
    assert str(partition) == f"{app}/2026-01-15T10"


@settings(deadline=None)
@given(partitions, partitions)
@example(DEMO, AppHour("demo2", HOUR))
@example(DEMO, AppHour("demo", HOUR + ONE_HOUR))
@example(DEMO, AppHour("Demo", HOUR))
@example(AppHour("é", HOUR), AppHour("e\u0301", HOUR))
def test_different_partitions_never_share_keys(one: AppHour, other: AppHour) -> None:
    assert (one == other) == (one.prefix == other.prefix) == (one.slot_key == other.slot_key)
    assert one == other or not one.prefix.startswith(other.prefix)


@settings(deadline=None)
@given(names, hours, hours)
def test_keys_are_in_the_order_of_hours(app: str, one: dt.datetime, other: dt.datetime) -> None:
    first, second = sorted([AppHour(app, one), AppHour(app, other)])
    assert first.hour <= second.hour
    assert first.prefix <= second.prefix
    assert first.slot_key <= second.slot_key


def test_partitions_are_in_the_order_of_apps_first() -> None:
    later = HOUR + ONE_HOUR
    found = sorted([AppHour("b", HOUR), AppHour("é", HOUR), AppHour("a", later), AppHour("a", HOUR)])
    assert found == [AppHour("a", HOUR), AppHour("a", later), AppHour("b", HOUR), AppHour("é", HOUR)]


@pytest.mark.parametrize("app", ["", "/", "a/b", "/a", "a/", "a\nb", "\x00", "\x7f"])
def test_what_cannot_be_an_app_is_refused(app: str) -> None:
    partition = AppHour(app, HOUR)
    for name in ("prefix", "slot_key"):
        with pytest.raises(PathError, match=r"^app_id=.*cannot be a path segment") as caught:
            getattr(partition, name)
        assert caught.value.remedy
    with pytest.raises(PathError, match=r"^app_id=.*cannot be a path segment"):
        partition.key("x")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "x.parquet",
        "_compaction/demo/2026-01-15T10.json",
        IN_DEMO,
        f"/{IN_DEMO}/x",
        f"events/{IN_DEMO}/x",
        f"{IN_DEMO}/deeper/x",
        f"{IN_DEMO}//x",
        "app_id=demo//year=2026/month=01/day=15/hour=10/x",
        "app_id=/year=2026/month=01/day=15/hour=10/x",
        "app_id=a/b/year=2026/month=01/day=15/hour=10/x",
        "app_id=a\nb/year=2026/month=01/day=15/hour=10/x",
        "app_id=./year=2026/month=01/day=15/hour=10/x",
        "app_id=../year=2026/month=01/day=15/hour=10/x",
        "app=demo/year=2026/month=01/day=15/hour=10/x",
        "APP_ID=demo/year=2026/month=01/day=15/hour=10/x",
        "demo/year=2026/month=01/day=15/hour=10/x",
        "year=2026/app_id=demo/month=01/day=15/hour=10/x",
        # Unpadded, or padded too much.
        "app_id=demo/year=26/month=01/day=15/hour=10/x",
        "app_id=demo/year=02026/month=01/day=15/hour=10/x",
        "app_id=demo/year=2026/month=1/day=15/hour=10/x",
        "app_id=demo/year=2026/month=001/day=15/hour=10/x",
        "app_id=demo/year=2026/month=01/day=5/hour=10/x",
        "app_id=demo/year=2026/month=01/day=15/hour=7/x",
        "app_id=demo/year=2026/month=01/day=15/hour=010/x",
        # Hours that never were.
        "app_id=demo/year=0000/month=01/day=15/hour=10/x",
        "app_id=demo/year=2026/month=00/day=15/hour=10/x",
        "app_id=demo/year=2026/month=13/day=15/hour=10/x",
        "app_id=demo/year=2026/month=02/day=29/hour=10/x",
        "app_id=demo/year=2026/month=01/day=00/hour=10/x",
        "app_id=demo/year=2026/month=01/day=32/hour=10/x",
        "app_id=demo/year=2026/month=01/day=15/hour=24/x",
        # Without an hour, and other values.
        "app_id=demo/year=2026/month=01/day=15/x",
        "app_id=demo/year=2026/month=01/day=15/hour=/x",
        "app_id=demo/year=2026/month=01/day=15/minute=10/x",
        "app_id=demo/year=2026/month=01/day=15/hour=10:00/x",
        "app_id=demo/year=2026/month=01/day=15/hour=10Z/x",
        "app_id=demo/year=2026/month=01/day=15/hour=1000/x",
        "app_id=demo/year=2026/month=01/day=15/hour= 10/x",
        "app_id=demo/year=2026/month=01/day=15/hour=x/x",
        "app_id=demo/year=2026/month=01/day=\uff11\uff15/hour=10/x",
        "app_id=demo/year=2026/month=-01/day=15/hour=10/x",
        "app_id=demo/year=2026-/month=01/day=15/hour=10/x",
    ],
)
def test_keys_in_no_partition_are_told(key: str) -> None:
    assert AppHour.of_key(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "",
        SLOTS,
        "_compaction/demo",
        "_compaction/demo/",
        "_compaction//2026-01-15T10.json",
        "_compaction/2026-01-15T10.json",
        "_compaction/demo/deeper/2026-01-15T10.json",
        "_compaction/demo/2026-01-15T10",
        "_compaction/demo/2026-01-15T10.json.tmp",
        "_compaction/demo/2026-01-15T10.JSON",
        "_compaction/demo/2026-01-15T10.json.json",
        "_compaction/demo/2026-01-15T10Z.json",
        "_compaction/demo/2026-01-15T10:00.json",
        "_compaction/demo/2026-01-15-10:00.json",
        "_compaction/demo/2026-01-15 10.json",
        "_compaction/demo/2026011510.json",
        "_compaction/demo/2026-01-15.json",
        "_compaction/demo/2026-01-15T24.json",
        "_compaction/demo/2026-02-29T10.json",
        "_compaction/demo/2026-1-15T10.json",
        "_compaction/demo/.json",
        "_compaction/a\nb/2026-01-15T10.json",
        "_compaction/_compaction/demo/2026-01-15T10.json",
        "/_compaction/demo/2026-01-15T10.json",
        "events/_compaction/demo/2026-01-15T10.json",
        "_Compaction/demo/2026-01-15T10.json",
        "demo/2026-01-15T10.json",
    ],
)
def test_keys_of_no_slot_are_told(key: str) -> None:
    assert AppHour.of_slot(key) is None


SEGMENTS = (
    "app_id=x",
    "year=2026",
    "month=01",
    "month=02",
    "day=15",
    "day=30",
    "hour=10",
    "hour=1",
    "",
    "a",
    "=",
    "\n",
)


@settings(deadline=None)
@given(st.one_of(st.lists(st.sampled_from(SEGMENTS), max_size=7).map("/".join), st.text(max_size=20)))
@example("app_id=x/year=2026/month=01/day=15/hour=10/a")
@example("_compaction/x/2026-01-15T10.json")
def test_any_text_is_a_key_of_what_it_tells_or_of_nothing(key: str) -> None:
    partition = AppHour.of_key(key)
    assert partition is None or partition.key(key.rpartition("/")[2]) == key
    slot = AppHour.of_slot(key)
    assert slot is None or slot.slot_key == key


def test_slots_of_all_apps_can_be_stored_and_are_told_apart(rig: Rig) -> None:
    store = rig.new_store()
    # No store takes the first two, and SeaweedFS makes slashes of backslashes.
    apps = [app for app in HOSTILE if app not in (".", "..") and not (rig.name == "seaweedfs" and "\\" in app)]
    wanted = [AppHour(app, hour) for app in apps for hour in (HOUR, HOUR + ONE_HOUR)]
    put_all(store, [*(partition.slot_key for partition in wanted), f"{SLOTS}README.md"])
    found = [AppHour.of_slot(info.key) for info in run(store.list_objects(SLOTS))]
    assert found.count(None) == 1
    assert {partition for partition in found if partition} == set(wanted)


# ---- hours as texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-15T10",
        "2026-01-15T10Z",
        "2026-01-15T10:00",
        "2026-01-15T10:00Z",
        "2026-01-15 10",
        "2026-01-15 10:00",
        "2026-01-15-10",
        "2026-01-15-10:00",  # Dagster's partition key
        "2026011510",
        "2026011510Z",
        "20260115T10",
        "20260115T1000",
        "20260115T1000Z",
    ],
)
def test_an_hour_can_be_written_in_many_ways(text: str) -> None:
    assert parse_hour(text) == HOUR
    assert parse_hour(text).tzinfo is dt.UTC


@settings(deadline=None)
@given(hours)
@example(at("0001-01-01T00"))
@example(at("9999-12-31T23"))
@example(at("2028-02-29T00"))
def test_hours_can_be_written_and_read_again(hour: dt.datetime) -> None:
    text = hour_text(hour)
    assert text == hour.isoformat()[:13]
    key = f"{text[:10]}-{text[11:]}:00"
    for form in (text, f"{text}Z", f"{text}:00", text.replace("T", " "), key, re.sub(r"\D", "", text)):
        assert parse_hour(form) == hour


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-15",
        "20260115",
        "2026-01-15T",
        "2026-01",
        "2026-01-15T10:30",
        "2026-01-15-10:30",
        "2026-01-15T10:01",
        "202601151030",
        "2026-01-15T10:00:00",
        "2026-01-15T10:00+00:00",
        "2026-01-15T10+01",
        "2026-01-15T10:00:",
        "2026-01-15T10:",
        "2026-01-15T10:0",
        "2026-01-15T1",
        "2026-01-15T010",
        "202601151",
        "2026-1-15T10",
        "2026-01-5T10",
        "26-01-15T10",
        "12026-01-15T10",
        "-2026-01-15T10",
        "2026/01/15T10",
        "2026-01-15_10",
        "2026-01-15t10",
        "2026-01-15T10z",
        "2026-01-15T24",
        "2026-01-15T99",
        "2026-02-29T10",
        "2026-13-01T10",
        "2026-00-01T10",
        "2026-01-00T10",
        "2026-01-32T10",
        "0000-01-01T00",
        " 2026-01-15T10",
        "2026-01-15T10 ",
        "2026-01-15T10\n",
        "2026-01-15  10",
        "\uff12\uff10\uff12\uff16-01-15T10",
        "2026-01-15T1\u0660",
        "10",
        "now",
    ],
)
def test_what_is_no_hour_is_refused(text: str) -> None:
    with pytest.raises(PathError, match=r"is not an hour \(UTC\) as 2026-01-15T10") as caught:
        parse_hour(text)
    assert caught.value.where == text


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=16), st.text("0123456789-T: Z", max_size=18), st.from_regex(events._HOUR)))
def test_no_other_text_is_an_hour(text: str) -> None:
    try:
        hour = parse_hour(text)
    except PathError:
        return
    digits = re.sub("[^0-9]", "", text)
    assert digits in (f"{hour.year:04}{hour:%m%d%H}", f"{hour.year:04}{hour:%m%d%H}00")
    assert text.isascii()


# ---- names of files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_event", "compacted"),
    [
        ("events_0c5ab3a4.parquet", True, False),
        ("compacted_0c5ab3a4.parquet", True, True),
        ("compacted_.parquet", True, True),
        ("anything else.parquet", True, False),
        ("x.tmp.parquet", True, False),
        ("x_compacted_.parquet", True, False),
        ("Compacted_x.parquet", True, False),
        ("compacted.parquet", True, False),
        ("_compacted_x.parquet", False, False),
        (".compacted_x.parquet", False, False),
        ("compacted_x.parquet.tmp", False, True),
        ("_events.parquet", False, False),
        (".events.parquet", False, False),
        ("._events.parquet", False, False),
        (".parquet", False, False),
        ("events.parquet.crc", False, False),
        ("events.PARQUET", False, False),
        ("events.parquet ", False, False),
        ("events.csv", False, False),
        ("eventsparquet", False, False),
        ("_SUCCESS", False, False),
        ("", False, False),
    ],
)
def test_files_are_told_by_their_names(name: str, is_event: bool, compacted: bool) -> None:
    assert is_event_file(name) is is_event
    assert is_compacted(name) is compacted


# ---- scopes ----------------------------------------------------------------------------------------------------------

BEFORE, AFTER = HOUR - ONE_HOUR, HOUR + ONE_HOUR


@pytest.mark.parametrize(
    ("scope", "inside"),
    [
        (Scope(), True),
        (Scope(("demo",)), True),
        (Scope(("a", "demo")), True),
        (Scope(("dem",)), False),
        (Scope(("demo2", "Demo")), False),
        (Scope((), HOUR, HOUR), True),
        (Scope((), BEFORE, AFTER), True),
        (Scope((), HOUR), True),
        (Scope((), AFTER), False),
        (Scope((), None, HOUR), True),
        (Scope((), None, BEFORE), False),
        (Scope(("demo",), AFTER), False),
        (Scope(("a",), HOUR, HOUR), False),
    ],
)
def test_a_scope_has_an_hour_or_not(scope: Scope, inside: bool) -> None:
    assert (DEMO in scope) is inside
    assert scope.reaches(HOUR, HOUR) is (inside or "a" in scope.apps or "dem" in scope.apps or "Demo" in scope.apps)


# Few enough to meet often, on both sides of a year's end.
near = st.integers(0, 12).map(lambda number: at("2025-12-31T18") + number * ONE_HOUR)
scopes = st.builds(Scope, st.sets(st.sampled_from("abc")).map(tuple), st.none() | near, st.none() | near)


@settings(deadline=None)
@given(scopes, st.sampled_from("abc"), near, near)
def test_until_takes_away_what_comes_after(scope: Scope, app: str, hour: dt.datetime, last: dt.datetime) -> None:
    partition = AppHour(app, hour)
    assert (partition in scope.until(last)) == (partition in scope and hour <= last)
    assert scope.until(last).until(last) == scope.until(last)


@settings(deadline=None)
@given(scopes.filter(lambda scope: not (scope.first and scope.last and scope.first > scope.last)), near, near)
def test_a_scope_reaches_where_it_has_an_hour(scope: Scope, one: dt.datetime, other: dt.datetime) -> None:
    low, high = sorted([one, other])
    anywhere = replace(scope, apps=())
    between = [AppHour("a", low + number * ONE_HOUR) for number in range((high - low) // ONE_HOUR + 1)]
    assert scope.reaches(low, high) == any(partition in anywhere for partition in between)


# ---- finding hours ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.new_store()


def put_all(store: Store, keys: Iterable[str]) -> None:
    async def put() -> None:
        gate = asyncio.Semaphore(32)

        async def one(key: str) -> None:
            async with gate:
                await store.put(key, key.encode())

        await asyncio.gather(*(one(key) for key in keys))

    run(put())
    store.requests = Requests()


def found_in(store: Store, scope: Scope = Scope()) -> dict[AppHour, list[ObjectInfo]]:  # noqa: B008  # frozen
    return dict(sorted(run(all_hours(store, scope))))


async def all_hours(store: Store, scope: Scope) -> list[tuple[AppHour, list[ObjectInfo]]]:
    return [item async for item in find_hours(store, scope)]


def keys_of(found: dict[AppHour, list[ObjectInfo]]) -> dict[AppHour, list[str]]:
    return {partition: [info.key for info in files] for partition, files in found.items()}


FOREIGN = [
    "README.md",
    "x.parquet",
    "_compaction/demo/2026-01-15T10.json",
    "_compaction/x.parquet",
    "other/x.parquet",
    f"events/{IN_DEMO}/x.parquet",
    "app_id=/year=2026/month=01/day=15/hour=10/x.parquet",
    "App_id=demo/year=2026/month=01/day=15/hour=10/x.parquet",
    # Beside the directories of each level.
    "app_id=demo/x.parquet",
    "app_id=demo/year=2026/x.parquet",
    "app_id=demo/year=2026/month=01/x.parquet",
    "app_id=demo/year=2026/month=01/day=15/x.parquet",
    "app_id=demo/year=2026/month=01/day=15/hour=12.parquet",
    "app_id=demo/latest/month=01/day=15/hour=10/x.parquet",
    "app_id=demo/month=01/year=2026/day=15/hour=10/x.parquet",
    # Directories that look like those of an hour.
    "app_id=demo/year=26/month=01/day=15/hour=10/x.parquet",
    "app_id=demo/year=02026/month=01/day=15/hour=10/x.parquet",
    "app_id=demo/year=0000/month=01/day=15/hour=10/x.parquet",
    "app_id=demo/year=10000/month=01/day=15/hour=10/x.parquet",
    "app_id=demo/year=x/month=01/day=15/hour=10/x.parquet",
    "app_id=demo/year=2026/month=1/day=15/hour=10/x.parquet",
    "app_id=demo/year=2026/month=00/day=15/hour=10/x.parquet",
    "app_id=demo/year=2026/month=13/day=15/hour=10/x.parquet",
    "app_id=demo/year=2026/month=01/day=1/hour=10/x.parquet",
    "app_id=demo/year=2026/month=01/day=00/hour=10/x.parquet",
    "app_id=demo/year=2026/month=02/day=30/hour=10/x.parquet",
    "app_id=demo/year=2026/month=01/day=\uff11\uff15/hour=10/x.parquet",
    "app_id=demo/year=2026/month=01/day=15/hour=7/x.parquet",
    "app_id=demo/year=2026/month=01/day=15/hour=24/x.parquet",
    "app_id=demo/year=2026/month=01/day=15/hour=10 (copy)/x.parquet",
    "app_id=demo/year=2026/month=01/day=15/hour=100/x.parquet",
    "app_id=demo/year=2026/month=01/day=15/minute=10/x.parquet",
    # What engines do not read, or not as part of this hour.
    f"{IN_DEMO}/deeper/x.parquet",
    f"{IN_DEMO}/deeper.parquet/x.parquet",
    f"{IN_DEMO}/_temporary/0/x.parquet",
    f"{IN_DEMO}/_x.parquet",
    f"{IN_DEMO}/.hidden.parquet",
    f"{IN_DEMO}/x.parquet.tmp",
    f"{IN_DEMO}/x.txt",
    f"{IN_DEMO}/_SUCCESS",
]


def test_hours_are_found_with_their_files_and_nothing_else(store: Store) -> None:
    wanted = {
        DEMO: ["events_b.parquet", "events_a.parquet", "compacted_c.parquet", "B.parquet", "é.parquet", "z.parquet"],
        AppHour("demo", at("2026-01-15T11")): ["events_a.parquet"],
        AppHour("demo", at("2026-01-15T07")): ["events_a.parquet"],
        AppHour("demo", at("2026-02-28T23")): ["events_a.parquet"],
        AppHour("demo", at("2025-12-31T23")): ["events_a.parquet"],
        AppHour("a", HOUR): ["1.parquet", "2.parquet"],
        AppHour("ab", HOUR): ["3.parquet"],
        AppHour("ab", at("0999-01-01T00")): ["4.parquet"],
    }
    put_all(store, FOREIGN)
    assert found_in(store) == {}
    for partition in wanted:
        assert run(list_hour(store, partition)) == []

    put_all(store, [partition.key(name) for partition, files in wanted.items() for name in files])
    run(store.compare_and_swap("_compaction/demo/2026-01-15T11.json", b"", None))  # makes lock files on directories
    found = found_in(store)
    in_order = {one: sorted((one.key(name) for name in files), key=str.encode) for one, files in wanted.items()}
    assert keys_of(found) == in_order
    assert list(found) == sorted(wanted)
    everything = {info.key: info for info in run(store.list_objects(""))}
    for partition, files in found.items():
        assert files == [everything[info.key] for info in files]
        assert all(info.size_bytes == len(info.key.encode()) and info.etag for info in files)
        assert run(list_hour(store, partition)) == files


def test_hours_are_found_whatever_the_names_of_apps_and_files(rig: Rig, store: Store) -> None:
    apps = [app for app in HOSTILE if app not in (".", "..") and not (rig.name == "seaweedfs" and "\\" in app)]
    wanted = {AppHour(app, HOUR): AppHour(app, HOUR).key(f"x{app}.parquet") for app in apps}
    put_all(store, wanted.values())
    found = found_in(store)
    assert keys_of(found) == {partition: [key] for partition, key in wanted.items()}
    assert list(found) == sorted(found)
    for partition, files in found.items():
        assert run(list_hour(store, partition)) == files
        assert found_in(store, Scope((partition.app,))) == {partition: files}


def test_an_empty_lake_has_no_hours(store: Store) -> None:
    assert found_in(store) == {}
    assert store.requests.by_kind() == {"LIST": 1}
    assert run(list_hour(store, DEMO)) == []
    put_all(store, [DEMO.key("x.parquet")])
    run(store.delete(DEMO.key("x.parquet")))
    assert found_in(store) == {}


EDGES = [
    "0001-01-01T00",
    "2025-12-31T23",
    "2026-01-01T00",
    "2026-01-31T23",
    "2026-02-01T00",
    "2028-02-29T11",
    "2028-02-29T12",
    "2028-12-31T23",
    "9998-12-31T23",
]


def test_a_scope_loses_nothing_at_the_edges_of_days_months_and_years(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    wanted = [AppHour(app, at(edge)) for app in ("a", "b") for edge in EDGES]
    put_all(store, [partition.key("x.parquet") for partition in wanted])
    ends = [None, *map(at, EDGES)]
    for first in ends:
        for last in ends:
            scope = Scope((), first, last)
            assert list(found_in(store, scope)) == [one for one in wanted if one in scope], scope
    scope = Scope(("b",), wanted[1].hour, wanted[3].hour)
    assert list(found_in(store, scope)) == [AppHour("b", at(edge)) for edge in EDGES[1:4]]


@pytest.mark.parametrize("edge", ["9999-01-01T00", "9999-11-30T23", "9999-12-31T23"])
def test_the_last_year_has_hours_too(tmp_path: Path, edge: str) -> None:
    store = open_store(str(tmp_path))
    put_all(store, [AppHour("a", at(edge)).key("x.parquet")])
    assert list(found_in(store)) == [AppHour("a", at(edge))]


@pytest.mark.parametrize("level", ["year", "month", "day"])
def test_a_directory_of_a_very_large_number_hides_nothing(tmp_path: Path, level: str) -> None:
    store = open_store(str(tmp_path))
    put_all(store, [DEMO.key("x.parquet"), re.sub(rf"{level}=\d+", f"{level}={10**20}", DEMO.key("x.parquet"))])
    assert list(found_in(store)) == [DEMO]


# ---- what finding costs ----------------------------------------------------------------------------------------------


def test_finding_costs_by_days_not_by_hours_or_files(store: Store) -> None:
    def cost(scope: Scope = Scope()) -> int:  # noqa: B008  # frozen
        store.requests = Requests()
        found_in(store, scope)
        assert set(store.requests.by_kind()) == {"LIST"}
        return store.requests.total

    day = at("2026-01-15T00")
    put_all(store, [AppHour("a", day).key("1.parquet")])
    assert cost() == 5  # the root, an app, a year, a month, a day
    put_all(
        store, [AppHour("a", day + number * ONE_HOUR).key(f"{n}.parquet") for number in range(24) for n in range(3)]
    )
    assert cost() == 5
    put_all(store, [AppHour("a", at(f"2026-01-{number}T23")).key("1.parquet") for number in (16, 17, 18)])
    assert cost() == 8
    put_all(store, [AppHour("a", at(edge)).key("1.parquet") for edge in ("2026-02-01T00", "2027-01-15T10")])
    assert cost() == 8 + 2 + 3
    put_all(store, [AppHour("ab", day).key("1.parquet")])
    assert cost() == 13 + 4

    assert cost(Scope(("ab",))) == 5
    assert cost(Scope(("a",))) == 13
    assert cost(Scope(("a",), day, day)) == 5
    assert cost(Scope(("a",), at("2026-01-15T23"), at("2026-01-16T00"))) == 6
    assert cost(Scope(("a",), at("2026-01-18T23"), at("2026-02-01T00"))) == 7
    assert cost(Scope(("a",), None, at("2026-01-17T00"))) == 7
    assert cost(Scope(("a",), at("2026-02-01T00"))) == 3 + 1 + 1 + 2 + 1
    assert cost(Scope(("a",), at("2030-01-01T00"))) == 2
    assert cost(Scope(("none",))) == 1

    store.requests = Requests()
    assert len(run(list_hour(store, AppHour("a", day)))) == 3
    assert store.requests.by_kind() == {"LIST": 1}


def test_directories_that_can_hold_no_hour_are_not_looked_into(store: Store) -> None:
    put_all(
        store,
        [
            "other/x.parquet",
            "year=2026/x.parquet",
            "_compaction/demo/2026-01-15T10.json",
            "app_id=/x.parquet",
            "app_id=demo/latest/x.parquet",
            "app_id=demo/day=15/x.parquet",
            "app_id=demo/year=x/x.parquet",
            "app_id=demo/year=0000/x.parquet",
            "app_id=demo/year=2026/_temporary/x.parquet",
            "app_id=demo/year=2026/month=13/x.parquet",
            "app_id=demo/year=2026/month=02/day=29/hour=10/x.parquet",
            "app_id=demo/year=2026/month=02/hour=10/x.parquet",
        ],
    )
    assert found_in(store) == {}
    assert store.requests.by_kind() == {"LIST": 4}  # the root, demo, 2026, February


@ON_SERVERS
def test_only_what_is_asked_for_is_listed(rig: Rig) -> None:
    assert rig.server is not None
    url = rig.new_url()
    others = ["2025-01-15T10", "2026-02-15T10", "2026-01-14T10", "2026-01-16T10", "2026-01-15T09"]
    wanted = [DEMO, *(AppHour("demo", at(text)) for text in others), AppHour("demo2", HOUR)]
    put_all(rig.store(url), [partition.key("x.parquet") for partition in wanted])
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(url, replace(s3_options(rig.server), endpoint_url=proxy.url))
        assert list(found_in(store, Scope(("demo",), HOUR, HOUR))) == [DEMO]
        run(list_hour(store, DEMO))
        root = url.removeprefix("s3://").partition("/")[2]
        walked = ["", "app_id=demo/", "app_id=demo/year=2026/", "app_id=demo/year=2026/month=01/"]
        listed = ["app_id=demo/year=2026/month=01/day=15/", DEMO.prefix]
        prefixes = [one.target.partition("prefix=")[2] for one in proxy.seen]
        assert prefixes == [f"{root}/{prefix}" for prefix in walked + listed]
        assert ["delimiter=/" in one.target for one in proxy.seen] == [True] * 4 + [False] * 2
        assert {(one.method, one.result) for one in proxy.seen} == {("GET", 200)}


def test_listings_run_side_by_side_but_not_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_LISTINGS_AT_ONCE", 4)
    store = open_store(str(tmp_path))
    wanted = [AppHour(f"{number:02}", HOUR) for number in range(20)]
    put_all(store, [partition.key("x.parquet") for partition in wanted])
    under_way, at_once = 0, []

    def counted(name: str) -> None:
        listing = getattr(store, name)

        async def one(prefix: str) -> object:
            nonlocal under_way
            under_way += 1
            at_once.append(under_way)
            await asyncio.sleep(0.001)
            try:
                return await listing(prefix)
            finally:
                under_way -= 1

        monkeypatch.setattr(store, name, one)

    counted("list_directory")
    counted("list_objects")
    assert list(found_in(store)) == wanted
    assert len(at_once) == 1 + 20 * 4
    assert max(at_once) == 4


# ---- failures --------------------------------------------------------------------------------------------------------

LEVELS = {
    "root": r"prefix=[^=]*$",
    "app": "/app_id=b/$",
    "year": "/app_id=b/year=2026/$",
    "month": "/app_id=b/year=2026/month=01/$",
    "day": "/app_id=b/year=2026/month=01/day=15/$",
}


@ON_SERVERS
def test_a_failure_is_never_taken_for_emptiness(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 0.01)
    assert rig.server is not None
    url = rig.new_url()
    wanted = [AppHour("a", HOUR), AppHour("b", HOUR), AppHour("b", at("2026-01-16T10")), AppHour("c", HOUR)]
    put_all(rig.store(url), [partition.key("x.parquet") for partition in wanted])
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(url, replace(s3_options(rig.server, retries=1), endpoint_url=proxy.url))
        for level, path in LEVELS.items():
            for lasting in (proxy.fail(503, "GET", path, times=None), proxy.reset("GET", path, times=None)):
                with pytest.raises(StoreUnavailable) as caught:
                    found_in(store)
                assert lasting.fired, level
                assert caught.value.remedy
                lasting.end()
            passing = proxy.fail(503, "GET", path)
            assert list(found_in(store)) == wanted
            assert passing.fired == 1, level
        # What is not in the scope may fail.
        elsewhere = proxy.fail(503, "GET", LEVELS["app"], times=None)
        assert list(found_in(store, Scope(("a", "c")))) == [wanted[0], wanted[3]]
        assert elsewhere.fired == 0
        elsewhere.end()

        proxy.fail(503, "GET", "/hour=10/$", times=None)
        with pytest.raises(StoreUnavailable):
            run(list_hour(store, DEMO))


@ON_SERVERS
def test_one_failure_does_not_wait_for_the_other_listings(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 0.01)
    assert rig.server is not None
    url = rig.new_url()
    put_all(rig.store(url), [AppHour(app, HOUR).key("x.parquet") for app in ("a", "b")])
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(url, replace(s3_options(rig.server, retries=0), endpoint_url=proxy.url))
        proxy.stall("GET", "/app_id=a/year=2026/month=01/day=15/$")
        proxy.fail(503, "GET", "/app_id=b/year=2026/month=01/day=15/$", times=None)
        with pytest.raises(StoreUnavailable):
            run(asyncio.wait_for(all_hours(store, Scope()), 20))


def test_a_lake_that_has_gone_is_no_empty_one(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"), create=True)
    put_all(store, [DEMO.key("x.parquet")])
    assert list(found_in(store)) == [DEMO]
    shutil.rmtree(tmp_path / "lake")
    with pytest.raises(StoreError, match="has gone"):
        found_in(store)
    with pytest.raises(StoreError, match="has gone"):
        run(list_hour(store, DEMO))
