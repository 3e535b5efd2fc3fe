"""Compare-and-swap: what servers make of it, lost answers, late arrivals, and locks of local directories."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from asyncio import run
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import ConditionalWriteUnsupported, Conflict, StoreError, StoreUnavailable
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.lake.store.objects import ObjectInfo
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.lake.store.helpers import ON_SERVERS, assert_helpful, proxied

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig


@ON_SERVERS
def test_what_each_server_makes_of_a_conditional_write(rig: Rig) -> None:
    with proxied(rig) as (proxy, _, store):
        etag = run(store.compare_and_swap("x", b"1", None))
        run(store.compare_and_swap("x", b"2", etag))
        results = [(seen.method, seen.result) for seen in proxy.seen]
    created = [("PUT", 200)]
    # Ceph refuses the right ETag in quotes; that nobody has changed the object shows only when it is read.
    updated = [("PUT", 412), ("GET", 200), ("PUT", 200)] if rig.name == "ceph" else [("PUT", 200)]
    assert results == created + updated


@ON_SERVERS
def test_a_swap_that_never_reaches_the_server_is_given_up(rig: Rig) -> None:
    for fault in ("503", "reset"):
        with proxied(rig, retries=2) as (proxy, direct, store):
            etag = run(direct.put("x", b"before"))
            rule = proxy.fail(503, "PUT", times=None) if fault == "503" else proxy.reset("PUT", times=None)
            with pytest.raises(StoreUnavailable):
                run(store.compare_and_swap("x", b"after", etag))
            assert rule.fired == 3
            with pytest.raises(StoreUnavailable):
                run(store.compare_and_swap("new", b"after", None))
            assert rule.fired == 6
            assert run(direct.get("x"))[0] == b"before"
            assert run(direct.head("new")) is None


@pytest.mark.guards("swap-fails-on-success")
@ON_SERVERS
def test_a_swap_whose_answer_is_lost_is_a_success(rig: Rig) -> None:
    # The PUT that Ceph obeys is the second one of an update.
    with proxied(rig) as (proxy, direct, store):
        lost = proxy.drop("PUT", "/created$")
        etag = run(store.compare_and_swap("created", b"1", None))
        assert run(direct.get("created")) == (b"1", ObjectInfo("created", 1, etag))
        assert (lost.fired, proxy.count("PUT")) == (1, 1)  # one write, found when read back

        lost = proxy.drop("PUT", "/created$", nth=2 if rig.name == "ceph" else 1)
        etag = run(store.compare_and_swap("created", b"2", etag))
        assert run(direct.get("created")) == (b"2", ObjectInfo("created", 1, etag))
        assert lost.fired == 1


@ON_SERVERS
def test_a_swap_overtaken_after_its_answer_was_lost_is_a_conflict(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        proxy.drop("PUT")
        reading_back = proxy.stall("GET")
        swap = pool.submit(run, store.compare_and_swap("x", b"mine", None))
        reading_back.wait()
        content, info = run(direct.get("x"))
        assert content == b"mine"
        theirs = run(direct.compare_and_swap("x", b"theirs", info.etag))
        reading_back.release()
        with pytest.raises(Conflict):
            swap.result(30)
        assert run(direct.get("x")) == (b"theirs", ObjectInfo("x", 6, theirs))


@ON_SERVERS
def test_a_swap_that_arrives_late_is_a_conflict(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        etag = run(direct.put("x", b"before"))
        late = proxy.stall("PUT")
        swap = pool.submit(run, store.compare_and_swap("x", b"mine", etag))
        late.wait()
        run(direct.compare_and_swap("x", b"theirs", etag))
        late.release()
        with pytest.raises(Conflict):
            swap.result(30)
        assert run(direct.get("x"))[0] == b"theirs"


@pytest.mark.guards("swap-fails-on-success")
@ON_SERVERS
def test_a_swap_overwritten_before_its_answer_arrives_is_a_success(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        held = proxy.stall("PUT", after_forwarding=True)
        swap = pool.submit(run, store.compare_and_swap("x", b"mine", None))
        held.wait()
        mine = run(direct.get("x"))[1].etag
        run(direct.put("x", b"theirs"))
        held.release()
        assert swap.result(30) == mine


@pytest.mark.guards("conditional-put-assumed")
@ON_SERVERS
def test_a_server_without_conditional_writes_is_found_out(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        etag = run(direct.put("x", b"before"))
        proxy.fail(412, "PUT", times=None)
        for key, expected_etag in (("x", etag), ("new", None)):
            with pytest.raises(ConditionalWriteUnsupported) as caught:
                run(store.compare_and_swap(key, b"after", expected_etag))
            assert_helpful(caught.value, store, key)
        assert run(direct.get("x"))[0] == b"before"
        assert run(direct.head("new")) is None
    with proxied(rig) as (proxy, _, store):
        proxy.fail(501, "PUT", times=None)
        with pytest.raises(StoreError, match="refused") as refused:
            run(store.compare_and_swap("new", b"after", None))
        assert not isinstance(refused.value, StoreUnavailable)


@ON_SERVERS
def test_a_write_that_collides_with_one_under_way_is_tried_again(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        rule = proxy.fail(409, "PUT")  # what AWS says then
        etag = run(store.compare_and_swap("x", b"1", None))
        assert rule.fired == 1
        rule = proxy.fail(409, "PUT")
        run(store.compare_and_swap("x", b"2", etag))
        assert rule.fired == 1
        assert run(direct.get("x"))[0] == b"2"


# ---- local directories ---------------------------------------------------------------------------------------------


def test_locks_of_local_lakes_stay_few_and_out_of_sight(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    keys = [f"{'😀' * 50}/{'é' * 100}/{number}" for number in range(100)]
    for key in keys:
        run(store.compare_and_swap(key, b"x", None))
    assert len(run(store.list_objects(""))) == len(keys)
    assert len(run(store.list_directory("")).directories) == 1
    for kind in ("lock", "put"):
        assert 0 < len(list((tmp_path / ".quantlab-locks").glob(f"*.{kind}"))) <= 64


@pytest.mark.guards("etag-returns")
def test_an_old_etag_does_not_come_back_within_a_tick_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = LocalStore.put, list[str]()

    async def put_by_a_slow_clock(self: LocalStore, key: str, content: bytes | Path) -> str:
        calls.append(key)
        await put(self, key, content)
        os.utime(tmp_path / key, (1, 1))
        info = await self.head(key)
        assert info is not None
        return info.etag

    monkeypatch.setattr(LocalStore, "put", put_by_a_slow_clock)
    store = open_store(str(tmp_path))
    etag, etags = None, set()
    for number in range(10):
        etag = run(store.compare_and_swap("x", b"%d" % number, etag))
        etags.add(etag)
    assert len(etags) == len(calls) == 10


HOLD_LOCK = """
import asyncio, sys
from quantlab_dagster.lake.store.opening import open_store

async def main():
    async with open_store(sys.argv[1])._locked("x"):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(TimeoutError):
                run(asyncio.wait_for(store.compare_and_swap("x", b"1", None), 0.2))
        finally:
            holder.kill()
    run(asyncio.wait_for(store.compare_and_swap("x", b"2", None), 10))
    assert run(store.get("x"))[0] == b"2"
