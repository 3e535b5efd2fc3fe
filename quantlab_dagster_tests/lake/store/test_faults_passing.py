"""What passes is tried again, what does not is given up; and reading and putting through bad networks."""

from __future__ import annotations

import asyncio
import os
import time
from asyncio import run
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.errors import Conflict, StoreUnavailable
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.objects import Directory, ObjectInfo
from quantlab_dagster_tests.lake.store.helpers import (
    MIB,
    ON_SEAWEEDFS,
    ON_SERVERS,
    Request,
    assert_helpful,
    listings_of,
    proxied,
    put_all,
    requests_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig
    from quantlab_dagster_tests.faults import FaultProxy, Rule

METHODS = {
    "get": "GET",
    "get_if_exists": "GET",
    "download": "GET",
    "head": "HEAD",
    "put": "PUT",
    "create": "PUT",
    "update": "PUT",
    "delete": "POST",
    "list_objects": "GET",
    "list_directory": "GET",
}


FAULTS: dict[str, Callable[[FaultProxy, str], Rule]] = {
    "500": lambda proxy, method: proxy.fail(500, method),
    "503 twice": lambda proxy, method: proxy.fail(503, method, times=2),
    "429": lambda proxy, method: proxy.fail(429, method),
    "reset": lambda proxy, method: proxy.reset(method),
    "reset twice": lambda proxy, method: proxy.reset(method, times=2),
    "answer lost": lambda proxy, method: proxy.drop(method),
    "answer cut": lambda proxy, method: proxy.truncate(method),
    "500 though done": lambda proxy, method: proxy.fail(500, method, after_forwarding=True),
}


@pytest.mark.parametrize("fault", FAULTS)
@ON_SERVERS
def test_what_passes_is_retried(rig: Rig, fault: str, tmp_path: Path) -> None:
    before = os.urandom(100_000)
    with proxied(rig) as (proxy, direct, store):
        for name, method in METHODS.items():
            etag = run(direct.put("m/x", before))
            run(direct.delete("m/new"))
            rule = FAULTS[fault](proxy, method)
            requests: dict[str, Request] = {
                **requests_of(store, "m/x", tmp_path / "copy"),
                **listings_of(store, "m/"),
                "create": lambda: store.compare_and_swap("m/new", b"x", None),
                "update": lambda: store.compare_and_swap("m/x", b"x", etag),  # noqa: B023  # used in this round only
            }
            result: Any = run(requests[name]())
            assert rule.fired == (2 if "twice" in fault else 1), name
            info = ObjectInfo("m/x", len(before), etag)
            if name in ("put", "create", "update"):
                key = "m/new" if name == "create" else "m/x"
                assert run(direct.get(key)) == (b"x", ObjectInfo(key, 1, result)), name
            elif name == "delete":
                assert run(direct.head("m/x")) is None
            elif name == "list_objects":
                assert result == [info]
            elif name == "list_directory":
                assert result == Directory((), (info,))
            elif name == "download":
                assert (result, (tmp_path / "copy").read_bytes()) == (info, before)
            else:
                assert result == (info if name == "head" else (before, info)), name


@ON_SERVERS
def test_what_does_not_pass_is_given_up(rig: Rig, tmp_path: Path) -> None:
    with proxied(rig, retries=2) as (proxy, direct, store):
        put_all(direct, "m/x")
        for fault in ("500", "reset"):
            for name, method in METHODS.items():
                rule = proxy.fail(500, method, times=None) if fault == "500" else proxy.reset(method, times=None)
                request = {**requests_of(store, "m/x", tmp_path / "copy"), **listings_of(store, "m/")}[name]
                # It is there, as reading it back shows, so these two are conflicts.
                expected = Conflict if name in ("create", "update") else StoreUnavailable
                with pytest.raises(expected) as caught:
                    run(request())
                assert_helpful(caught.value, store, "m/" if "list" in name else "m/x")
                assert rule.fired <= 3, "more than was asked for"
                rule.end()


@pytest.mark.parametrize("fault", ["begin lost", "part lost", "part reset", "end lost", "end reset", "end 500"])
@ON_SERVERS
def test_an_upload_in_parts_survives_faults(
    rig: Rig, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(limits, "PART_BYTES", 5 * MIB)
    content = os.urandom(6 * MIB)
    file = tmp_path / "data"
    file.write_bytes(content)
    with proxied(rig) as (proxy, direct, store):
        faults = {
            "begin lost": lambda: proxy.drop("POST", r"uploads"),
            "part lost": lambda: proxy.drop("PUT", r"partNumber=2"),
            "part reset": lambda: proxy.reset("PUT", r"partNumber=1"),
            "end lost": lambda: proxy.drop("POST", r"uploadId="),
            "end reset": lambda: proxy.reset("POST", r"uploadId="),
            "end 500": lambda: proxy.fail(500, "POST", r"uploadId="),
        }
        rule = faults[fault]()
        etag = run(store.put("data", file))
        assert rule.fired == 1
        assert run(direct.get("data")) == (content, ObjectInfo("data", len(content), etag))


@ON_SERVERS
def test_an_upload_in_parts_that_fails_changes_nothing(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(limits, "PART_BYTES", 5 * MIB)
    file = tmp_path / "data"
    file.write_bytes(bytes(6 * MIB))
    with proxied(rig) as (proxy, direct, store):
        run(direct.put("data", b"before"))
        proxy.fail(500, "PUT", r"partNumber=2", times=None)
        with pytest.raises(StoreUnavailable):
            run(store.put("data", file))
        assert run(direct.get("data"))[0] == b"before"
        assert len(run(direct.list_objects(""))) == 1
        assert proxy.count("DELETE", r"uploadId=") == 1  # nothing is left behind to be paid for


@pytest.mark.guards("mixed-versions")
@ON_SERVERS
def test_a_read_never_mixes_two_versions(rig: Rig, tmp_path: Path) -> None:
    old, new = os.urandom(3 * MIB), os.urandom(3 * MIB)
    for name in ("get", "download"):
        with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
            run(direct.put("x", old))
            proxy.truncate("GET")
            resumed = proxy.stall("GET", nth=2)
            reading: Future[Any] = pool.submit(run, requests_of(store, "x", tmp_path / "copy")[name]())
            resumed.wait()
            run(direct.put("x", new))
            resumed.release()
            found = reading.result(30)
            # The read that broke is done again from its beginning: the new version, and its ETag.
            content, info = found if name == "get" else ((tmp_path / "copy").read_bytes(), found)
            assert content == new
            assert info.etag == run(direct.head("x")).etag  # type: ignore[union-attr]  # it is there


@ON_SEAWEEDFS
def test_waiting_can_be_cancelled(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(direct.put("x", b"x"))
        proxy.stall(times=None)
        swap = store.compare_and_swap("new", b"x", None)
        for request in (store.get("x"), store.list_objects(""), store.put("x", b"y"), swap):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                run(asyncio.wait_for(request, 0.1))
            assert time.monotonic() - began < 10
    assert run(direct.get("x"))[0] == b"x"


@ON_SERVERS
def test_requests_are_few_and_counted(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(limits, "PART_BYTES", 5 * MIB)
    file = tmp_path / "data"
    file.write_bytes(bytes(6 * MIB))
    with proxied(rig) as (proxy, _, store):

        async def all_of_them() -> None:
            etag = await store.put("m/x", b"x")
            await store.get("m/x")
            await store.get_if_exists("m/x")
            await store.get_if_exists("m/none")
            await store.download("m/x", tmp_path / "copy")
            await store.head("m/x")
            await store.list_objects("m/")
            await store.list_directory("")
            await store.compare_and_swap("m/x", b"y", etag)
            await store.compare_and_swap("m/y", b"y", None)
            await store.put("m/big", file)
            await store.delete("m/x")

        run(all_of_them())
        seen = Counter(_kind(one.method, one.target) for one in proxy.seen)
    assert store.requests.by_kind() == dict(sorted(seen.items()))
    more = rig.name == "ceph"  # a swap takes three there, and a multipart upload comes back without an ETag
    expected = {"DELETE": 1, "GET": 4 + more, "HEAD": 1 + more, "LIST": 2, "PUT": 7 + more}
    assert store.requests.by_kind() == expected
    assert store.requests.total == sum(expected.values())


def _kind(method: str, target: str) -> str:
    if method == "GET" and "list-type=2" in target:
        return "LIST"
    if method == "POST":
        return "DELETE" if target.endswith("?delete") else "PUT"
    return method
