"""Discovery finds what is there, asks for no more than it must, and never takes a failure for emptiness."""

from __future__ import annotations

import datetime as dt
from asyncio import run
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import StoreError, StoreUnavailable, UnaddressableKey
from quantlab_dagster.lake.market import Found, Pair, SymbolDay, find_pairs, find_parts, find_symbols, find_symbols_of
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.conftest import RIG_BUCKET, s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.lake.filling import put_all
from quantlab_dagster_tests.lake.test_market import HOSTILE

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig

DAY = dt.date(2026, 1, 8)
PAIR = Pair("binance", "bbo")
BTC = SymbolDay("binance", "bbo", "btc", DAY)
ON_SERVERS = pytest.mark.parametrize(
    "rig",
    [pytest.param("seaweedfs", marks=pytest.mark.server), pytest.param("ceph", marks=pytest.mark.server)],
    indirect=True,
)


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.new_store()


def part(number: int) -> str:
    return f"part-{1767830426 + number}-{number:06d}.parquet"


@pytest.mark.guards("four-digit-parts")
def test_parts_are_found_in_byte_order_and_nothing_else(store: Store) -> None:
    parts = [part(2), part(10), part(1), "Part.parquet", "_part.parquet", "päth.parquet", "part-a-b.parquet"]
    others = [
        "._part-1767830426-000001.parquet",
        "part-1767830426-000003.parquet.tmp",
        "_SUCCESS",
        ".DS_Store",
        "part.csv",
        "deeper/part-1767830426-000004.parquet",
        "deeper.parquet/part-1767830426-000005.parquet",
    ]
    put_all(store, (BTC.key(name) for name in parts + others))
    found = run(find_parts(store, BTC))
    assert [info.name for info in found] == sorted(parts, key=str.encode)
    assert [info.key for info in found] == [BTC.key(name) for name in sorted(parts, key=str.encode)]
    assert all(info.size_bytes == len(info.key.encode()) for info in found)
    assert all(info.etag for info in found)


def test_parts_of_neighbours_are_not_found(store: Store) -> None:
    neighbours = [
        replace(BTC, symbol="btcusdt"),
        replace(BTC, symbol="bt"),
        replace(BTC, symbol="BTC"),
        replace(BTC, day=DAY + dt.timedelta(1)),
        replace(BTC, stream="bbo2"),
        replace(BTC, exchange="binance2"),
    ]
    put_all(store, (one.key(part(1)) for one in neighbours))
    put_all(store, [f"{BTC.prefix.removesuffix('/')}0/{part(1)}"])
    assert run(find_parts(store, BTC)) == []
    put_all(store, [BTC.key(part(7))])
    assert [info.key for info in run(find_parts(store, BTC))] == [BTC.key(part(7))]
    for one in neighbours:
        assert [info.key for info in run(find_parts(store, one))] == [one.key(part(1))]


def test_symbols_are_found_with_whatever_names(rig: Rig, store: Store) -> None:
    values = [value for value in HOSTILE if not (rig.name == "seaweedfs" and "\\" in value)]
    put_all(store, (SymbolDay("binance", "bbo", value, DAY).key(part(1)) for value in values))
    put_all(
        store,
        [
            "exchange=binance/stream=bbo/_SUCCESS",
            "exchange=binance/stream=bbo/symbol=file",
            "exchange=binance/stream=bbo/other=x/date=20260108/part.parquet",
            "exchange=binance/stream=bbo/symbol=/date=20260108/part.parquet",
            "exchange=binance/stream=bbo2/symbol=elsewhere/date=20260108/part.parquet",
        ],
    )
    assert run(find_symbols(store, PAIR)) == sorted(values, key=str.encode)
    assert run(find_symbols(store, Pair("binance", "bbo2"))) == ["elsewhere"]
    assert run(find_symbols(store, Pair("binance", "none"))) == []


def test_pairs_are_found(store: Store) -> None:
    assert run(find_pairs(store)) == Found(())
    pairs = [Pair("okx", "trade"), Pair("binance", "mark_price"), Pair("binance", "bbo"), Pair("x=y", "a b%2F")]
    put_all(store, (SymbolDay(*(pair.exchange, pair.stream), "btc", DAY).key(part(1)) for pair in pairs))
    put_all(
        store,
        [
            "quality/date=20260108/window=0000.json",
            "compacted/_state.json",
            "README.md",
            "exchange=binance/_SUCCESS",
            "exchange=binance/other=x/y",
            "exchange=empty/file",
        ],
    )
    run(store.compare_and_swap("compacted/_other.json", b"", None))  # makes lock files on local directories
    assert run(find_pairs(store)) == Found(tuple(sorted(pairs)))


