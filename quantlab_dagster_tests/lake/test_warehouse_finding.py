"""Finding the hours of the event lake: all of them, nothing else, at what cost, and what a failure does."""

from __future__ import annotations

import asyncio
import errno
import re
import shutil
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from quantlab_dagster.errors import StoreError, StoreUnavailable, TableFormat, UnaddressableKey
from quantlab_dagster.lake import warehouse
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.local import local_store
from quantlab_dagster.lake.store.objects import ObjectInfo, Requests
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.tables import SURELY, table_of_key
from quantlab_dagster.lake.warehouse import (
    ONE_HOUR,
    AppHour,
    Scope,
    Told,
    find_apps,
    find_hours,
    list_hour,
)
from quantlab_dagster_tests.conftest import s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.lake.filling import put_all
from quantlab_dagster_tests.lake.test_market import HOSTILE
from quantlab_dagster_tests.lake.test_market_finding import ON_SERVERS

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lake.test_warehouse import DEMO, HOUR, IN_DEMO, at

_PREFIX = re.compile(r"prefix=([^&]*)")


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.new_store()


def found_in(store: Store, scope: Scope = Scope()) -> dict[AppHour, list[ObjectInfo]]:  # noqa: B008  # frozen
    return dict(sorted(run(all_hours(store, scope))))


async def all_hours(store: Store, scope: Scope) -> list[tuple[AppHour, list[ObjectInfo]]]:
    found: list[tuple[AppHour, list[ObjectInfo]]] = []

    def take(partition: AppHour, files: list[ObjectInfo] | UnaddressableKey) -> None:
        if isinstance(files, list):
            found.append((partition, files))

    await find_hours(store, scope, take, Told())
    return found


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
    "app_id=demo/year=2026/month=00/day=15/hour=10/x.parquet",
    "app_id=demo/year=2026/month=13/day=15/hour=10/x.parquet",
    "app_id=demo/year=2026/month=01/day=00/hour=10/x.parquet",
    "app_id=demo/year=2026/month=02/day=30/hour=10/x.parquet",
    "app_id=demo/year=2026/month=01/day=\uff11\uff15/hour=10/x.parquet",
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


def look_above(store: Store) -> None:
    """What lies above the lake is asked for once, and is not what the tests count."""
    run(find_apps(store))
    store.requests = Requests()


def test_an_empty_lake_has_no_hours(store: Store) -> None:
    look_above(store)
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


@pytest.mark.guards("whole-bucket-listed", "looking-costs")
def test_finding_costs_a_listing_for_each_app_and_thousand_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(scope: Scope = Scope()) -> int:  # noqa: B008  # frozen
        store.requests = Requests()
        found_in(store, scope)
        assert set(store.requests.by_kind()) == {"LIST"}
        return store.requests.total

    look_above(store)
    days = [at(f"2026-11-{number}T00") for number in (15, 16, 17, 18)] + [at("2026-12-01T00"), at("2027-01-15T10")]
    put_all(store, [AppHour("a", day + n * ONE_HOUR).key("1.parquet") for day in days for n in range(4)])
    assert cost() == 2  # the root, an app
    put_all(store, [AppHour("ab", days[0]).key("1.parquet")])
    assert cost() == 3
    assert cost(Scope(("ab",))) == 2
    assert cost(Scope(("a",), days[1], days[2])) == 2
    assert cost(Scope(("none",))) == 1
    if store.url.startswith("s3://"):
        monkeypatch.setattr(limits, "LIST_PAGE", 10)
        assert cost(Scope(("a",))) == 1 + 3
        assert cost(Scope(("a",), days[4])) == 1 + 1, "what is before is not listed"
        assert cost(Scope(("a",), days[0], days[0])) == 1 + 1, "nor what comes after"

    store.requests = Requests()
    assert len(run(list_hour(store, AppHour("a", days[0])))) == 1
    assert store.requests.by_kind() == {"LIST": 1}


ABOVE = {
    "_delta_log/00000000000000000000.json": "Delta",
    ".hoodie/hoodie.properties": "Hudi",
    "_spark_metadata/0": "Spark",
    "metadata/v1.metadata.json": "Iceberg",
    "metadata/00000-5c1a.gz.metadata.json": "Iceberg",
}


@pytest.mark.guards("table-above")
@pytest.mark.parametrize("below", ["data", "data/region=eu"])
@pytest.mark.parametrize(("key", "kind"), ABOVE.items(), ids=list(ABOVE))
def test_a_lake_within_a_table_is_refused_by_name(rig: Rig, key: str, kind: str, below: str) -> None:
    url = rig.new_url()
    put_all(rig.store(url), [key, f"{below}/{DEMO.key('x.parquet')}"])
    lake = rig.store(f"{url}/{below}")
    for _ in range(2):
        with pytest.raises(TableFormat, match=rf"{key.partition('/')[0]}.* table of {kind}") as refused:
            run(find_apps(lake))
        assert refused.value.where.rstrip("/") == f"{url}/{key.rpartition('/')[0]}"


