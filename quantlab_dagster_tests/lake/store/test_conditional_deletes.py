"""Deletes on condition, and how it is found out what a server makes of them."""

from __future__ import annotations

import asyncio
import time
from asyncio import run
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import obstore
import pytest

from quantlab_dagster.errors import StoreError, StoreUnavailable
from quantlab_dagster.lake.store import probing
from quantlab_dagster.lake.store.local import local_store
from quantlab_dagster.lake.store.objects import S3Options
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.lake.store.helpers import (
    CONTENT,
    NO_ETAG,
    ON_SEAWEEDFS,
    ON_SERVERS,
    PROBE,
    STAGING_FAULTS,
    assert_helpful,
    if_match_of,
    on_key,
    probes_of,
    proxied,
)

if TYPE_CHECKING:
    from pathlib import Path

    from obstore.store import ObjectStore

    from quantlab_dagster_tests.conftest import Rig


@pytest.mark.guards("drifted-retired")
@ON_SEAWEEDFS
def test_what_is_replaced_while_the_request_is_under_way_stays(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        etag = run(direct.put("m/x", b"before"))
        held = proxy.stall("DELETE", "/m/x$")
        deletion = pool.submit(run, store.delete_unchanged("m/x", etag))
        held.wait()
        run(direct.put("m/x", b"after"))
        held.release()
        assert deletion.result(30) is False
        assert run(direct.get("m/x"))[0] == b"after"


def slow_deletions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let time pass between the comparison and the deletion. Returns where it is said that there was one."""
    delete, order = obstore.delete, list[str]()

    def slow(engine: ObjectStore, key: str) -> None:
        time.sleep(0.3)
        delete(engine, key)
        order.append("deleted")

    monkeypatch.setattr(obstore, "delete", slow)
    return order


def test_local_writers_who_compare_wait_for_a_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what they write is not deleted."""
    store = open_store(str(tmp_path))
    order = slow_deletions(monkeypatch)

    async def race() -> bool:
        etag = await store.put("x", b"before")
        deletion = asyncio.create_task(store.delete_unchanged("x", etag))
        await asyncio.sleep(0.1)
        while True:
            current = await store.head("x")
            try:
                await store.compare_and_swap("x", b"after", current.etag if current else None)
                break
            except StoreError:
                continue
        order.append("written")
        return await deletion

    assert run(race()) is True
    assert order == ["deleted", "written"]
    assert run(store.get("x"))[0] == b"after"


def test_what_is_published_locally_waits_for_a_deletion(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is not deleted for what it replaced."""
    store = open_store(str(tmp_path / "lake"), create=True)
    order = slow_deletions(monkeypatch)

    async def race() -> bool:
        etag = await store.put("x", b"before")
        staged = await store.stage("x", file)
        deletion = asyncio.create_task(store.delete_unchanged("x", etag))
        await asyncio.sleep(0.1)
        assert await store.publish(staged) is not None
        order.append("published")
        return await deletion

    assert run(race()) is True
    assert order == ["deleted", "published"]
    assert run(store.get("x"))[0] == CONTENT


def test_without_an_etag_to_compare_nothing_is_sent() -> None:
    store = open_store("s3://bucket", S3Options(None, "us-east-1", "http://127.0.0.1:1", retries=0))
    for request in (store.compare_and_swap("x", b"x", ""), store.delete_unchanged("x", "")):
        with pytest.raises(StoreError, match="no ETag to compare"):
            run(request)
    assert store.requests.total == 0


@pytest.mark.guards("conditional-delete-assumed")
@ON_SERVERS
def test_whether_a_server_deletes_on_condition_is_found_out_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with proxied(rig) as (proxy, direct, store):
        etags = {key: run(direct.put(key, b"x")) for key in map(str, range(40))}

        async def delete(keys: list[str]) -> list[bool]:
            return await asyncio.gather(*(store.delete_unchanged(key, etags[key]) for key in keys))

        for keys in (list(etags)[:30], list(etags)[30:]):
            assert run(delete(keys)) == [True] * len(keys)
        assert proxy.count("PUT", PROBE) == 1
        assert run(direct.list_objects("")) == []
        assert probes_of(direct) == []
    warnings = [record.getMessage() for record in caplog.records if record.name == probing.__name__]
    if rig.name == "seaweedfs":
        assert warnings == []
        assert proxy.count("DELETE") == 42
        assert proxy.count("HEAD") == 0
    else:
        [warning] = warnings
        assert warning.startswith(f"{store.url}: this server ignores the condition")
        assert proxy.count("HEAD") == 40


@pytest.mark.guards("conditional-delete-assumed")
@ON_SEAWEEDFS
def test_a_server_that_refuses_conditional_deletes_is_looked_at_instead(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with proxied(rig) as (proxy, direct, store):
        proxy.fail(501, "DELETE", PROBE, times=None)
        etag = run(direct.put("m/x", b"x"))
        assert run(store.delete_unchanged("m/x", NO_ETAG)) is False
        assert run(store.delete_unchanged("m/x", etag)) is True
        assert proxy.count("HEAD", "/m/x$") == 2
        assert run(direct.list_objects("")) == []
        assert probes_of(direct) == []
    assert "ignores the condition" in caplog.text


@ON_SEAWEEDFS
def test_a_server_that_wants_etags_without_quotes_gets_them(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with proxied(rig) as (proxy, direct, store):
        proxy.fail(412, "DELETE", PROBE, nth=2)
        etag = run(direct.put("m/x", b"x"))
        assert run(store.delete_unchanged("m/x", etag)) is True
        assert if_match_of(store) == "{}"
        assert run(direct.list_objects("")) == []
        assert probes_of(direct) == []
    assert caplog.text == ""


@ON_SEAWEEDFS
def test_a_server_that_refuses_without_reason_is_not_obeyed(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        etag = run(direct.put("m/x", b"x"))
        proxy.fail(412, "DELETE", "/m/x$", times=None)
        with pytest.raises(StoreError, match="refuses a conditional delete although") as caught:
            run(store.delete_unchanged("m/x", etag))
        assert_helpful(caught.value, store, "m/x")
        assert run(direct.head("m/x")) is not None


@ON_SERVERS
def test_a_probe_that_fails_is_tried_again(rig: Rig) -> None:
    with proxied(rig, retries=1) as (proxy, direct, store):
        etag = run(direct.put("m/x", b"x"))
        rule = proxy.fail(503, "DELETE", PROBE, times=2)
        with pytest.raises(StoreUnavailable):
            run(store.delete_unchanged("m/x", etag))
        assert rule.fired == 2
        assert run(store.delete_unchanged("m/x", etag)) is True


@ON_SERVERS
def test_deleting_survives_faults(rig: Rig) -> None:
    ceph = rig.name == "ceph"
    with proxied(rig) as (proxy, direct, store):
        for method in ("DELETE", "HEAD") if ceph else ("DELETE",):
            for fault, make_rule in STAGING_FAULTS.items():
                for expected in (True, False):
                    key = f"{method}/{fault}/{expected}"
                    etag = run(direct.put(key, b"x"))
                    rule = make_rule(proxy, method, on_key(key))
                    assert run(store.delete_unchanged(key, etag if expected else NO_ETAG)) is expected, key
                    if ceph and method == "DELETE":  # each attempt looks first
                        done = "lost" in fault or "done" in fault
                        fired = 0 if not expected else 1 if done else None
                        assert fired is None or rule.fired == fired, key
                    else:
                        assert rule.fired == (2 if "twice" in fault else 1), key
                    assert (run(direct.head(key)) is None) is expected, key
                    rule.end()


@pytest.mark.parametrize("fault", STAGING_FAULTS)
@ON_SERVERS
def test_probing_survives_faults(rig: Rig, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    url = rig.new_url()
    for method, nth in (("PUT", 1), ("DELETE", 1), ("DELETE", 2)):
        with proxied(rig, url) as (proxy, direct, store):
            rule = STAGING_FAULTS[fault](proxy, method, PROBE)
            rule.nth = nth
            etag = run(direct.put("x", b"x"))
            assert run(store.delete_unchanged("x", NO_ETAG)) is False
            assert run(store.delete_unchanged("x", etag)) is True
            if not (rig.name == "ceph" and nth == 2):  # it is deleted by another request there
                assert rule.fired == (2 if "twice" in fault else 1), (method, nth)
            assert if_match_of(store) == ("" if rig.name == "ceph" else '"{}"')
            assert run(direct.list_objects("")) == []
            assert probes_of(direct) == []
    assert caplog.text.count("ignores the condition") == (3 if rig.name == "ceph" else 0)


def test_a_local_deletion_waits_for_those_who_hold_the_lock_and_can_be_given_up(tmp_path: Path) -> None:
    store = local_store(tmp_path)

    async def held() -> bool:
        etag = await store.put("x", b"1")
        async with store._locked("x"):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(store.delete_unchanged("x", etag), 0.1)
            deletion = asyncio.create_task(store.delete_unchanged("x", etag))
            await asyncio.sleep(0.1)
            assert not deletion.done()
            assert await store.head("x") is not None
        return await deletion

    assert run(held()) is True
    assert run(store.head("x")) is None


def test_whoever_may_read_a_lock_may_take_it(tmp_path: Path) -> None:
    """Users who share a lake make lock files that are not each other's to write."""
    store = local_store(tmp_path)
    etag = run(store.put("x", b"1"))
    lock = store._lock_of("x")
    lock.parent.mkdir(exist_ok=True)
    lock.touch(0o444)
    assert run(store.delete_unchanged("x", etag)) is True


def test_a_lock_is_never_taken_through_a_link(tmp_path: Path) -> None:
    store = local_store(tmp_path / "lake", create=True)
    etag = run(store.put("x", b"1"))
    lock = store._lock_of("x")
    lock.parent.mkdir(exist_ok=True)
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        run(store.delete_unchanged("x", etag))
    assert not (tmp_path / "elsewhere").exists()