@pytest.mark.guards("whole-bucket-listed")
def test_discovery_costs_by_directories_not_by_files(store: Store) -> None:
    days = [DAY + dt.timedelta(number) for number in range(20)]
    symbols = ["a", "b", "c"]
    put_all(
        store, (SymbolDay("binance", "bbo", s, day).key(part(n)) for s in symbols for day in days for n in range(3))
    )
    assert run(find_pairs(store)) == Found((PAIR,))
    assert store.requests.by_kind() == {"LIST": 2}
    assert run(find_symbols(store, PAIR)) == symbols
    assert store.requests.by_kind() == {"LIST": 3}
    assert len(run(find_parts(store, SymbolDay("binance", "bbo", "a", DAY)))) == 3
    assert store.requests.by_kind() == {"LIST": 4}
    assert run(find_parts(store, SymbolDay("binance", "bbo", "z", DAY))) == []
    assert store.requests.by_kind() == {"LIST": 5}


@pytest.mark.guards("odd-name-stops-all")
@pytest.mark.parametrize("rig", ["local", pytest.param("seaweedfs", marks=pytest.mark.server)], indirect=True)
def test_one_directory_with_an_impossible_name_hides_no_other_and_is_told(rig: Rig) -> None:
    url = rig.new_url()
    put_all(rig.store(url), [replace(BTC, symbol=symbol).key(part(1)) for symbol in ("b tc", "éth", "z")])
    odd = ["symbol=a\x7fb", "symbol=c\nd", "symbol="]
    if rig.server is None:
        odd.append("symbol=\udcff")  # a byte that is no UTF-8
        for name in odd:
            (Path(url) / PAIR.prefix / name).mkdir()
            (Path(url) / f"exchange={name}").mkdir()
    else:
        root = url.removeprefix(f"s3://{RIG_BUCKET}/")
        with closing(rig.server.client()) as client:
            for name in odd:
                client.put_object(Bucket=RIG_BUCKET, Key=f"{root}/{PAIR.prefix}{name}/x", Body=b"x")
                client.put_object(Bucket=RIG_BUCKET, Key=f"{root}/exchange={name}/x/x", Body=b"x")
    store = rig.store(url)
    symbols, told = run(find_symbols_of(store, [PAIR], at_once=2))
    assert symbols == {PAIR: ("b tc", "z", "éth")}
    assert run(find_symbols(store, PAIR)) == ["b tc", "z", "éth"]
    assert told == tuple(sorted(f"{PAIR.prefix}{name!r}" for name in odd))
    pairs = run(find_pairs(store))
    assert pairs.items == (PAIR,)
    assert pairs.odd == tuple(sorted(repr(f"exchange={name}") for name in odd if name != "symbol="))
    with pytest.raises(UnaddressableKey):
        run(store.list_names("a\x7fb/"))


def test_a_listing_that_fails_as_a_whole_is_no_odd_name(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    store = open_store(str(tmp_path / "lake"))
    (tmp_path / "lake").rmdir()
    for request in (find_pairs(store), find_symbols_of(store, [PAIR], at_once=2)):
        with pytest.raises(StoreError, match="directory has gone"):
            run(request)


@pytest.mark.guards("whole-bucket-listed")
@ON_SERVERS
def test_only_what_is_asked_for_is_listed(rig: Rig) -> None:
    assert rig.server is not None
    url = rig.new_url()
    put_all(rig.store(url), [BTC.key(part(1)), replace(BTC, day=DAY + dt.timedelta(1)).key(part(2))])
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(url, replace(s3_options(rig.server), endpoint_url=proxy.url))
        run(find_pairs(store))
        run(find_symbols(store, PAIR))
        run(find_parts(store, BTC))
        root = url.removeprefix("s3://").partition("/")[2]
        wanted = ["", "exchange=binance/", PAIR.prefix, BTC.prefix]
        assert [one.target.partition("prefix=")[2] for one in proxy.seen] == [f"{root}/{prefix}" for prefix in wanted]
        assert ["delimiter=/" in one.target for one in proxy.seen] == [True, True, True, False]
        assert {(one.method, one.result) for one in proxy.seen} == {("GET", 200)}


@pytest.mark.guards("missing-bucket-empty")
@ON_SERVERS
def test_a_failure_is_never_taken_for_emptiness(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_WAIT_SECONDS", 0.01)
    assert rig.server is not None
    url = rig.new_url()
    put_all(rig.store(url), [BTC.key(part(1)), SymbolDay("okx", "bbo", "btc", DAY).key(part(1))])
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(url, replace(s3_options(rig.server, retries=1), endpoint_url=proxy.url))
        assert len(run(find_pairs(store)).items) == 2
        proxy.fail(503, path="/exchange=okx/$", times=None)  # the second exchange of two
        proxy.reset(path="/symbol=btc/", times=None)
        proxy.fail(500, path="/stream=bbo/$", times=None)
        for request in (find_pairs(store), find_parts(store, BTC), find_symbols(store, PAIR)):
            with pytest.raises(StoreUnavailable):
                run(request)