def test_what_lies_above_a_lake_is_looked_at_once_and_a_name_alone_says_nothing(rig: Rig) -> None:
    url = rig.new_url()
    beside = ["metadata/readme.md", "metadata/deeper/v1.metadata.json.txt", "_delta_log/notes.txt", "x.json"]
    put_all(rig.store(url), [*beside, f"data/{DEMO.key('x.parquet')}"])
    lake = rig.store(f"{url}/data")
    assert run(find_apps(lake)).items == ("demo",)
    assert lake.requests.total == 1 + (0 if rig.name == "local" else 4 * url.count("/", len("s3://")) + 4)
    lake.requests = Requests()
    run(find_apps(lake))
    assert lake.requests.total == 1


def test_what_may_not_be_looked_at_above_a_lake_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = local_store(tmp_path)

    def denied(*_: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(lake, "_find_above", denied)
    assert run(find_apps(lake)).items == ()


@pytest.mark.guards("table-above")
def test_an_outage_above_a_lake_is_not_taken_for_there_being_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a table would be compacted in the one run in which its log could not be listed."""
    lake = local_store(tmp_path)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "made up")

    monkeypatch.setattr(lake, "_find_above", broken)
    with pytest.raises(StoreError):
        run(find_apps(lake))
    monkeypatch.undo()
    assert run(find_apps(lake)).items == (), "it is asked again"


@pytest.mark.guards("table-compacted")
def test_an_app_with_hudi_s_mark_in_a_partition_is_a_table(store: Store) -> None:
    put_all(store, [DEMO.key(".hoodie_partition_metadata"), DEMO.key("x.parquet")])
    told = Told()
    run(find_hours(store, Scope(), lambda *_: None, told))
    assert told.tables == {"app_id=demo/": "Hudi"}
    assert table_of_key("a/b/.hoodie_partition_metadata") == ("a/b/", "Hudi")


@pytest.mark.guards("whole-bucket-listed")
def test_slots_and_hidden_directories_are_not_looked_into(store: Store) -> None:
    put_all(store, ["_compaction/demo/2026-01-15T10.json", "_tmp/x.parquet", ".tmp/x.parquet", "README.md"])
    look_above(store)
    assert found_in(store) == {}
    assert store.requests.by_kind() == {"LIST": 1}


@pytest.mark.guards("whole-bucket-listed")
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
        asked = [(one.target, unquote(found[1])) for one in proxy.seen if (found := _PREFIX.search(one.target))]
        below = [(target, prefix) for target, prefix in asked if prefix.startswith(f"{root}/")]
        assert {prefix.rstrip("/").rpartition("/")[2] for _, prefix in asked if (_, prefix) not in below} == set(SURELY)
        assert [prefix for _, prefix in below] == [f"{root}/{p}" for p in ("", "app_id=demo/", DEMO.prefix)]
        assert ["delimiter=/" in target for target, _ in below] == [True, False, False]
        assert "start-after=" in below[1][0]
        assert {(one.method, one.result) for one in proxy.seen} == {("GET", 200)}


def test_listings_run_side_by_side_but_not_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warehouse, "_LISTINGS_AT_ONCE", 4)
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

    counted("list_objects")
    assert list(found_in(store)) == wanted
    assert len(at_once) == 20
    assert max(at_once) == 4


LEVELS = {"root": r"prefix=[^=]*$", "app": "/app_id=b/"}


@pytest.mark.guards("missing-bucket-empty")
@ON_SERVERS
def test_a_failure_is_never_taken_for_emptiness(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_WAIT_SECONDS", 0.01)
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
    monkeypatch.setattr(limits, "FIRST_WAIT_SECONDS", 0.01)
    assert rig.server is not None
    url = rig.new_url()
    put_all(rig.store(url), [AppHour(app, HOUR).key("x.parquet") for app in ("a", "b")])
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(url, replace(s3_options(rig.server, retries=0), endpoint_url=proxy.url))
        proxy.stall("GET", "/app_id=a/$")
        proxy.fail(503, "GET", "/app_id=b/$", times=None)
        with pytest.raises(StoreUnavailable):
            run(asyncio.wait_for(all_hours(store, Scope()), 20))


@pytest.mark.guards("missing-bucket-empty")
def test_a_lake_that_has_gone_is_no_empty_one(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"), create=True)
    put_all(store, [DEMO.key("x.parquet")])
    assert list(found_in(store)) == [DEMO]
    shutil.rmtree(tmp_path / "lake")
    with pytest.raises(StoreError, match="has gone"):
        found_in(store)
    with pytest.raises(StoreError, match="has gone"):
        run(list_hour(store, DEMO))
