"""The event lake: its grammar says the same both ways, and its hours are found whole, or the failure is told."""

from __future__ import annotations

import datetime as dt
import re
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantlab_dagster.errors import PathError
from quantlab_dagster.lake import warehouse
from quantlab_dagster.lake.warehouse import (
    DEFAULT_LAYOUT,
    ONE_HOUR,
    SLOTS,
    AppHour,
    Scope,
    hour_text,
    is_compacted,
    parse_hour,
)
from quantlab_dagster_tests.lake.filling import put_all
from quantlab_dagster_tests.lake.test_market import HOSTILE, names

if TYPE_CHECKING:
    from quantlab_dagster_tests.conftest import Rig


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
        # Of the wrong width, or padded too much.
        "app_id=demo/year=26/month=01/day=15/hour=10/x",
        "app_id=demo/year=02026/month=01/day=15/hour=10/x",
        "app_id=demo/year=2026/month=001/day=15/hour=10/x",
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
        "_compaction/demo/2026-001-15T10.json",
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
@given(st.one_of(st.text(max_size=16), st.text("0123456789-T: Z", max_size=18), st.from_regex(warehouse._HOUR)))
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
    assert DEFAULT_LAYOUT.is_event_file(name) is is_event
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
